//! Bearer tokens of the management API.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use service::Clock;

/// How long a test's token is valid, in seconds.
const LIFETIME: i64 = 3600;

/// An HS256 token for a user, valid for an hour.
pub fn hs256(secret: &str, user: &str) -> String {
    let now = Clock::system().now().timestamp();
    hs256_with(secret, &json!({ "sub": user, "iat": now, "exp": now + LIFETIME }))
}

/// An HS256 token with any claims.
pub fn hs256_with(secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).expect("claims are JSON and the key is HS256's")
}

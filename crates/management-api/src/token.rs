//! What a bearer token says, and whether to believe it (RFC 7519, RFC 8725).

use domain::{Timestamp, UserId};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use serde::Deserialize;
use service::settings::Auth;

use crate::keys::{self, Key, KeysError};
use crate::texts::Reason;

/// Larger tokens are refused before anything of them is looked at.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Checks tokens.
pub(crate) struct Verifier {
    keys: Vec<Key>,
    expected: Expected,
}

/// What claims have to say.
struct Expected {
    issuer: Option<String>,
    audience: Option<String>,
    leeway_seconds: f64,
}

#[derive(Debug, Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn includes(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Several(several) => several.iter().any(|one| one == name),
        }
    }
}

impl Verifier {
    /// With the configured keys.
    pub(crate) fn new(auth: &Auth) -> Result<Self, KeysError> {
        let expected = Expected {
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            leeway_seconds: auth.leeway.0.as_secs_f64(),
        };
        Ok(Self { keys: keys::configured(auth)?, expected })
    }

    /// The user whom a token stands for, or why it is not believed.
    pub(crate) fn verify(&self, token: &str, now: Timestamp) -> Result<UserId, Reason> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Reason::TokenTooLarge);
        }
        // `none` and algorithms that are not JWS's do not even parse.
        let header = decode_header(token).map_err(|error| match error.kind() {
            ErrorKind::Json(_) => Reason::TokenAlgorithm,
            _ => Reason::TokenMalformed,
        })?;
        // RFC 7515 §4.1.11: an extension that has to be understood, and is not.
        if header.crit.is_some() {
            return Err(Reason::TokenMalformed);
        }
        let mut of_algorithm = self.keys.iter().filter(|key| key.algorithm == header.alg).peekable();
        if of_algorithm.peek().is_none() {
            return Err(Reason::TokenAlgorithm);
        }
        let named = |key: &&Key| match (&header.kid, &key.id) {
            (Some(wanted), Some(id)) => wanted == id,
            _ => true,
        };
        for key in of_algorithm.filter(named) {
            match decode::<Claims>(token, &key.decoding, &signature_only(key)) {
                Ok(token) => return self.expected.check(token.claims, now),
                Err(error) if is_about_the_key(error.kind()) => {}
                Err(_) => return Err(Reason::TokenMalformed),
            }
        }
        Err(Reason::TokenSignature)
    }
}

/// Claims are checked here, with the clock we are given; the library checks the signature, with the key's algorithm.
fn signature_only(key: &Key) -> Validation {
    let mut validation = Validation::new(key.algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

/// Whether another key may still fit.
fn is_about_the_key(error: &ErrorKind) -> bool {
    !matches!(error, ErrorKind::Base64(_) | ErrorKind::Json(_) | ErrorKind::Utf8(_) | ErrorKind::InvalidToken)
}

impl Expected {
    fn check(&self, claims: Claims, now: Timestamp) -> Result<UserId, Reason> {
        #[expect(clippy::cast_precision_loss, reason = "exact for 285,000 years")]
        let now = now.timestamp_millis() as f64 / 1000.0;
        let expiry = claims.exp.ok_or(Reason::TokenWithoutExpiry)?;
        if expiry + self.leeway_seconds <= now {
            return Err(Reason::TokenExpired);
        }
        if claims.nbf.is_some_and(|not_before| not_before - self.leeway_seconds > now) {
            return Err(Reason::TokenNotYetValid);
        }
        if self.issuer.is_some() && self.issuer != claims.iss {
            return Err(Reason::TokenIssuer);
        }
        if let Some(audience) = &self.audience
            && !claims.aud.is_some_and(|named| named.includes(audience))
        {
            return Err(Reason::TokenAudience);
        }
        let subject = claims.sub.ok_or(Reason::TokenSubject)?;
        UserId::parse(&subject).map_err(|_| Reason::TokenSubject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_705_314_600;

    fn expected() -> Expected {
        Expected { issuer: Some("lokroom".into()), audience: Some("webhooks".into()), leeway_seconds: 30.0 }
    }

    fn check(claims: &serde_json::Value) -> Result<UserId, Reason> {
        let now = Timestamp::from_timestamp(NOW, 0).unwrap();
        expected().check(serde_json::from_value(claims.clone()).unwrap(), now)
    }

    fn good() -> serde_json::Value {
        serde_json::json!({ "sub": "user_1", "exp": NOW + 60, "iss": "lokroom", "aud": "webhooks" })
    }

    fn with(claim: &str, value: impl Into<serde_json::Value>) -> serde_json::Value {
        let mut claims = good();
        claims[claim] = value.into();
        claims
    }

    #[test]
    fn a_token_within_its_time_for_this_service_is_believed() {
        assert_eq!(check(&good()).unwrap().as_str(), "user_1");
        for claims in [
            with("exp", NOW - 29),
            with("exp", 1_705_314_600.5),
            with("nbf", NOW + 30),
            with("aud", vec!["other", "webhooks"]),
        ] {
            assert!(check(&claims).is_ok(), "{claims}");
        }
    }

    #[test]
    fn what_claims_lack_or_get_wrong_is_told() {
        for (claims, reason) in [
            (with("exp", NOW - 30), Reason::TokenExpired),
            (with("exp", serde_json::Value::Null), Reason::TokenWithoutExpiry),
            (with("nbf", NOW + 31), Reason::TokenNotYetValid),
            (with("iss", "other"), Reason::TokenIssuer),
            (with("iss", serde_json::Value::Null), Reason::TokenIssuer),
            (with("aud", "other"), Reason::TokenAudience),
            (with("aud", Vec::<String>::new()), Reason::TokenAudience),
            (with("aud", serde_json::Value::Null), Reason::TokenAudience),
            (with("sub", serde_json::Value::Null), Reason::TokenSubject),
            (with("sub", ""), Reason::TokenSubject),
            (with("sub", "a\u{0}b"), Reason::TokenSubject),
        ] {
            assert_eq!(check(&claims), Err(reason), "{claims}");
        }
    }
}

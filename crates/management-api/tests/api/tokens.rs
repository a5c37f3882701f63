//! Which bearer tokens are believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use service::Clock;
use testkit::{ApiClient, Binary, HttpClient, Service, Stack, token};

use crate::{api_alone, problem};

/// A key of these tests alone: PKCS #1, 2048 bits.
const RSA_PRIVATE: &[u8] = include_bytes!("rsa_private.der");
const RSA_PUBLIC: &str = include_str!("rsa_public.pem");

fn now() -> i64 {
    Clock::system().now().timestamp()
}

fn claims() -> Value {
    json!({ "sub": "user_1", "exp": now() + 60, "iss": "https://lokroom.com", "aud": "webhooks" })
}

fn with(claim: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[claim] = value.into();
    claims
}

fn without(claim: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(claim);
    claims
}

/// A token of three parts as they are given.
fn assembled(header: &Value, claims: &Value, signature: &str) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", encode(header), encode(claims))
}

/// Asserts that a token is refused as RFC 6750 wants it, with this code.
async fn refused(api: &ApiClient, token: &str, code: &str) {
    let answer = api.clone().bearer(token).get("/api/webhooks").await;
    let challenge = answer.header("www-authenticate").unwrap_or_default().to_owned();
    assert!(challenge.starts_with("Bearer realm="), "{challenge}");
    assert!(challenge.contains(r#"error="invalid_token""#), "{challenge}");
    assert_eq!(problem(answer, 401), code);
}

#[tokio::test]
async fn a_call_without_a_token_is_challenged() {
    let stack = api_alone().await;
    for header in [None, Some("Basic dXNlcjpwYXNz"), Some("Bearer"), Some("Bearer ")] {
        let api = header.map_or(stack.anonymous_api(), |header| {
            stack.anonymous_api().header(AUTHORIZATION.as_str(), header)
        });
        for answer in [
            api.get("/api/webhooks").await,
            api.post("/api/webhooks", &json!({ "url": "wrong too" })).await,
            api.delete("/api/webhooks/webhook_x").await,
            api.get("/api/event-types").await,
        ] {
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"lokroom-webhooks\""));
            assert_eq!(problem(answer, 401), "token_missing");
        }
    }
}

#[tokio::test]
async fn a_token_counts_only_as_the_one_authorization_there_is() {
    let mut stack = api_alone().await;
    let token = token::hs256(stack.hs256_secret(), "user_1");
    let url = stack.api.as_mut().expect("an API").url().await;
    let ask = async |path: &str, values: &[&str]| {
        let mut request = http::Request::get(format!("{url}{path}")).body(Bytes::new()).expect("a request");
        for value in values {
            request.headers_mut().append(AUTHORIZATION, value.parse().expect("a header's value"));
        }
        HttpClient::default().send(request).await
    };
    for good in [format!("Bearer {token}"), format!("bearer {token}"), format!("BEARER   {token}  ")] {
        ask("/api/webhooks", &[&good]).await.expect(200);
    }
    let bearer = format!("Bearer {token}");
    for wrong in [
        &[&*bearer, &*bearer][..],
        &[&bearer, "Bearer x"],
        &["Bearer x", &bearer],
        &["Basic dXNlcjpwYXNz", &bearer],
        &[&format!("Basic {token}")],
        &[&format!("DPoP {token}")],
        &[&format!("Bearer\t{token}")],
        &[&format!("Token {token}")],
        &[&token],
        &[],
    ] {
        assert_eq!(problem(ask("/api/webhooks", wrong).await, 401), "token_missing", "{wrong:?}");
    }
    for wrong in [
        format!("{bearer}, {bearer}"),
        format!("{bearer} x"),
        format!("{bearer},"),
        format!("Bearer \"{token}\""),
    ] {
        assert_eq!(problem(ask("/api/webhooks", &[&wrong]).await, 401), "token_malformed", "{wrong}");
    }
    // RFC 6750 §2.3 lets a token stand in the URL, where logs would keep it.
    let in_url = ask(&format!("/api/webhooks?access_token={token}"), &[]).await;
    assert_eq!(problem(in_url, 401), "token_missing");
}

#[tokio::test]
async fn hs256_tokens_are_checked_with_everything_they_claim() {
    let stack = Stack::builder()
        .ingests(0)
        .dispatchers(0)
        .env("LOK__AUTH__ISSUER", "https://lokroom.com")
        .env("LOK__AUTH__AUDIENCE", "webhooks")
        .env("LOK__AUTH__LEEWAY", "5s")
        .start()
        .await;
    let (secret, api) = (stack.hs256_secret(), stack.anonymous_api());
    for claims in
        [claims(), with("aud", vec!["other", "webhooks"]), with("nbf", now() - 1), with("exp", now() - 1)]
    {
        let answer = api.clone().bearer(&token::hs256_with(secret, &claims)).get("/api/webhooks").await;
        answer.expect(200);
    }
    for (claims, code) in [
        (with("exp", now() - 10), "token_expired"),
        (without("exp"), "token_without_expiry"),
        (with("exp", "tomorrow"), "token_malformed"),
        (with("exp", u64::MAX), "token_lifetime_too_long"),
        (with("exp", -1), "token_expired"),
        (with("nbf", now() + 60), "token_not_yet_valid"),
        (with("iss", "https://evil.example"), "token_issuer_invalid"),
        (without("iss"), "token_issuer_invalid"),
        (with("aud", "other"), "token_audience_invalid"),
        (without("aud"), "token_audience_invalid"),
        (without("sub"), "token_subject_invalid"),
        (with("sub", ""), "token_subject_invalid"),
        (with("sub", 7), "token_malformed"),
    ] {
        refused(&api, &token::hs256_with(secret, &claims), code).await;
    }
    refused(&api, &token::hs256_with("another secret", &claims()), "token_signature_invalid").await;

    let signed = token::hs256_with(secret, &claims());
    let (head_and_claims, signature) = signed.rsplit_once('.').unwrap();
    let forged = signed.replacen(
        signed.split('.').nth(1).unwrap(),
        &URL_SAFE_NO_PAD.encode(with("sub", "root").to_string()),
        1,
    );
    refused(&api, &forged, "token_signature_invalid").await;
    refused(&api, &format!("{head_and_claims}."), "token_signature_invalid").await;
    for alg in ["none", "None", "HS256 ", "RS257"] {
        for signature in ["", signature] {
            refused(
                &api,
                &assembled(&json!({ "alg": alg }), &claims(), signature),
                "token_algorithm_not_accepted",
            )
            .await;
        }
    }
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = jsonwebtoken::encode(&Header::new(algorithm), &claims(), &key).unwrap();
        refused(&api, &token, "token_algorithm_not_accepted").await;
    }
    for garbage in ["x", "a.b", "a.b.c", "....", &signed[..signed.len() / 3], "é.é.é"] {
        let answer = api.clone().bearer(garbage).get("/api/webhooks").await;
        assert_eq!(answer.status, 401, "{garbage}");
    }
    refused(&api, &"x".repeat(16 * 1024), "token_too_large").await;
    let crit = json!({ "alg": "HS256", "crit": ["exp"], "exp": 1 });
    refused(&api, &assembled(&crit, &claims(), signature), "token_malformed").await;
}

/// The three kinds of keys that a JWKS may hold, with their private halves.
struct Keys {
    rsa: EncodingKey,
    ec: EncodingKey,
    ed: EncodingKey,
    jwks: Value,
}

impl Keys {
    fn generate() -> Self {
        let random = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .expect("keys that were just made");
        let p256_pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random)
            .expect("keys that were just made");
        let ed = Ed25519KeyPair::generate_pkcs8(&random).expect("keys that were just made");
        let ed_pair = Ed25519KeyPair::from_pkcs8(ed.as_ref()).expect("keys that were just made");
        let rsa = EncodingKey::from_rsa_der(RSA_PRIVATE);
        let mut rsa_public = serde_json::to_value(
            jsonwebtoken::jwk::Jwk::from_encoding_key(&rsa, Algorithm::RS256)
                .expect("keys that were just made"),
        )
        .expect("keys that were just made");
        rsa_public["kid"] = "rsa".into();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = p256_pair.public_key().as_ref();
        let jwks = json!({ "keys": [
            rsa_public,
            { "kty": "EC", "crv": "P-256", "kid": "ec", "x": encode(&point[1..33]), "y": encode(&point[33..]) },
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "x": encode(ed_pair.public_key().as_ref()) },
            { "kty": "oct", "kid": "shared", "k": encode(&[7; 32]) },
            { "kty": "EC", "crv": "P-384", "kid": "of another curve", "x": "AA", "y": "AA" },
            { "kty": "from the future", "kid": "x" },
        ]});
        Self {
            rsa,
            ec: EncodingKey::from_ec_der(ec.as_ref()),
            ed: EncodingKey::from_ed_der(ed.as_ref()),
            jwks,
        }
    }
}

/// An API that knows only the public keys of a file.
async fn with_jwks(stack: &Stack, jwks: &Value) -> (Service, ApiClient) {
    let path = std::env::temp_dir().join(format!("lok-jwks-{}.json", stack.queues().prefix()));
    std::fs::write(&path, jwks.to_string()).expect("a writable folder");
    let mut environment = stack.environment().clone();
    environment.remove("LOK__AUTH__HS256_SECRET");
    environment.insert("LOK__AUTH__JWKS_FILE".to_owned(), path.display().to_string());
    let mut service = Binary::new("management-api").envs(&environment).spawn();
    let api = ApiClient::new(HttpClient::default(), service.url().await);
    std::fs::remove_file(path).expect("the file that was written");
    (service, api)
}

#[tokio::test]
async fn public_keys_check_the_tokens_of_their_own_algorithm() {
    let (stack, keys) = (Stack::builder().no_api().ingests(0).dispatchers(0).start().await, Keys::generate());
    let (_service, api) = with_jwks(&stack, &keys.jwks).await;
    let signed = |algorithm, kid: Option<&str>, key: &EncodingKey| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, &claims(), key).unwrap()
    };
    for (algorithm, kid, key) in [
        (Algorithm::RS256, "rsa", &keys.rsa),
        (Algorithm::ES256, "ec", &keys.ec),
        (Algorithm::EdDSA, "ed", &keys.ed),
    ] {
        for kid in [Some(kid), None] {
            let api = api.clone().bearer(&signed(algorithm, kid, key));
            api.get("/api/webhooks").await.expect(200);
        }
        refused(&api, &signed(algorithm, Some("another"), key), "token_signature_invalid").await;
    }
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        refused(&api, &signed(algorithm, Some("rsa"), &keys.rsa), "token_algorithm_not_accepted").await;
    }
    let stranger = Keys::generate();
    refused(&api, &signed(Algorithm::ES256, Some("ec"), &stranger.ec), "token_signature_invalid").await;
    refused(&api, &signed(Algorithm::EdDSA, Some("ed"), &stranger.ed), "token_signature_invalid").await;
}

#[tokio::test]
async fn a_public_key_is_no_hs256_secret() {
    let (stack, keys) = (Stack::builder().no_api().ingests(0).dispatchers(0).start().await, Keys::generate());
    let (_service, api) = with_jwks(&stack, &keys.jwks).await;
    let modulus = URL_SAFE_NO_PAD.decode(keys.jwks["keys"][0]["n"].as_str().unwrap()).unwrap();
    let secrets: [&[u8]; 5] =
        [RSA_PUBLIC.as_bytes(), RSA_PUBLIC.trim_end().as_bytes(), &modulus, &[7; 32], b""];
    for secret in secrets {
        for kid in [None, Some("rsa"), Some("shared")] {
            let header = Header { kid: kid.map(str::to_owned), ..Header::default() };
            let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
            refused(&api, &token, "token_algorithm_not_accepted").await;
        }
    }
}

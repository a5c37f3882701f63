//! The bearer token of `POST /v1/events`.

use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use anyhow::Context as _;
use ring::hmac;
use ring::rand::SystemRandom;
use service::values::Secret;

use crate::http::problem::Problem;

/// The configured token, kept so that comparing with it takes the same time whatever is presented: both are hashed
/// under a random key, and `ring` compares the hashes in constant time.
pub(crate) struct Token {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl Token {
    /// The token; `None` if there is none. An empty one is none: it would let everybody in.
    pub(crate) fn configured(token: Option<&Secret>) -> anyhow::Result<Option<Self>> {
        let Some(token) = token.filter(|token| !token.expose().is_empty()) else { return Ok(None) };
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .ok()
            .context("the system gives no randomness")?;
        let tag = hmac::sign(&key, token.expose().as_bytes());
        Ok(Some(Self { key, tag }))
    }

    fn is(&self, presented: &str) -> bool {
        hmac::verify(&self.key, presented.as_bytes(), self.tag.as_ref()).is_ok()
    }
}

/// Lets a request pass that presents the token.
pub(crate) fn check(token: Option<&Token>, headers: &HeaderMap) -> Result<(), Problem> {
    let token = token.ok_or(Problem::NotConfigured)?;
    let header = headers.get(AUTHORIZATION).ok_or(Problem::TokenMissing)?;
    let (scheme, presented) =
        header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Problem::TokenInvalid)?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    if is_bearer && token.is(presented.trim()) { Ok(()) } else { Err(Problem::TokenInvalid) }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn checked(configured: Option<&str>, header: Option<&'static str>) -> Result<(), Problem> {
        let token = Token::configured(configured.map(Secret::new).as_ref()).unwrap();
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
        }
        check(token.as_ref(), &headers)
    }

    #[test]
    fn only_the_token_lets_in() {
        assert_eq!(checked(Some("t1"), Some("Bearer t1")), Ok(()));
        assert_eq!(checked(Some("t1"), Some("bearer  t1 ")), Ok(()), "RFC 9110: schemes have no case");
        assert_eq!(checked(Some("t1"), None), Err(Problem::TokenMissing));
        for wrong in ["Bearer t2", "Bearer ", "Bearer", "t1", "Basic t1", "Bearer t1t1", "Bearer T1", ""] {
            assert_eq!(checked(Some("t1"), Some(wrong)), Err(Problem::TokenInvalid), "{wrong}");
        }
    }

    #[test]
    fn without_a_configured_token_nobody_is_let_in() {
        for nothing in [None, Some("")] {
            assert_eq!(checked(nothing, Some("Bearer ")), Err(Problem::NotConfigured));
            assert_eq!(checked(nothing, None), Err(Problem::NotConfigured));
        }
    }
}

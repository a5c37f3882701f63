//! The bearer tokens of `POST /v1/events`.

use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use metrics::counter;
use ring::error::Unspecified;
use ring::hmac;
use ring::rand::SystemRandom;
use service::values::Secret;

use crate::http::problem::Problem;

/// Most tokens: one, and another that takes its place, for a few services.
const MAX_TOKENS: usize = 16;

/// Shorter ones can be guessed.
const MIN_BYTES: usize = 16;

/// The configured tokens are not usable. No error shows one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokensError {
    #[error("ingest.token: token {position} has {bytes} bytes, too few; `openssl rand -hex 32` makes one")]
    TooShort { position: usize, bytes: usize },
    #[error("ingest.token: token {0} has characters that a header cannot carry as they are")]
    Characters(usize),
    #[error("ingest.token has more than {MAX_TOKENS} tokens")]
    TooMany,
    #[error("the system gives no randomness")]
    NoRandomness,
}

impl From<Unspecified> for TokensError {
    fn from(_: Unspecified) -> Self {
        Self::NoRandomness
    }
}

/// The configured tokens, kept so that comparing with them takes the same time whatever is presented: all are hashed
/// under a random key, and `ring` compares the hashes in constant time, each with every one.
pub(crate) struct Tokens {
    key: hmac::Key,
    tags: Vec<hmac::Tag>,
}

impl Tokens {
    /// The tokens of a text that separates them by commas; `None` if the text is empty: an empty token would let
    /// everybody in.
    pub(crate) fn configured(text: Option<&Secret>) -> Result<Option<Self>, TokensError> {
        let Some(text) = text.filter(|text| !text.expose().is_empty()) else { return Ok(None) };
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?;
        let mut tags = Vec::new();
        for (index, token) in text.expose().split(',').map(str::trim).enumerate() {
            let (position, bytes) = (index + 1, token.len());
            if position > MAX_TOKENS {
                return Err(TokensError::TooMany);
            }
            if bytes < MIN_BYTES {
                return Err(TokensError::TooShort { position, bytes });
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(TokensError::Characters(position));
            }
            tags.push(hmac::sign(&key, token.as_bytes()));
        }
        Ok(Some(Self { key, tags }))
    }

    /// The place in the configuration, from 1, of a token that was presented.
    fn position(&self, presented: &str) -> Option<usize> {
        let is_it = |tag: &hmac::Tag| hmac::verify(&self.key, presented.as_bytes(), tag.as_ref()).is_ok();
        let found: Vec<_> = self.tags.iter().map(is_it).collect();
        found.iter().position(|found| *found).map(|index| index + 1)
    }
}

/// Lets a request pass that presents one of the tokens, and counts which: so that an operator knows when the old one is
/// no longer used.
pub(crate) fn check(tokens: Option<&Tokens>, headers: &HeaderMap) -> Result<(), Problem> {
    let tokens = tokens.ok_or(Problem::NotConfigured)?;
    let mut values = headers.get_all(AUTHORIZATION);
    let header = values.next().ok_or(Problem::TokenMissing)?;
    let (scheme, presented) =
        header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Problem::TokenInvalid)?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer") && values.next().is_none();
    let position = tokens.position(presented.trim()).filter(|_| is_bearer).ok_or(Problem::TokenInvalid)?;
    counter!("ingest_token_used_total", "position" => position.to_string()).increment(1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    const OLD: &str = "old-token-0123456789";
    const NEW: &str = "new-token-0123456789";

    fn tokens(text: &str) -> Result<Option<Tokens>, TokensError> {
        Tokens::configured(Some(&Secret::new(text)))
    }

    fn checked(configured: &str, headers: &[&str]) -> Result<(), Problem> {
        let tokens = tokens(configured).unwrap();
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        check(tokens.as_ref(), &map)
    }

    #[test]
    fn only_a_configured_token_lets_in() {
        for good in [format!("Bearer {OLD}"), format!("bearer  {OLD} "), format!("BEARER {OLD}")] {
            assert_eq!(checked(OLD, &[&good]), Ok(()), "{good}: RFC 9110: schemes have no case");
        }
        assert_eq!(checked(OLD, &[]), Err(Problem::TokenMissing));
        for wrong in [
            format!("Bearer {NEW}"),
            format!("Bearer {OLD}{OLD}"),
            format!("Bearer {OLD},"),
            format!("Bearer {OLD},{NEW}"),
            format!("Bearer {}", OLD.to_uppercase()),
            format!("Bearer {}", &OLD[..OLD.len() - 1]),
            format!("Bearer {}", &OLD[1..]),
            format!("Basic {OLD}"),
            format!("Bearer\t{OLD}"),
            format!(" Bearer {OLD}"),
            OLD.to_owned(),
            "Bearer ".to_owned(),
            "Bearer".to_owned(),
            String::new(),
        ] {
            assert_eq!(checked(OLD, &[&wrong]), Err(Problem::TokenInvalid), "{wrong}");
        }
    }

    #[test]
    fn while_one_token_takes_anothers_place_both_let_in_in_whatever_order() {
        for both in [format!("{NEW},{OLD}"), format!("{OLD}, {NEW}")] {
            for token in [NEW, OLD] {
                assert_eq!(checked(&both, &[&format!("Bearer {token}")]), Ok(()), "{token} of {both}");
            }
            assert_eq!(checked(&both, &[&format!("Bearer {both}")]), Err(Problem::TokenInvalid));
            assert_eq!(checked(&both, &["Bearer "]), Err(Problem::TokenInvalid));
        }
        let both = tokens(&format!("{NEW},{OLD}")).unwrap().unwrap();
        assert_eq!((both.position(NEW), both.position(OLD), both.position("")), (Some(1), Some(2), None));
    }

    #[test]
    fn two_headers_are_none() {
        let (good, other) = (format!("Bearer {OLD}"), format!("Bearer {NEW}"));
        for two in [[&*good, &*good], [&good, &other], [&other, &good]] {
            assert_eq!(checked(OLD, &two), Err(Problem::TokenInvalid), "{two:?}");
        }
    }

    #[test]
    fn tokens_that_let_too_many_in_are_refused() {
        let error = |text: &str| tokens(text).err();
        let short = |position, bytes| Some(TokensError::TooShort { position, bytes });
        assert_eq!(error("short"), short(1, 5));
        assert_eq!(error(&format!("{OLD},")), short(2, 0));
        assert_eq!(error(&format!(",{OLD}")), short(1, 0));
        assert_eq!(error(","), short(1, 0));
        assert_eq!(error(" "), short(1, 0));
        assert_eq!(error(&format!("{OLD},{NEW} {NEW}")), Some(TokensError::Characters(2)));
        assert_eq!(error("0123456789abcdéf"), Some(TokensError::Characters(1)));
        assert_eq!(error(&vec![OLD; MAX_TOKENS + 1].join(",")), Some(TokensError::TooMany));
        assert!(tokens(&vec![OLD; MAX_TOKENS].join(",")).is_ok());
    }

    #[test]
    fn without_a_configured_token_nobody_is_let_in() {
        for header in [&["Bearer "][..], &[]] {
            assert_eq!(checked("", header), Err(Problem::NotConfigured));
        }
        assert!(Tokens::configured(None).unwrap().is_none());
    }
}

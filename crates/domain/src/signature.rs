//! Webhook secrets and the two signatures every request carries.
//!
//! `X-Lok-Signature` is the guide's scheme; `webhook-signature` is Standard Webhooks 1.0. One secret serves
//! both (contract, *The delivered request*).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::id::{NoRandomness, PublicEventId};
use crate::timestamp::Timestamp;

/// What every secret starts with.
pub(crate) const PREFIX: &str = "whsec_";

/// Random bytes in a secret.
const SECRET_BYTES: usize = 32;

/// Characters of their base64.
const ENCODED_BYTES: usize = 44;

/// A webhook's secret: `whsec_` and the standard base64 of 32 random bytes. Wiped from memory when
/// dropped; `Debug` never shows it, and it is neither `Display` nor `Serialize`.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Zeroizing<String>);

/// The text is not a webhook secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a webhook secret: expected `whsec_` and the base64 of 32 bytes")]
pub struct InvalidSecret;

impl WebhookSecret {
    /// Makes a new secret.
    pub fn generate(random: &SystemRandom) -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        random.fill(&mut *bytes).map_err(|_| NoRandomness)?;
        // Into a buffer of ours: what encodes into a growing `String` leaves copies behind.
        let mut encoded = Zeroizing::new([0; ENCODED_BYTES]);
        let length = STANDARD.encode_slice(*bytes, &mut *encoded).map_err(|_| NoRandomness)?;
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + ENCODED_BYTES));
        text.push_str(PREFIX);
        text.extend(encoded[..length].iter().map(|byte| char::from(*byte)));
        Ok(Self(text))
    }

    /// Reads a secret back from storage.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        decode_key(text)?;
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The secret itself, for the developer it belongs to and for encryption at rest.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret([redacted])")
    }
}

fn decode_key(secret: &str) -> Result<Zeroizing<Vec<u8>>, InvalidSecret> {
    let encoded = secret.strip_prefix(PREFIX).ok_or(InvalidSecret)?;
    let key = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| InvalidSecret)?);
    if key.len() == SECRET_BYTES { Ok(key) } else { Err(InvalidSecret) }
}

/// The keys of one secret, prepared once and used for every request.
#[derive(Clone)]
struct Keys {
    lok: hmac::Key,
    standard: hmac::Key,
}

impl Keys {
    fn of(secret: &WebhookSecret) -> Self {
        // `WebhookSecret` holds only what `decode_key` accepts; an empty key could not verify anywhere.
        let standard = decode_key(secret.expose()).unwrap_or_default();
        Self {
            lok: hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes()),
            standard: hmac::Key::new(hmac::HMAC_SHA256, &standard),
        }
    }
}

/// Signs the requests to one webhook.
#[derive(Clone)]
pub struct Signer {
    current: Keys,
    previous: Option<(Keys, Timestamp)>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer([redacted])")
    }
}

impl Signer {
    /// Signs with `current` and, in `webhook-signature` only, with a regenerated secret's predecessor
    /// until its end.
    pub fn new(current: &WebhookSecret, previous: Option<(&WebhookSecret, Timestamp)>) -> Self {
        Self {
            current: Keys::of(current),
            previous: previous.map(|(secret, until)| (Keys::of(secret), until)),
        }
    }

    /// The value of `X-Lok-Signature`: lower-case hex HMAC-SHA256 of the body, keyed with the UTF-8
    /// bytes of the whole secret, `whsec_` included.
    pub fn lok_signature(&self, body: &[u8]) -> String {
        hex(hmac::sign(&self.current.lok, body).as_ref())
    }

    /// The value of `webhook-signature` (Standard Webhooks 1.0): `v1,` and the base64 HMAC-SHA256 of
    /// `{id}.{timestamp}.{body}`, keyed with the decoded part of the secret; the previous secret's
    /// signature follows after a space while the two overlap.
    pub fn standard_signature(&self, id: &PublicEventId, attempted_at: Timestamp, body: &[u8]) -> String {
        let sign = |keys: &Keys| {
            let mut context = hmac::Context::with_key(&keys.standard);
            context.update(id.as_str().as_bytes());
            context.update(format!(".{}.", attempted_at.timestamp()).as_bytes());
            context.update(body);
            format!("v1,{}", STANDARD.encode(context.sign()))
        };
        match &self.previous {
            Some((previous, until)) if attempted_at < *until => {
                format!("{} {}", sign(&self.current), sign(previous))
            }
            _ => sign(&self.current),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    /// 32 bytes 0x00…0x1f.
    const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn at(seconds: i64) -> Timestamp {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_generated_secret_is_whsec_and_the_base64_of_32_bytes() {
        let random = SystemRandom::new();
        let secret = WebhookSecret::generate(&random).unwrap();
        assert_eq!(secret.expose().len(), "whsec_".len() + 44);
        assert_eq!(WebhookSecret::parse(secret.expose()), Ok(secret.clone()));
        assert_ne!(WebhookSecret::generate(&random).unwrap(), secret);
    }

    #[test]
    fn what_is_not_a_secret_is_refused() {
        for text in ["", "whsec_", "whsec_AAEC", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "whsec_%%%"]
        {
            assert_eq!(WebhookSecret::parse(text), Err(InvalidSecret), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = WebhookSecret::parse(SECRET).unwrap();
        let shown = format!("{secret:?} {:?}", Signer::new(&secret, None));
        assert_eq!(shown, "WebhookSecret([redacted]) Signer([redacted])");
    }

    /// Were `WebhookSecret` one of them, the compiler would not know which `is_not` is meant.
    #[test]
    fn a_secret_cannot_be_serialised_or_displayed_by_accident() {
        trait IsNot<Which> {
            fn is_not() {}
        }
        impl<T> IsNot<()> for T {}
        impl<T: serde::Serialize> IsNot<u8> for T {}
        impl<T: fmt::Display> IsNot<u16> for T {}
        <WebhookSecret as IsNot<_>>::is_not();
        <Signer as IsNot<_>>::is_not();
    }

    // Expected values: Python's `hmac` and the public `standardwebhooks` library.
    #[test]
    fn both_signatures_agree_with_independent_implementations() {
        let signer = Signer::new(&WebhookSecret::parse(SECRET).unwrap(), None);
        let body = r#"{"event":"booking.created","note":"é"}"#.as_bytes();
        let id = PublicEventId::parse("evt_1").unwrap();
        assert_eq!(
            signer.lok_signature(body),
            "1dbecd4846532a29801df35c29f7215e05fe164c1142efdb45cf4bc559ba73ac"
        );
        assert_eq!(
            signer.standard_signature(&id, at(1_705_314_600), body),
            "v1,Gx6J5EbFwV26WXpH97UHrOyG+nR3L+FlCE/JjioHZxs="
        );
    }

    #[test]
    fn the_previous_secret_signs_too_until_its_end_but_never_in_the_guides_header() {
        let random = SystemRandom::new();
        let (old, new) =
            (WebhookSecret::generate(&random).unwrap(), WebhookSecret::generate(&random).unwrap());
        let id = PublicEventId::parse("evt_1").unwrap();
        let both = Signer::new(&new, Some((&old, at(100))));
        let (only_old, only_new) = (Signer::new(&old, None), Signer::new(&new, None));

        let signatures = both.standard_signature(&id, at(99), b"{}");
        let expected = format!(
            "{} {}",
            only_new.standard_signature(&id, at(99), b"{}"),
            only_old.standard_signature(&id, at(99), b"{}")
        );
        assert_eq!(signatures, expected);
        assert_eq!(
            both.standard_signature(&id, at(100), b"{}"),
            only_new.standard_signature(&id, at(100), b"{}")
        );
        assert_eq!(both.lok_signature(b"{}"), only_new.lok_signature(b"{}"));
    }
}

//! Webhook secrets at rest: AES-256-GCM under a named key.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::WebhookId;
use domain::id::NoRandomness;
use domain::signature::WebhookSecret;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// `secrets.keys` is not what it has to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key at all.
    #[error("expected id:base64-of-32-bytes, separated by commas: there is no key")]
    Empty,
    /// An entry has no colon.
    #[error("expected id:base64-of-32-bytes: entry {0} has no `:`")]
    NoId(usize),
    /// An id is empty or used twice.
    #[error("key ids must be unique and not empty: entry {0}")]
    Id(usize),
    /// A key is not the base64 of 32 bytes.
    #[error("key `{0}` is not the base64 of 32 bytes; `openssl rand -base64 32` makes one")]
    Key(String),
}

/// A stored secret cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// Its key is not configured.
    #[error("key `{0}` is not among secrets.keys")]
    UnknownKey(String),
    /// The bytes are not what the key encrypted for this webhook.
    #[error("what key `{0}` decrypts is not this webhook's secret")]
    Corrupt(String),
}

/// The keys of `secrets.keys`: the first encrypts, all decrypt. Clones share them.
#[derive(Clone)]
pub struct SecretKeys {
    keys: Arc<Vec<(String, LessSafeKey)>>,
    random: SystemRandom,
}

impl fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(id, _)| id)).finish()
    }
}

/// A secret as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encrypted {
    pub(crate) key_id: String,
    /// Nonce, ciphertext, tag.
    pub(crate) bytes: Vec<u8>,
}

impl SecretKeys {
    /// No keys, for a service that has nothing to do with secrets: it can neither store nor read one.
    pub fn none() -> Self {
        Self { keys: Arc::default(), random: SystemRandom::new() }
    }

    /// Reads `id:base64-of-32-bytes,…`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys: Vec<(String, LessSafeKey)> = Vec::new();
        for (index, entry) in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).enumerate() {
            let (id, encoded) = entry.split_once(':').ok_or(KeyError::NoId(index + 1))?;
            if id.is_empty() || keys.iter().any(|(other, _)| other == id) {
                return Err(KeyError::Id(index + 1));
            }
            let invalid = || KeyError::Key(id.to_owned());
            let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| invalid())?);
            let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| invalid())?;
            keys.push((id.to_owned(), LessSafeKey::new(key)));
        }
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        Ok(Self { keys: Arc::new(keys), random: SystemRandom::new() })
    }

    pub(crate) fn encrypt(
        &self,
        webhook: WebhookId,
        secret: &WebhookSecret,
    ) -> Result<Encrypted, NoRandomness> {
        let (key_id, key) = self.keys.first().ok_or(NoRandomness)?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| NoRandomness)?;
        let mut bytes = secret.expose().as_bytes().to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(webhook.uuid().as_bytes()),
            &mut bytes,
        )
        .map_err(|_| NoRandomness)?;
        bytes.splice(0..0, nonce);
        Ok(Encrypted { key_id: key_id.clone(), bytes })
    }

    pub(crate) fn decrypt(
        &self,
        webhook: WebhookId,
        encrypted: &Encrypted,
    ) -> Result<WebhookSecret, DecryptError> {
        let id = &encrypted.key_id;
        let unknown = || DecryptError::UnknownKey(id.clone());
        let corrupt = || DecryptError::Corrupt(id.clone());
        let (_, key) = self.keys.iter().find(|(known, _)| known == id).ok_or_else(unknown)?;
        let (nonce, sealed) = encrypted.bytes.split_first_chunk::<NONCE_LEN>().ok_or_else(corrupt)?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let aad = webhook.uuid().into_bytes();
        let opened = key.open_in_place(nonce, Aad::from(aad), &mut sealed).map_err(|_| corrupt())?;
        let text = std::str::from_utf8(opened).map_err(|_| corrupt())?;
        WebhookSecret::parse(text).map_err(|_| corrupt())
    }
}

#[cfg(test)]
mod tests {
    use domain::Timestamp;

    use super::*;

    const KEY_1: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const KEY_2: &str = "k2:HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn webhook() -> WebhookId {
        WebhookId::generate(Timestamp::UNIX_EPOCH, &SystemRandom::new()).unwrap()
    }

    #[test]
    fn a_secret_is_read_back_for_its_webhook_only() {
        let keys = SecretKeys::parse(KEY_1).unwrap();
        let (mine, other) = (webhook(), webhook());
        let secret = WebhookSecret::generate(&SystemRandom::new()).unwrap();
        let encrypted = keys.encrypt(mine, &secret).unwrap();
        assert_eq!(keys.decrypt(mine, &encrypted), Ok(secret.clone()));
        assert_eq!(keys.decrypt(other, &encrypted), Err(DecryptError::Corrupt("k1".into())));
        assert_ne!(keys.encrypt(mine, &secret).unwrap().bytes, encrypted.bytes, "the nonce is random");

        let mut damaged = encrypted;
        damaged.bytes[20] ^= 1;
        assert!(keys.decrypt(mine, &damaged).is_err());
        damaged.bytes.truncate(3);
        assert!(keys.decrypt(mine, &damaged).is_err());
    }

    #[test]
    fn the_first_key_encrypts_and_all_decrypt() {
        let (old, both) =
            (SecretKeys::parse(KEY_1).unwrap(), SecretKeys::parse(&format!("{KEY_2},{KEY_1}")).unwrap());
        let webhook = webhook();
        let secret = WebhookSecret::generate(&SystemRandom::new()).unwrap();
        let by_old = old.encrypt(webhook, &secret).unwrap();
        assert_eq!(both.decrypt(webhook, &by_old), Ok(secret.clone()));
        let by_new = both.encrypt(webhook, &secret).unwrap();
        assert_eq!(by_new.key_id, "k2");
        assert_eq!(old.decrypt(webhook, &by_new), Err(DecryptError::UnknownKey("k2".into())));
    }

    #[test]
    fn wrong_keys_are_told_without_showing_them() {
        assert_eq!(SecretKeys::parse(" ").unwrap_err(), KeyError::Empty);
        assert_eq!(SecretKeys::parse("abc").unwrap_err(), KeyError::NoId(1));
        assert_eq!(SecretKeys::parse(":abc").unwrap_err(), KeyError::Id(1));
        assert_eq!(SecretKeys::parse(&format!("{KEY_1},{KEY_1}")).unwrap_err(), KeyError::Id(2));
        assert_eq!(SecretKeys::parse("k1:AAEC").unwrap_err(), KeyError::Key("k1".into()));
        assert_eq!(format!("{:?}", SecretKeys::parse(KEY_1).unwrap()), "[\"k1\"]");
    }
}

//! Webhook secrets at rest: AES-256-GCM under a named key.
//!
//! The nonce is random: a key may encrypt 2^32 times (NIST SP 800-38D §8.3), far more often than secrets are made. The
//! webhook's id is associated data, so that what is moved to another webhook's row is not read there; which of its two
//! secrets it is is not, because regenerating moves one as it is. The key's id only chooses the key.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::WebhookId;
use domain::id::NoRandomness;
use domain::signature::WebhookSecret;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
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
    /// The id of the key that encrypts is no id.
    #[error(
        "the first key's id is not of 1 to 32 letters, digits, `.`, `_` and `-`; `lokctl keys generate` makes a key \
         that can stand before it, and what is under this one stays readable"
    )]
    FirstId,
    /// A key is not the base64 of 32 bytes. Its id is not told: the two may stand in each other's place.
    #[error("the key of entry {0} is not the base64 of 32 bytes; `lokctl keys generate` makes one")]
    Key(usize),
}

/// The longest id of a key: shorter than any way to write 32 bytes, so that no key is taken for one.
const MAX_ID_BYTES: usize = 32;

/// Bytes of a key.
const KEY_BYTES: usize = 32;

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

/// A stored secret cannot be encrypted under another key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EncryptAnewError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] DecryptError),
    /// It cannot be encrypted.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

fn is_id(text: &str) -> bool {
    let is_of_an_id = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(is_of_an_id)
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

    /// Reads `id:base64-of-32-bytes,…`. Keys that only decrypt may have ids of before there was a rule for them.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys: Vec<(String, LessSafeKey)> = Vec::new();
        for (index, entry) in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).enumerate() {
            let (id, encoded) = entry.split_once(':').ok_or(KeyError::NoId(index + 1))?;
            if index == 0 && !id.is_empty() && !is_id(id) {
                return Err(KeyError::FirstId);
            }
            if id.is_empty() || keys.iter().any(|(other, _)| other == id) {
                return Err(KeyError::Id(index + 1));
            }
            let invalid = || KeyError::Key(index + 1);
            let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| invalid())?);
            let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| invalid())?;
            keys.push((id.to_owned(), LessSafeKey::new(key)));
        }
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        Ok(Self { keys: Arc::new(keys), random: SystemRandom::new() })
    }

    /// A new entry of `secrets.keys`, with a key of random bytes; `None` if `id` is no id.
    pub fn generate_entry(
        id: &str,
        random: &SystemRandom,
    ) -> Result<Option<Zeroizing<String>>, NoRandomness> {
        if !is_id(id) {
            return Ok(None);
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        random.fill(&mut *key).map_err(|_| NoRandomness)?;
        let mut encoded = Zeroizing::new([0; KEY_BYTES * 2]);
        let length = STANDARD.encode_slice(*key, &mut *encoded).map_err(|_| NoRandomness)?;
        let mut entry = Zeroizing::new(String::with_capacity(id.len() + 1 + length));
        entry.push_str(id);
        entry.push(':');
        entry.extend(encoded[..length].iter().map(|byte| char::from(*byte)));
        Ok(Some(entry))
    }

    /// The keys' ids; the first encrypts.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(id, _)| id.as_str())
    }

    pub(crate) fn encrypt(
        &self,
        webhook: WebhookId,
        secret: &WebhookSecret,
    ) -> Result<Encrypted, NoRandomness> {
        let (key_id, key) = self.keys.first().ok_or(NoRandomness)?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| NoRandomness)?;
        // Large enough for all of it: growing would leave what was there behind.
        let secret = secret.expose().as_bytes();
        let mut bytes = Zeroizing::new(Vec::with_capacity(NONCE_LEN + secret.len() + MAX_TAG_LEN));
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(secret);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(webhook.uuid().into_bytes());
        let tag = key.seal_in_place_separate_tag(nonce, aad, &mut bytes[NONCE_LEN..]);
        bytes.extend_from_slice(tag.map_err(|_| NoRandomness)?.as_ref());
        Ok(Encrypted { key_id: key_id.clone(), bytes: std::mem::take(&mut *bytes) })
    }

    /// What is encrypted under another key than the first, encrypted under the first; `None` if it is already.
    pub(crate) fn encrypt_anew(
        &self,
        webhook: WebhookId,
        encrypted: &Encrypted,
    ) -> Result<Option<Encrypted>, EncryptAnewError> {
        if self.ids().next() == Some(&encrypted.key_id) {
            // Under the right key, and yet it may be damaged: then it has to be told too.
            self.decrypt(webhook, encrypted)?;
            return Ok(None);
        }
        let secret = self.decrypt(webhook, encrypted)?;
        Ok(Some(self.encrypt(webhook, &secret)?))
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
    fn a_generated_entry_is_a_key_and_never_the_same() {
        let random = SystemRandom::new();
        let entry = SecretKeys::generate_entry("k-2026.11_25", &random).unwrap().unwrap();
        let keys = SecretKeys::parse(&entry).unwrap();
        assert_eq!(keys.ids().collect::<Vec<_>>(), ["k-2026.11_25"]);
        let secret = WebhookSecret::generate(&random).unwrap();
        let webhook = webhook();
        assert_eq!(keys.decrypt(webhook, &keys.encrypt(webhook, &secret).unwrap()), Ok(secret));
        assert_ne!(SecretKeys::generate_entry("k-2026.11_25", &random).unwrap(), Some(entry));
        for id in ["", "a:b", "a,b", "a b", "é", &"k".repeat(33)] {
            assert_eq!(SecretKeys::generate_entry(id, &random).unwrap(), None, "{id}");
        }
    }

    #[test]
    fn the_key_that_encrypts_has_an_id_by_the_rule_and_others_are_read_with_any() {
        let (_, key) = KEY_2.split_once(':').unwrap();
        let longest = "k".repeat(MAX_ID_BYTES);
        assert!(SecretKeys::parse(&format!("{longest}:{key}")).is_ok());
        for id in ["a b", "clé", "k/1", &"k".repeat(MAX_ID_BYTES + 1)] {
            assert_eq!(
                SecretKeys::parse(&format!("{id}:{key},{KEY_1}")).unwrap_err(),
                KeyError::FirstId,
                "{id}"
            );
            let keys = SecretKeys::parse(&format!("{KEY_1},{id}:{key}")).unwrap();
            assert_eq!(keys.ids().collect::<Vec<_>>(), ["k1", id]);
        }
        assert_eq!(SecretKeys::parse(&format!("{KEY_1},:{key}")).unwrap_err(), KeyError::Id(2));
    }

    #[test]
    fn what_is_encrypted_anew_is_the_same_secret_and_what_cannot_be_read_is_told_under_any_key() {
        let both = SecretKeys::parse(&format!("{KEY_2},{KEY_1}")).unwrap();
        let old = SecretKeys::parse(KEY_1).unwrap();
        let (mine, other) = (webhook(), webhook());
        let secret = WebhookSecret::generate(&SystemRandom::new()).unwrap();
        let before = old.encrypt(mine, &secret).unwrap();
        let after = both.encrypt_anew(mine, &before).unwrap().unwrap();
        assert_eq!(after.key_id, "k2");
        assert_eq!(both.decrypt(mine, &after), Ok(secret));
        assert_eq!(both.encrypt_anew(mine, &after), Ok(None));
        for encrypted in [before, after] {
            let unreadable = both.encrypt_anew(other, &encrypted).unwrap_err();
            assert!(matches!(unreadable, EncryptAnewError::Unreadable(DecryptError::Corrupt(_))));
        }
    }

    #[test]
    fn what_is_stored_is_a_nonce_the_ciphertext_and_a_tag() {
        let secret = WebhookSecret::generate(&SystemRandom::new()).unwrap();
        let encrypted = SecretKeys::parse(KEY_1).unwrap().encrypt(webhook(), &secret).unwrap();
        assert_eq!(encrypted.bytes.len(), NONCE_LEN + secret.expose().len() + 16);
    }

    #[test]
    fn wrong_keys_are_told_without_showing_them() {
        assert_eq!(SecretKeys::parse(" ").unwrap_err(), KeyError::Empty);
        assert_eq!(SecretKeys::parse("abc").unwrap_err(), KeyError::NoId(1));
        assert_eq!(SecretKeys::parse(":abc").unwrap_err(), KeyError::Id(1));
        assert_eq!(SecretKeys::parse(&format!("{KEY_1},{KEY_1}")).unwrap_err(), KeyError::Id(2));
        assert_eq!(SecretKeys::parse("k1:AAEC").unwrap_err(), KeyError::Key(1));
        // The key where its id should be, in several ways to write it, as the first and behind it.
        let (_, key) = KEY_1.split_once(':').unwrap();
        let hex = "00".repeat(32);
        for key in [key, key.trim_end_matches('='), &hex, &key[..24], "AAECAwQFBgcICQoLDA0ODw=="] {
            for keys in [format!("{key}:k1"), format!("{KEY_2},{key}:k1")] {
                let error = SecretKeys::parse(&keys).unwrap_err();
                assert!(!error.to_string().contains(&key[..10]), "{error}");
            }
        }
        assert_eq!(format!("{:?}", SecretKeys::parse(KEY_1).unwrap()), "[\"k1\"]");
    }
}

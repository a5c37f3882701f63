//! The keys that tokens are checked with. A key has one algorithm; what a token's header claims only selects among
//! keys, it never says how one is used.

mod set;

use std::path::{Path, PathBuf};

use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use service::settings::Auth;
use tracing::warn;

use crate::jws::{Algorithm, Presented};

pub(crate) use self::set::{KeySet, SetError};

/// Shorter HS256 secrets can be guessed from a token that somebody has (RFC 7518 §3.2).
const RECOMMENDED_SECRET_BYTES: usize = 32;

/// Shorter ones are refused.
const MIN_SECRET_BYTES: usize = 16;

/// The sizes of RSA keys, in bits: what is smaller can be factored (RFC 7518 §3.3), what is larger takes too long.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Bytes of a coordinate on P-256, and of an Ed25519 key.
const COORDINATE: usize = 32;

/// A key with the one algorithm it is for.
pub(crate) struct Key {
    id: Option<String>,
    material: Material,
}

enum Material {
    Secret(hmac::Key),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// An uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// What keys say about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// One of them signed it.
    Signed,
    /// It names one of them, which did not sign it.
    Forged,
    /// None of its algorithm signed it, and none has the name that it gives: it may be another's.
    NotOurs,
    /// There is none of its algorithm.
    OtherAlgorithm,
}

/// Asks each key that the token could be signed with. Keys without an id may be the one that a token names.
pub(crate) fn judge(keys: &[Key], token: &Presented<'_>) -> Judgement {
    let of_algorithm: Vec<_> = keys.iter().filter(|key| key.algorithm() == token.algorithm).collect();
    let is_named = |key: &Key| key.id.is_some() && key.id == token.key_id;
    let may_be_meant = |key: &Key| is_named(key) || key.id.is_none() || token.key_id.is_none();
    if of_algorithm.is_empty() {
        Judgement::OtherAlgorithm
    } else if of_algorithm.iter().any(|key| may_be_meant(key) && key.signed(token)) {
        Judgement::Signed
    } else if of_algorithm.iter().any(|key| is_named(key)) {
        Judgement::Forged
    } else {
        Judgement::NotOurs
    }
}

impl Key {
    /// The key of HS256 tokens.
    fn secret(bytes: &[u8]) -> Self {
        Self { id: None, material: Material::Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes)) }
    }

    fn algorithm(&self) -> Algorithm {
        self.material.algorithm()
    }

    /// Whether it signed the token.
    fn signed(&self, token: &Presented<'_>) -> bool {
        let (message, signature) = (token.signed.as_bytes(), token.signature.as_slice());
        let verified = match &self.material {
            Material::Secret(key) => hmac::verify(key, message, signature),
            Material::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Material::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
        };
        self.algorithm() == token.algorithm && verified.is_ok()
    }

    /// Whether it has the same name and is the same public key. A secret is like no other.
    fn is_same(&self, other: &Self) -> bool {
        let is_same_material = match (&self.material, &other.material) {
            (Material::Rsa(one), Material::Rsa(other)) => (&one.n, &one.e) == (&other.n, &other.e),
            (Material::P256(one), Material::P256(other))
            | (Material::Ed25519(one), Material::Ed25519(other)) => one == other,
            _ => false,
        };
        self.id == other.id && is_same_material
    }
}

/// How many of these public keys are not among the others.
pub(crate) fn count_not_in(keys: &[Key], others: &[Key]) -> usize {
    keys.iter().filter(|key| !others.iter().any(|other| other.is_same(key))).count()
}

impl Material {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Secret(_) => Algorithm::Hs256,
            Self::Rsa(_) => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let (modulus, exponent) = (without_leading_zeros(modulus), without_leading_zeros(exponent));
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
        let usable = RSA_BITS.contains(&bits) && is_odd(modulus) && is_odd(exponent) && exponent != [1];
        usable.then(|| Self::Rsa(RsaPublicKeyComponents { n: modulus.to_vec(), e: exponent.to_vec() }))
    }

    fn p256(x: &[u8], y: &[u8]) -> Option<Self> {
        const UNCOMPRESSED: u8 = 4; // SEC 1 §2.3.3
        let usable = x.len() == COORDINATE && y.len() == COORDINATE;
        usable.then(|| Self::P256([&[UNCOMPRESSED], x, y].concat()))
    }

    fn ed25519(x: Vec<u8>) -> Option<Self> {
        (x.len() == COORDINATE).then_some(Self::Ed25519(x))
    }
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// The configured keys are not usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// The file cannot be read.
    #[error("auth.jwks_file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a JWKS.
    #[error("auth.jwks_file {path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: SetError,
    },
    /// The file has no key that can be used.
    #[error(
        "auth.jwks_file {0} has no usable key; usable are public RSA (RS256, 2048 bits and more), P-256 (ES256) and \
         Ed25519 (EdDSA) keys"
    )]
    NoUsableKey(PathBuf),
    /// The secret is too short.
    #[error("auth.hs256_secret has {0} bytes, too few; `openssl rand -hex 32` makes one")]
    ShortSecret(usize),
    /// The URL cannot be fetched from.
    #[error("auth.jwks_url {0}")]
    Url(String),
}

/// The keys that are there without asking anybody.
pub(crate) fn configured(auth: &Auth) -> Result<Vec<Key>, KeysError> {
    let mut keys = match &auth.jwks_file {
        Some(path) => from_file(path)?,
        None => Vec::new(),
    };
    if let Some(secret) = &auth.hs256_secret {
        let bytes = secret.expose().as_bytes();
        if bytes.len() < MIN_SECRET_BYTES {
            return Err(KeysError::ShortSecret(bytes.len()));
        }
        if bytes.len() < RECOMMENDED_SECRET_BYTES {
            warn!("auth.hs256_secret has less than {RECOMMENDED_SECRET_BYTES} bytes and may be guessed");
        }
        keys.push(Key::secret(bytes));
    }
    Ok(keys)
}

fn from_file(path: &Path) -> Result<Vec<Key>, KeysError> {
    let text =
        std::fs::read(path).map_err(|source| KeysError::Unreadable { path: path.to_owned(), source })?;
    let malformed = |reason| KeysError::Malformed { path: path.to_owned(), reason };
    let KeySet { keys, left_out } = KeySet::read(&text).map_err(malformed)?;
    if left_out > 0 {
        warn!(path = %path.display(), left_out, "keys that cannot be used for RS256, ES256 or EdDSA");
    }
    if keys.is_empty() { Err(KeysError::NoUsableKey(path.to_owned())) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_secret_is_refused() {
        let with_secret = |bytes: usize| {
            configured(&Auth {
                hs256_secret: Some(service::values::Secret::new("x".repeat(bytes))),
                ..Auth::default()
            })
        };
        for bytes in [0, 1, MIN_SECRET_BYTES - 1] {
            assert!(matches!(with_secret(bytes), Err(KeysError::ShortSecret(short)) if short == bytes));
        }
        assert_eq!(with_secret(MIN_SECRET_BYTES).map(|keys| keys.len()).unwrap(), 1);
    }
}

//! The keys that tokens are checked with. A key has one algorithm; what a token's header claims only selects among
//! keys, it never says how one is used.

use std::path::{Path, PathBuf};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use service::settings::Auth;
use tracing::warn;

/// Most keys of a file: a token without `kid` is tried with each of its algorithm.
const MAX_KEYS: usize = 64;

/// Shorter HS256 secrets can be guessed (RFC 7518 §3.2).
const MIN_SECRET_BYTES: usize = 32;

/// A key with the one algorithm it is for.
#[derive(Clone)]
pub(crate) struct Key {
    /// Its name, if it has one.
    pub(crate) id: Option<String>,
    /// What it is for.
    pub(crate) algorithm: Algorithm,
    /// What checks signatures.
    pub(crate) decoding: DecodingKey,
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
    #[error("auth.jwks_file {path} is not a JSON Web Key Set: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file has no key that can be used.
    #[error(
        "auth.jwks_file {0} has no usable key; usable are public RSA (RS256), P-256 (ES256) and Ed25519 (EdDSA) keys"
    )]
    NoUsableKey(PathBuf),
    /// The file has too many keys.
    #[error("auth.jwks_file {0} has more than {MAX_KEYS} keys")]
    TooMany(PathBuf),
    /// A URL is configured.
    #[error("auth.jwks_url is not served by this version: write the keys to a file and set auth.jwks_file")]
    Url,
    /// An empty secret.
    #[error("auth.hs256_secret is empty")]
    EmptySecret,
}

/// The keys that the settings name.
pub(crate) fn configured(auth: &Auth) -> Result<Vec<Key>, KeysError> {
    if auth.jwks_url.is_some() {
        return Err(KeysError::Url);
    }
    let mut keys = match &auth.jwks_file {
        Some(path) => from_file(path)?,
        None => Vec::new(),
    };
    if let Some(secret) = &auth.hs256_secret {
        let bytes = secret.expose().as_bytes();
        if bytes.is_empty() {
            return Err(KeysError::EmptySecret);
        }
        if bytes.len() < MIN_SECRET_BYTES {
            warn!("auth.hs256_secret has less than {MIN_SECRET_BYTES} bytes and can be guessed");
        }
        keys.push(Key { id: None, algorithm: Algorithm::HS256, decoding: DecodingKey::from_secret(bytes) });
    }
    Ok(keys)
}

fn from_file(path: &Path) -> Result<Vec<Key>, KeysError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| KeysError::Unreadable { path: path.to_owned(), source })?;
    let malformed = |reason: String| KeysError::Malformed { path: path.to_owned(), reason };
    // RFC 7517 §5: keys that are not understood are left out, not an error of the whole set.
    let set: Value = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    let entries = set["keys"].as_array().ok_or_else(|| malformed("it has no array `keys`".to_owned()))?;
    if entries.len() > MAX_KEYS {
        return Err(KeysError::TooMany(path.to_owned()));
    }
    let understood = entries.iter().filter_map(|entry| serde_json::from_value(entry.clone()).ok()).collect();
    let set = JwkSet { keys: understood };
    let keys: Vec<Key> = set.keys.iter().filter_map(usable).collect();
    let left_out = entries.len() - keys.len();
    if left_out > 0 {
        warn!(path = %path.display(), left_out, "keys that cannot be used for RS256, ES256 or EdDSA");
    }
    if keys.is_empty() { Err(KeysError::NoUsableKey(path.to_owned())) } else { Ok(keys) }
}

/// A public key for one of the three algorithms. Symmetric keys have no place in a file of public keys.
fn usable(jwk: &Jwk) -> Option<Key> {
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    if !signs || jwk.common.key_algorithm.is_some_and(|algorithm| algorithm != named) {
        return None;
    }
    let decoding = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { id: jwk.common.key_id.clone(), algorithm, decoding })
}

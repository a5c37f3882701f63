//! The keys that tokens are checked with. A key has one algorithm; what a token's header claims only selects among
//! keys, it never says how one is used.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use service::settings::Auth;
use tracing::warn;

use crate::jws::{Algorithm, Presented};

/// Most keys of a set: a token without `kid` is tried with each of its algorithm.
const MAX_KEYS: usize = 64;

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

/// A JSON Web Key Set, as far as it can be used.
pub(crate) struct KeySet {
    /// The public keys that can be.
    pub(crate) keys: Vec<Key>,
    /// How many others there were.
    pub(crate) left_out: usize,
}

/// A text is no JSON Web Key Set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SetError {
    /// It is no JSON.
    #[error("not a JSON Web Key Set: {0}")]
    NotJson(String),
    /// It is some other JSON.
    #[error("not a JSON Web Key Set: it has no array `keys`")]
    NoKeys,
    /// It is too much.
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
}

impl KeySet {
    /// Reads a set. Keys that are not understood are left out, they are no error of the whole set (RFC 7517 §5). Keys
    /// with the same id are all kept: a token that names it is tried with each.
    pub(crate) fn read(text: &[u8]) -> Result<Self, SetError> {
        let set: Value =
            serde_json::from_slice(text).map_err(|error| SetError::NotJson(error.to_string()))?;
        let entries = set.get("keys").and_then(Value::as_array).ok_or(SetError::NoKeys)?;
        if entries.len() > MAX_KEYS {
            return Err(SetError::TooMany);
        }
        let keys: Vec<_> =
            entries.iter().filter_map(|entry| Jwk::deserialize(entry).ok()?.usable()).collect();
        Ok(Self { left_out: entries.len() - keys.len(), keys })
    }
}

/// A JSON Web Key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<IgnoredAny>,
}

impl Jwk {
    /// A public key for one of the three algorithms. Symmetric keys have no place in a set of public keys, and a
    /// private key that stands in one is nobody's secret any more.
    fn usable(self) -> Option<Key> {
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Material::rsa(&number(self.n)?, &number(self.e)?)?,
            ("EC", Some("P-256")) => Material::p256(&number(self.x)?, &number(self.y)?)?,
            ("OKP", Some("Ed25519")) => Material::ed25519(number(self.x)?)?,
            _ => return None,
        };
        let is_for_signatures = self.usage.is_none_or(|usage| usage == "sig")
            && self.key_ops.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        let is_for_this = self.alg.is_none_or(|name| name == material.algorithm().name());
        let usable = is_for_signatures && is_for_this && self.d.is_none();
        usable.then_some(Key { id: self.kid, material })
    }
}

fn number(text: Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
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
    use serde_json::json;

    use super::*;

    fn encoded(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// A number that looks like the modulus of an RSA key of so many bits.
    fn modulus(bits: usize) -> Vec<u8> {
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        modulus[0] = u8::try_from((1_u16 << ((bits - 1) % 8 + 1)) - 1).unwrap();
        modulus
    }

    fn rsa() -> Value {
        json!({ "kty": "RSA", "n": encoded(&modulus(2048)), "e": "AQAB" })
    }

    fn ec() -> Value {
        json!({ "kty": "EC", "crv": "P-256", "x": encoded(&[7; 32]), "y": encoded(&[7; 32]) })
    }

    fn ed() -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": encoded(&[7; 32]) })
    }

    fn with(mut key: Value, member: &str, value: impl Into<Value>) -> Value {
        key[member] = value.into();
        key
    }

    fn without(mut key: Value, member: &str) -> Value {
        key.as_object_mut().unwrap().remove(member);
        key
    }

    fn usable(keys: &[Value]) -> usize {
        let set = KeySet::read(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        assert_eq!(set.keys.len() + set.left_out, keys.len());
        set.keys.len()
    }

    #[test]
    fn public_keys_for_signatures_are_taken() {
        for key in [
            rsa(),
            with(rsa(), "n", encoded(&modulus(4096))),
            with(rsa(), "n", encoded(&[vec![0], modulus(2048)].concat())),
            with(rsa(), "e", encoded(&[3])),
            ec(),
            ed(),
        ] {
            assert_eq!(usable(std::slice::from_ref(&key)), 1, "{key}");
            for (member, value) in [
                ("use", json!("sig")),
                ("kid", json!("x")),
                ("key_ops", json!(["sign", "verify"])),
                ("x5c", json!([1])),
            ] {
                assert_eq!(usable(&[with(key.clone(), member, value.clone())]), 1, "{member} {value} {key}");
            }
        }
        assert_eq!(
            usable(&[with(rsa(), "alg", "RS256"), with(ec(), "alg", "ES256"), with(ed(), "alg", "EdDSA")]),
            3
        );
    }

    #[test]
    fn what_is_not_meant_or_not_fit_for_signatures_is_left_out() {
        let no_keys = [
            json!({ "kty": "oct", "k": encoded(&[7; 32]) }),
            json!({ "kty": "oct", "alg": "HS256", "k": encoded(&[7; 32]) }),
            json!({ "kty": "from the future" }),
            json!({}),
            json!(null),
            json!("RSA"),
            json!([]),
            json!(7),
            with(rsa(), "kty", "rsa"),
            with(ec(), "crv", "P-384"),
            with(ec(), "crv", "secp256k1"),
            with(ed(), "crv", "Ed448"),
            with(ed(), "crv", "X25519"),
            without(ec(), "crv"),
            without(rsa(), "n"),
            without(rsa(), "e"),
            without(ec(), "y"),
            without(ed(), "x"),
            with(rsa(), "kid", 7),
            // Too small, too large, even, or no number.
            with(rsa(), "n", encoded(&modulus(1024))),
            with(rsa(), "n", encoded(&modulus(2047))),
            with(rsa(), "n", encoded(&[vec![0; 128], modulus(1024)].concat())),
            with(rsa(), "n", encoded(&modulus(8200))),
            with(rsa(), "n", encoded(&[modulus(2048), vec![0]].concat())),
            with(rsa(), "n", ""),
            with(rsa(), "n", "*"),
            with(rsa(), "e", ""),
            with(rsa(), "e", encoded(&[0])),
            with(rsa(), "e", encoded(&[1])),
            with(rsa(), "e", encoded(&[0, 0, 1])),
            with(rsa(), "e", encoded(&[2])),
            with(ec(), "x", encoded(&[7; 31])),
            with(ec(), "y", encoded(&[7; 33])),
            with(ed(), "x", encoded(&[7; 31])),
            with(ed(), "x", encoded(&[7; 33])),
            with(ed(), "x", ""),
        ];
        for key in &no_keys {
            assert_eq!(usable(std::slice::from_ref(key)), 0, "{key}");
        }
        for key in [rsa(), ec(), ed()] {
            for (member, value) in [
                ("use", json!("enc")),
                ("use", json!("")),
                ("alg", json!("HS256")),
                ("alg", json!("none")),
                ("alg", json!("RS512")),
                ("alg", json!("PS256")),
                ("alg", json!("RSA-OAEP")),
                ("alg", json!("ECDH-ES")),
                ("key_ops", json!(["encrypt"])),
                ("key_ops", json!([])),
                ("d", json!("AAAA")),
            ] {
                let key = with(key.clone(), member, value);
                assert_eq!(usable(std::slice::from_ref(&key)), 0, "{key}");
            }
        }
        assert_eq!(
            usable(&[with(rsa(), "alg", "ES256"), with(ec(), "alg", "RS256"), with(ed(), "alg", "ES256")]),
            0
        );
        let mixed = [&no_keys[..], &[rsa(), ec(), ed()]].concat();
        assert_eq!(usable(&mixed), 3, "one wrong key spoils no other");
    }

    #[test]
    fn a_set_is_an_object_with_a_bounded_array_of_keys() {
        let error =
            |text: &str| KeySet::read(text.as_bytes()).err().unwrap_or_else(|| panic!("{text} was read"));
        for text in ["", "{", "nonsense", "<html>", "{\"keys\":[]} x"] {
            assert!(matches!(error(text), SetError::NotJson(_)), "{text}");
        }
        assert!(matches!(error(&"[".repeat(100_000)), SetError::NotJson(_)));
        for text in
            ["{}", "[]", "null", "7", "[{\"keys\":[]}]", "{\"keys\":{}}", "{\"keys\":null}", "{\"Keys\":[]}"]
        {
            assert_eq!(error(text), SetError::NoKeys, "{text}");
        }
        assert_eq!(usable(&[]), 0);
        assert_eq!(usable(&vec![ed(); MAX_KEYS]), MAX_KEYS);
        assert_eq!(error(&json!({ "keys": vec![ed(); MAX_KEYS + 1] }).to_string()), SetError::TooMany);
    }

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

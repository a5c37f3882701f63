//! Sets of public keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{Key, Material};

/// Most keys of a set: a token without `kid` is tried with each of its algorithm.
const MAX_KEYS: usize = 64;

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
}

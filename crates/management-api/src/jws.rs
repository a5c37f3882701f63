//! The compact form of a signed token (RFC 7515), as far as it can be read before anything of it is believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

use crate::texts::Reason;

/// How a token may be signed (RFC 7518 §3, RFC 8037 §3.1). There is no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    const ALL: [Self; 4] = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    /// The name in headers and keys; its case matters (RFC 7515 §4.1.1).
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Whether its keys are public, as a provider's are.
    pub(crate) fn has_public_keys(self) -> bool {
        self != Self::Hs256
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// A token as it was presented. What its header says only selects among the keys that could have signed it.
pub(crate) struct Presented<'a> {
    /// How it claims to be signed.
    pub(crate) algorithm: Algorithm,
    /// The key that it claims to be signed with.
    pub(crate) key_id: Option<String>,
    /// What is signed: header and payload, as text.
    pub(crate) signed: &'a str,
    /// The signature.
    pub(crate) signature: Vec<u8>,
    payload: &'a str,
}

/// The members of a header that mean something here. Keys that a token brings along, or says where to fetch (`jwk`,
/// `jku`, `x5c`, `x5u`), are not among them: whoever forges a token brings a fitting key. A member that stands twice is
/// an error (RFC 7515 §4).
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
}

/// Whatever a member holds, `null` included, it is there.
fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl<'a> Presented<'a> {
    /// Takes a token apart.
    pub(crate) fn read(token: &'a str) -> Result<Self, Reason> {
        let mut dots = token.match_indices('.').map(|(at, _)| at);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(Reason::TokenMalformed);
        };
        let header: Header = object(&token[..first])?;
        // RFC 7515 §4.1.11: an extension that has to be understood, and is not.
        if header.crit {
            return Err(Reason::TokenMalformed);
        }
        Ok(Self {
            algorithm: Algorithm::named(&header.alg).ok_or(Reason::TokenAlgorithm)?,
            key_id: header.kid,
            signed: &token[..second],
            signature: bytes(&token[second + 1..])?,
            payload: &token[first + 1..second],
        })
    }

    /// What the token says. To be asked only after a key was found that signed it.
    pub(crate) fn payload<T: DeserializeOwned>(&self) -> Result<T, Reason> {
        object(self.payload)
    }
}

/// A part of a token. One text stands for one value only: no padding, no bits left over.
fn bytes(part: &str) -> Result<Vec<u8>, Reason> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::TokenMalformed)
}

/// A part that is a JSON object; serde would take an array for a struct too.
fn object<T: DeserializeOwned>(part: &str) -> Result<T, Reason> {
    let json = bytes(part)?;
    let is_object = json.trim_ascii_start().starts_with(b"{");
    let read = serde_json::from_slice(&json).ok().filter(|_| is_object);
    read.ok_or(Reason::TokenMalformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str) -> String {
        format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header))
    }

    fn refusal(token: &str) -> Reason {
        Presented::read(token).err().unwrap_or_else(|| panic!("{token} was read"))
    }

    #[test]
    fn a_header_selects_an_algorithm_and_a_key_and_nothing_else() {
        let token = token(
            r#"{"typ":"JWT","kid":"k1","alg":"ES256","jku":"https://evil.example/jwks","x5u":"https://evil.example/",
                "jwk":{"kty":"oct","k":"AAAA"},"x5c":["AAAA"],"b64":true}"#,
        );
        let presented = Presented::read(&token).unwrap();
        assert_eq!((presented.algorithm, presented.key_id.as_deref()), (Algorithm::Es256, Some("k1")));
        assert_eq!(presented.signature, [0, 0, 0]);
        assert_eq!(token, format!("{}.AAAA", presented.signed));
    }

    #[test]
    fn no_spelling_of_none_and_no_other_algorithm_is_one() {
        for alg in [
            "none", "None", "NONE", "nOnE", "nonE", "noNe", "", " ", "hs256", "Hs256", "HS256 ", " HS256",
            "HS256\0", "HS384", "HS512", "RS384", "RS512", "RS1", "PS256", "ES384", "ES512", "ES256K",
            "eddsa", "EDDSA", "Ed25519", "Ed448", "A128KW", "dir", "HS257", "НS256",
        ] {
            let header = serde_json::json!({ "alg": alg }).to_string();
            assert_eq!(refusal(&token(&header)), Reason::TokenAlgorithm, "{alg:?}");
        }
    }

    #[test]
    fn a_header_that_is_none_is_refused() {
        for header in [
            "",
            "{",
            "[]",
            r#"["HS256",null,false]"#,
            "null",
            "\"HS256\"",
            "{}",
            r#"{"alg":null}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{"alg":256}"#,
            r#"{"alg":"HS256","alg":"HS256"}"#,
            r#"{"alg":"none","\u0061lg":"HS256"}"#,
            r#"{"alg":"HS256","kid":"a","kid":"b"}"#,
            r#"{"alg":"HS256","kid":7}"#,
            r#"{"alg":"HS256","kid":{"$ne":null}}"#,
            r#"{"alg":"HS256","crit":["exp"]}"#,
            r#"{"alg":"HS256","crit":[]}"#,
            r#"{"alg":"HS256","crit":null}"#,
            r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#,
            r#"{"alg":"HS256"} x"#,
            "\u{feff}{\"alg\":\"HS256\"}",
        ] {
            assert_eq!(refusal(&token(header)), Reason::TokenMalformed, "{header}");
        }
        let unclosed = format!(r#"{{"alg":"HS256","x":{}"#, "[".repeat(5000));
        assert_eq!(refusal(&token(&unclosed)), Reason::TokenMalformed);
    }

    #[test]
    fn a_token_has_three_parts_in_strict_base64url() {
        let good = token(r#"{"alg":"HS256"}"#);
        let (head, _) = good.rsplit_once('.').unwrap();
        assert!(Presented::read(&good).is_ok() && Presented::read(&format!("{head}.")).is_ok());
        let wrong = [
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
            ".".repeat(8000),
            head.to_owned(),
            format!("{good}.AAAA"),
            format!("{good}."),
            format!(".{good}"),
            format!("{good}="),
            format!("{good}AA=="),
            format!("{good}AB"),
            format!("{head}.AA+/"),
            format!("{head}.AA AA"),
            format!("{head}.AAAA\n"),
            format!("{head}.é"),
        ];
        for token in wrong {
            assert_eq!(refusal(&token), Reason::TokenMalformed, "{token:?}");
        }
    }
}

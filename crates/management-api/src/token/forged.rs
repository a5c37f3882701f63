//! Tokens as attackers make them. The genuine ones are signed by another implementation than ours.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::{ProptestConfig, any, prop, proptest};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
};
use serde_json::{Value, json};
use service::values::Secret;

use super::*;

const NOW: i64 = 1_705_314_600;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A key of these tests alone: PKCS #1, 2048 bits.
const RSA_PRIVATE: &[u8] = include_bytes!("../../tests/api/rsa_private.der");
const RSA_PUBLIC: &str = include_str!("../../tests/api/rsa_public.pem");

/// Makes a signature of a message.
type Sign<'a> = dyn Fn(&str) -> Vec<u8> + 'a;

/// Key pairs of a provider, or of an attacker.
struct Pairs {
    rsa: rsa::KeyPair,
    ec: Vec<u8>,
    ed: Vec<u8>,
}

impl Pairs {
    fn generate() -> Self {
        let random = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let rsa = rsa::KeyPair::from_der(RSA_PRIVATE).unwrap();
        Self { rsa, ec: ec.as_ref().to_vec(), ed: ed.as_ref().to_vec() }
    }

    fn jwk_of_rsa(&self) -> Value {
        let public = rsa::PublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        json!({ "kty": "RSA", "kid": "rsa", "n": encoded(&public.n), "e": encoded(&public.e) })
    }

    fn jwk_of_ec(&self) -> Value {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.ec, &SystemRandom::new())
            .unwrap();
        let point = pair.public_key().as_ref();
        json!({ "kty": "EC", "crv": "P-256", "kid": "ec", "x": encoded(&point[1..33]), "y": encoded(&point[33..]) })
    }

    fn jwk_of_ed(&self) -> Value {
        let pair = Ed25519KeyPair::from_pkcs8(&self.ed).unwrap();
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encoded(pair.public_key().as_ref()) })
    }

    fn jwks(&self) -> Value {
        json!({ "keys": [self.jwk_of_rsa(), self.jwk_of_ec(), self.jwk_of_ed()] })
    }

    fn sign_rsa(&self, padding: &'static dyn RsaEncoding, message: &str) -> Vec<u8> {
        let mut signature = vec![0; self.rsa.public().modulus_len()];
        self.rsa.sign(padding, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        signature
    }

    fn sign_ec(&self, algorithm: &'static EcdsaSigningAlgorithm, message: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, &self.ec, &random).unwrap();
        pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec()
    }

    fn sign_ed(&self, message: &str) -> Vec<u8> {
        Ed25519KeyPair::from_pkcs8(&self.ed).unwrap().sign(message.as_bytes()).as_ref().to_vec()
    }

    /// A genuine token of each algorithm.
    fn genuine(&self) -> [String; 4] {
        [
            (jsonwebtoken::Algorithm::HS256, None, EncodingKey::from_secret(SECRET.as_bytes())),
            (jsonwebtoken::Algorithm::RS256, Some("rsa"), EncodingKey::from_rsa_der(RSA_PRIVATE)),
            (jsonwebtoken::Algorithm::ES256, Some("ec"), EncodingKey::from_ec_der(&self.ec)),
            (jsonwebtoken::Algorithm::EdDSA, Some("ed"), EncodingKey::from_ed_der(&self.ed)),
        ]
        .map(|(algorithm, kid, key)| {
            let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
            jsonwebtoken::encode(&header, &claims(), &key).unwrap()
        })
    }
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn claims() -> Value {
    json!({ "sub": "user_1", "exp": NOW + 60 })
}

/// A verifier with an HS256 secret and the public keys of a file.
fn verifier(jwks: &Value) -> Verifier {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(jwks.to_string().as_bytes()).unwrap();
    let auth = Auth {
        hs256_secret: Some(Secret::new(SECRET)),
        jwks_file: Some(file.path().to_owned()),
        ..Auth::default()
    };
    Verifier::new(&auth).unwrap().0
}

async fn verify(verifier: &Verifier, token: &str) -> Result<UserId, Reason> {
    let now = Timestamp::from_timestamp(NOW, 0).unwrap();
    verifier.verify(token, Network::unknown(), &Clock::fixed(now)).await
}

/// A token with this header and payload, and the signature that `sign` makes of them.
fn made(header: &str, payload: &str, sign: impl Fn(&str) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(header.as_bytes()), encoded(payload.as_bytes()));
    let signature = encoded(&sign(&message));
    format!("{message}.{signature}")
}

fn hs256(secret: &[u8]) -> impl Fn(&str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    move |message| hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
}

#[tokio::test]
async fn a_genuine_token_of_each_algorithm_is_believed_and_every_bit_of_it_counts() {
    let pairs = Pairs::generate();
    let verifier = verifier(&pairs.jwks());
    for token in pairs.genuine() {
        assert_eq!(verify(&verifier, &token).await.unwrap().as_str(), "user_1", "{token}");
        for index in 0..token.len() {
            for bit in 0..8 {
                let mut bytes = token.clone().into_bytes();
                bytes[index] ^= 1 << bit;
                // What is no text does not get here.
                let Ok(flipped) = String::from_utf8(bytes) else { continue };
                let outcome = verify(&verifier, &flipped).await;
                assert!(outcome.is_err(), "bit {bit} of byte {index}: {flipped}");
            }
            let cut = format!("{}{}", &token[..index], &token[index + 1..]);
            assert!(verify(&verifier, &cut).await.is_err(), "without byte {index}: {cut}");
            assert!(verify(&verifier, &token[..index]).await.is_err(), "the first {index} bytes");
        }
    }
}

#[tokio::test]
async fn a_public_key_is_no_secret_in_any_form() {
    let pairs = Pairs::generate();
    let verifier = verifier(&pairs.jwks());
    let base64: String = RSA_PUBLIC.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(&base64).unwrap();
    let public = rsa::PublicKeyComponents::<Vec<u8>>::from(pairs.rsa.public());
    let jwk = pairs.jwk_of_rsa();
    let ec_x = URL_SAFE_NO_PAD.decode(pairs.jwk_of_ec()["x"].as_str().unwrap()).unwrap();
    let secrets: [&[u8]; 11] = [
        RSA_PUBLIC.as_bytes(),
        RSA_PUBLIC.trim_end().as_bytes(),
        base64.as_bytes(),
        &der,
        pairs.rsa.public().as_ref(),
        &public.n,
        jwk["n"].as_str().unwrap().as_bytes(),
        &jwk.to_string().into_bytes(),
        &ec_x,
        &[0; 32],
        b"",
    ];
    for secret in secrets {
        for kid in [Value::Null, json!("rsa"), json!("ec")] {
            let header = json!({ "alg": "HS256", "kid": kid }).to_string();
            let token = made(&header, &claims().to_string(), hs256(secret));
            assert_eq!(verify(&verifier, &token).await, Err(Reason::TokenSignature), "{kid}");
        }
    }
}

#[tokio::test]
async fn a_key_is_used_for_its_own_algorithm_only() {
    let (pairs, attacker) = (Pairs::generate(), Pairs::generate());
    let verifier = verifier(&pairs.jwks());
    let payload = claims().to_string();
    let rs256 = |message: &str| pairs.sign_rsa(&RSA_PKCS1_SHA256, message);
    let es256 = |message: &str| pairs.sign_ec(&ECDSA_P256_SHA256_FIXED_SIGNING, message);
    let es256_as_der = |message: &str| pairs.sign_ec(&ECDSA_P256_SHA256_ASN1_SIGNING, message);
    let eddsa = |message: &str| pairs.sign_ed(message);
    let sign: [(&str, &Sign<'_>); 9] = [
        ("RS256", &rs256),
        ("ES256", &es256),
        ("EdDSA", &eddsa),
        ("ES256 as DER", &es256_as_der),
        ("PS256", &|message| pairs.sign_rsa(&RSA_PSS_SHA256, message)),
        ("HS256 with the wrong secret", &hs256(b"fedcba9876543210fedcba9876543210")),
        ("ES256 of a stranger", &|message| attacker.sign_ec(&ECDSA_P256_SHA256_FIXED_SIGNING, message)),
        ("zeros", &|_| vec![0; 64]),
        ("nothing", &|_| Vec::new()),
    ];
    for (alg, own_kid, signer) in [
        ("RS256", "rsa", "RS256"),
        ("ES256", "ec", "ES256"),
        ("EdDSA", "ed", "EdDSA"),
        ("HS256", "", "HS256"),
    ] {
        for (name, sign) in &sign {
            for kid in [None, Some("rsa"), Some("ec"), Some("ed"), Some("another")] {
                let mut header = json!({ "alg": alg });
                if let Some(kid) = kid {
                    header["kid"] = kid.into();
                }
                let token = made(&header.to_string(), &payload, sign);
                let fits = *name == signer && kid.is_none_or(|kid| kid == own_kid);
                let outcome = verify(&verifier, &token).await;
                assert_eq!(outcome.is_ok(), fits, "{header} signed with {name}");
                assert!(fits || outcome == Err(Reason::TokenSignature), "{header} signed with {name}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_that_a_token_brings_along_is_not_looked_at() {
    let (pairs, attacker) = (Pairs::generate(), Pairs::generate());
    let verifier = verifier(&pairs.jwks());
    for (member, value) in [
        ("jwk", attacker.jwk_of_ed()),
        ("jku", json!("http://127.0.0.1:1/jwks.json")),
        ("x5u", json!("http://127.0.0.1:1/chain.pem")),
        ("x5c", json!(["MIIB"])),
        ("kid", json!("http://127.0.0.1:1/jwks.json")),
        ("kid", json!("../../../../dev/null")),
        ("kid", json!("' UNION SELECT 'x' --")),
        ("kid", json!("ed\u{0}")),
        ("kid", json!("ED")),
        ("kid", json!("")),
        ("kid", json!("x".repeat(4000))),
    ] {
        let mut header = json!({ "alg": "EdDSA", "kid": "ed" });
        header[member] = value;
        let token = made(&header.to_string(), &claims().to_string(), |message| attacker.sign_ed(message));
        assert_eq!(verify(&verifier, &token).await, Err(Reason::TokenSignature), "{header}");
    }
}

#[tokio::test]
async fn keys_with_the_same_id_are_both_tried() {
    let (old, new) = (Pairs::generate(), Pairs::generate());
    let verifier = verifier(&json!({ "keys": [old.jwk_of_ed(), new.jwk_of_ed(), old.jwk_of_ec()] }));
    for pairs in [&old, &new] {
        let token =
            made(r#"{"alg":"EdDSA","kid":"ed"}"#, &claims().to_string(), |message| pairs.sign_ed(message));
        assert!(verify(&verifier, &token).await.is_ok());
    }
}

#[tokio::test]
async fn claims_are_read_strictly() {
    let verifier = verifier(&Pairs::generate().jwks());
    let signed = |payload: &str| made(r#"{"alg":"HS256"}"#, payload, hs256(SECRET.as_bytes()));
    let exp = NOW + 60;
    for good in [
        format!(r#"{{"sub":"user_1","exp":{exp},"unknown":[1e999]}}"#),
        format!(r#" {{"sub":"user_1","exp":{exp}.5,"iat":"x","scope":{{}}}} "#),
        format!(r#"{{"sub":"user_1","exp":{exp}e0,"unknown":1,"unknown":2}}"#),
    ] {
        assert!(verify(&verifier, &signed(&good)).await.is_ok(), "{good}");
    }
    for wrong in [
        String::new(),
        "null".to_owned(),
        "[]".to_owned(),
        format!(r#"["user_1",{exp},null,null,null]"#),
        "\"user_1\"".to_owned(),
        format!(r#"{{"sub":"user_1","exp":{exp}}} {{}}"#),
        format!(r#"{{"sub":"user_1","sub":"root","exp":{exp}}}"#),
        format!(r#"{{"sub":"user_1","\u0073ub":"root","exp":{exp}}}"#),
        format!(r#"{{"sub":"user_1","exp":1,"exp":{exp}}}"#),
        format!(r#"{{"sub":"user_1","exp":{exp},"aud":"a","aud":"b"}}"#),
        r#"{"sub":"user_1","exp":1e400}"#.to_owned(),
        r#"{"sub":"user_1","exp":-1e400}"#.to_owned(),
        format!(r#"{{"sub":"user_1","exp":"{exp}"}}"#),
        r#"{"sub":"user_1","exp":"tomorrow"}"#.to_owned(),
        r#"{"sub":"user_1","exp":true}"#.to_owned(),
        format!(r#"{{"sub":"user_1","exp":[{exp}]}}"#),
        r#"{"sub":"user_1","exp":NaN}"#.to_owned(),
        r#"{"sub":"user_1","exp":Infinity}"#.to_owned(),
        format!(r#"{{"sub":7,"exp":{exp}}}"#),
        format!(r#"{{"sub":["user_1"],"exp":{exp}}}"#),
        format!(r#"{{"sub":"user_1\ud800","exp":{exp}}}"#),
        format!(r#"{{"sub":"user_1","exp":{exp},"nbf":"0"}}"#),
        format!(r#"{{"sub":"user_1","exp":{exp},"iss":["lokroom"]}}"#),
        format!(r#"{{"sub":"user_1","exp":{exp},"aud":7}}"#),
        format!(r#"{{"sub":"user_1","exp":{exp},"aud":["webhooks",7]}}"#),
    ] {
        assert_eq!(verify(&verifier, &signed(&wrong)).await, Err(Reason::TokenMalformed), "{wrong}");
    }
    let long = format!(r#"{{"sub":"{}","exp":{exp}}}"#, "x".repeat(10_000));
    assert_eq!(verify(&verifier, &signed(&long)).await, Err(Reason::TokenTooLarge));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn nothing_that_was_not_signed_is_believed(
        header in "\\{\"alg\":\"(HS256|RS256|ES256|EdDSA|none)\"(,\"kid\":\"(rsa|ec|ed|.)\")?\\}",
        signature in prop::collection::vec(any::<u8>(), 0..300),
        garbage in ".{0,200}",
    ) {
        let verifier = verifier(&Pairs::generate().jwks());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let forged = made(&header, &claims().to_string(), |_| signature.clone());
        for token in [&forged, &garbage, &format!("{garbage}.{garbage}.{garbage}")] {
            assert!(runtime.block_on(verify(&verifier, token)).is_err(), "{token}");
        }
    }
}

//! Keys from the provider's URL.

mod unknown;

use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use service::Clock;
use testkit::receiver::Gate;
use testkit::{
    Answer, ApiClient, DEADLINE, HttpClient, Receiver, Reply, Service, Stack, eventually, eventually_ok,
    token,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use crate::{UNLIMITED, problem};

/// Longer than any test.
const NEVER: &str = "1h";

/// One of the provider's keys.
struct Signer {
    kid: &'static str,
    key: EncodingKey,
    jwk: Value,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("randomness");
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key that was just made");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "alg": "EdDSA", "x": x });
        Self { kid, key: EncodingKey::from_ed_der(pkcs8.as_ref()), jwk }
    }

    /// A token that says to be signed with this key, or with another.
    fn token_named(&self, kid: &str) -> String {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
        let claims = json!({ "sub": "user_1", "exp": Clock::system().now().timestamp() + 3600 });
        jsonwebtoken::encode(&header, &claims, &self.key).expect("claims are JSON")
    }

    fn token(&self) -> String {
        self.token_named(self.kid)
    }
}

fn set(signers: &[&Signer]) -> Reply {
    Reply::json(&json!({ "keys": signers.iter().map(|signer| signer.jwk.clone()).collect::<Vec<_>>() }))
}

/// An API that knows the URL of a provider, and no other keys.
struct Api {
    service: Service,
    client: ApiClient,
    _stack: Stack,
}

impl Api {
    /// With these settings; does not wait until it is ready.
    async fn start(url: &str, settings: &[(&str, &str)]) -> Self {
        let stack = Stack::builder().no_api().ingests(0).dispatchers(0).start().await;
        let mut environment = stack.environment().clone();
        environment.extend(UNLIMITED.map(|(name, value)| (name.to_owned(), value.to_owned())));
        environment.remove("LOK__AUTH__HS256_SECRET");
        // Tests may say which address they come from.
        environment.insert("LOK__API__TRUSTED_PROXIES".to_owned(), "127.0.0.1/32".to_owned());
        for (name, value) in [("JWKS_URL", url), ("JWKS_ALLOW_HTTP", "true")].iter().chain(settings) {
            environment.insert(format!("LOK__AUTH__{name}"), (*value).to_owned());
        }
        let mut service = testkit::Binary::new("management-api").envs(&environment).spawn();
        let client = ApiClient::new(HttpClient::default(), service.url().await);
        Self { service, client, _stack: stack }
    }

    async fn ready(url: &str, settings: &[(&str, &str)]) -> Self {
        let mut api = Self::start(url, settings).await;
        api.service.wait_ready(DEADLINE).await;
        api
    }

    async fn ask(&self, token: &str) -> Answer {
        self.client.clone().bearer(token).get("/api/event-types").await
    }

    async fn ask_from(&self, address: &str, token: &str) -> Answer {
        let client = self.client.clone().header("x-forwarded-for", address);
        client.bearer(token).get("/api/event-types").await
    }

    async fn eventually(&self, token: &str, status: u16) {
        eventually_ok(&format!("the token is answered with {status}"), DEADLINE, async || {
            let answer = self.ask(token).await;
            if answer.status == status { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }

    async fn readyz(&mut self) -> Answer {
        let url = format!("{}/readyz", self.service.admin_url().await);
        HttpClient::default().get(&url).await
    }
}

fn unavailable(answer: Answer) {
    assert!(answer.header("retry-after").is_some(), "{}", answer.text());
    assert_eq!(answer.header("www-authenticate"), None);
    assert_eq!(problem(answer, 503), "token_keys_unavailable");
}

#[tokio::test]
async fn without_keys_so_far_tokens_are_neither_believed_nor_refused() {
    let (provider, signer) = (Receiver::start().await, Signer::new("a"));
    let hostile: [Reply; 8] = [
        Reply::status(500),
        Reply::status(404).body("<html>"),
        Reply::close(),
        Reply::raw("nonsense\r\n\r\n"),
        Reply::json(&json!({ "keys": [] })),
        Reply::json(&json!({ "keys": [{ "kty": "oct", "kid": "a", "k": "AAAA" }, { "kty": "?" }, 7] })),
        Reply::json(&json!([signer.jwk])),
        Reply::status(204),
    ];
    let count = hostile.len();
    for reply in hostile {
        provider.answer_next(reply);
    }
    let gate = Gate::default();
    provider.answer(set(&[&signer]).when_open(&gate));
    let settings = [("JWKS_MIN_INTERVAL", "30ms"), ("JWKS_TIMEOUT", "20s")];
    let mut api = Api::start(&provider.url("/jwks"), &settings).await;

    provider.until(count + 1).await;
    unavailable(api.ask(&signer.token()).await);
    let answer = api.readyz().await.expect(503);
    assert!(
        answer.json()["checks"]["token keys"].as_str().unwrap().contains("auth.jwks_url"),
        "{}",
        answer.text()
    );
    let anonymous = api.client.get("/api/event-types").await;
    assert_eq!(problem(anonymous, 401), "token_missing", "who sends no token is told so");
    let hs256 = token::hs256("a secret that nobody configured", "user_1");
    assert_eq!(problem(api.ask(&hs256).await, 401), "token_algorithm_not_accepted");

    gate.open();
    api.service.wait_ready(DEADLINE).await;
    api.ask(&signer.token()).await.expect(200);
    let request = provider.requests().pop().expect("a request");
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/jwks"));
}

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_names_it_and_a_removed_one_is_no_longer_accepted() {
    let (provider, old, new) = (Receiver::start().await, Signer::new("old"), Signer::new("new"));
    provider.answer(set(&[&old]));
    let settings = [("JWKS_MIN_INTERVAL", "10ms"), ("JWKS_MAX_AGE", NEVER)];
    let api = Api::ready(&provider.url("/jwks"), &settings).await;
    api.ask(&old.token()).await.expect(200);
    assert_eq!(problem(api.ask(&new.token_named("old")).await, 401), "token_signature_invalid");
    assert_eq!(provider.requests().len(), 1, "a forged token of a known key is no reason to ask");

    provider.answer(set(&[&old, &new]));
    api.eventually(&new.token(), 200).await;
    api.ask(&old.token()).await.expect(200);

    provider.answer(set(&[&new]));
    let fetches = provider.requests().len();
    assert_eq!(problem(api.ask(&old.token_named("unknown")).await, 401), "token_signature_invalid");
    provider.until(fetches + 1).await;
    api.eventually(&old.token(), 401).await;
    api.ask(&new.token()).await.expect(200);

    // All are taken back: that is no failure to fetch.
    provider.answer(set(&[]));
    assert_eq!(api.ask(&new.token_named("unknown")).await.status, 401);
    api.eventually(&new.token(), 401).await;
}

#[tokio::test]
async fn a_key_that_takes_anothers_place_is_told_in_the_log_and_the_same_keys_again_are_not() {
    let (provider, old, new) = (Receiver::start().await, Signer::new("a"), Signer::new("a"));
    provider.answer(set(&[&old]));
    let settings = [("JWKS_MIN_INTERVAL", "10ms"), ("JWKS_MAX_AGE", "100ms")];
    let api = Api::ready(&provider.url("/jwks"), &settings).await;
    provider.until(3).await;
    provider.answer(set(&[&new]));
    api.eventually(&new.token(), 200).await;
    let log = api.service.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("keys fetched")).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    let last: Value = serde_json::from_str(told[1]).expect("JSON");
    assert!(last["keys"] == 1 && last["new"] == 1 && last["gone"] == 1, "{last}");
}

#[tokio::test]
async fn who_believes_public_keys_without_naming_issuer_and_audience_is_warned() {
    let (provider, signer) = (Receiver::start().await, Signer::new("a"));
    provider.answer(set(&[&signer]));
    let named = [("ISSUER", "https://login.lokroom.com"), ("AUDIENCE", "webhooks")];
    for settings in [&named[..0], &named[..1], &named[1..], &named[..]] {
        let api = Api::ready(&provider.url("/jwks"), settings).await;
        let is_warned = api.service.log().contains("signs for other services");
        assert_eq!(is_warned, settings.len() < 2, "{settings:?}");
    }
}

#[tokio::test]
async fn keys_are_fetched_again_in_time_without_anybody_asking() {
    let (provider, old, new) = (Receiver::start().await, Signer::new("old"), Signer::new("new"));
    provider.answer(set(&[&old]).header("cache-control", "max-age=86400"));
    let settings = [("JWKS_MIN_INTERVAL", "10ms"), ("JWKS_MAX_AGE", "100ms")];
    let api = Api::ready(&provider.url("/jwks"), &settings).await;
    api.ask(&old.token()).await.expect(200);
    provider.answer(set(&[&new]));
    // Only tokens of a known key are sent until it is gone: none of them asks for a fetch.
    api.eventually(&old.token(), 401).await;
    api.ask(&new.token()).await.expect(200);
}

#[tokio::test]
async fn what_cache_control_says_shortens_the_wait() {
    let (provider, signer) = (Receiver::start().await, Signer::new("a"));
    provider.answer(set(&[&signer]).header("cache-control", "no-store"));
    let settings = [("JWKS_MIN_INTERVAL", "10ms"), ("JWKS_MAX_AGE", NEVER)];
    let _api = Api::ready(&provider.url("/jwks"), &settings).await;
    provider.until(5).await;
}

#[tokio::test]
async fn keys_stay_in_use_while_the_provider_is_away() {
    let (provider, old, new) = (Receiver::start().await, Signer::new("old"), Signer::new("new"));
    provider.answer(set(&[&old]));
    let settings = [("JWKS_MIN_INTERVAL", "20ms"), ("JWKS_MAX_AGE", "100ms"), ("JWKS_TIMEOUT", "500ms")];
    let mut api = Api::ready(&provider.url("/jwks"), &settings).await;
    let unusable = json!({ "keys": [{ "kty": "EC", "crv": "P-384", "kid": "new", "x": "AA", "y": "AA" }] });
    for away in [
        Reply::status(503),
        Reply::reset(),
        Reply::hang(),
        Reply::json(&json!({ "error": "x" })),
        // Keys of a kind that cannot be used are not the same as none.
        Reply::json(&unusable),
    ] {
        provider.answer(away);
        let fetches = provider.requests().len();
        provider.until(fetches + 2).await;
        api.ask(&old.token()).await.expect(200);
        assert_eq!(problem(api.ask(&new.token_named("old")).await, 401), "token_signature_invalid");
        // Whether this one is genuine, only the provider can tell.
        unavailable(api.ask(&new.token()).await);
        api.readyz().await.expect(200);
    }
    provider.answer(set(&[&new]));
    api.eventually(&new.token(), 200).await;
}

#[tokio::test]
async fn a_provider_that_takes_too_long_or_says_too_much_is_given_up() {
    let (provider, old, new) = (Receiver::start().await, Signer::new("old"), Signer::new("new"));
    provider.answer(set(&[&old]));
    let settings = [
        ("JWKS_MIN_INTERVAL", "10ms"),
        ("JWKS_MAX_AGE", NEVER),
        ("JWKS_TIMEOUT", "300ms"),
        ("JWKS_SIZE_LIMIT", "4KiB"),
    ];
    let api = Api::ready(&provider.url("/jwks"), &settings).await;
    let large = json!({ "padding": "x".repeat(5000), "keys": [new.jwk] });
    for reply in [Reply::hang(), Reply::json(&large), Reply::raw(endless_head())] {
        provider.answer(reply);
        unavailable(api.ask(&new.token()).await);
        api.ask(&old.token()).await.expect(200);
    }
    let many = json!({ "keys": (0..65).map(|_| json!({})).chain([new.jwk.clone()]).collect::<Vec<_>>() });
    provider.answer(Reply::json(&many));
    unavailable(api.ask(&new.token()).await);
    provider.answer(set(&[&new]));
    api.eventually(&new.token(), 200).await;
}

fn endless_head() -> Bytes {
    let headers: Vec<_> = (0..20_000).map(|index| format!("x-{index}: {index}\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\n{}\r\n{{}}", headers.concat()).into()
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (provider, elsewhere, signer) = (Receiver::start().await, Receiver::start().await, Signer::new("a"));
    elsewhere.answer(set(&[&signer]));
    let mut api = Api::start(&provider.url("/jwks"), &[("JWKS_MIN_INTERVAL", "10ms")]).await;
    for (count, status) in [(1, 301), (2, 302), (3, 303), (4, 307), (5, 308)] {
        provider.answer(Reply::status(status).header("location", &elsewhere.url("/jwks")));
        provider.until(count * 2).await;
    }
    unavailable(api.ask(&signer.token()).await);
    eventually_ok("the reason is told", DEADLINE, async || {
        let told = api.readyz().await.expect(503).text();
        if told.contains("redirects to") { Ok(()) } else { Err(told) }
    })
    .await;
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn keys_of_a_file_and_a_secret_work_beside_the_url_and_without_it() {
    let (provider, of_file, of_url) = (Receiver::start().await, Signer::new("file"), Signer::new("url"));
    provider.answer(Reply::status(500));
    let mut file = tempfile::NamedTempFile::new().expect("a writable folder");
    write!(file, "{}", json!({ "keys": [of_file.jwk] })).expect("a writable file");
    let secret = "0123456789abcdef0123456789abcdef";
    let settings = [
        ("JWKS_MIN_INTERVAL", "10ms"),
        ("JWKS_FILE", file.path().to_str().expect("a path in UTF-8")),
        ("HS256_SECRET", secret),
    ];
    let mut api = Api::ready(&provider.url("/jwks"), &settings).await;
    provider.until(2).await;
    api.readyz().await.expect(200);
    let keys = api.service.metric("jwks_keys").await;
    assert!(keys.abs() < 0.5, "who watches sees that there are none: {keys}");
    api.ask(&of_file.token()).await.expect(200);
    api.ask(&token::hs256(secret, "user_1")).await.expect(200);
    assert_eq!(problem(api.ask(&of_url.token_named("file")).await, 401), "token_signature_invalid");
    unavailable(api.ask(&of_url.token()).await);
    provider.answer(set(&[&of_url]));
    api.eventually(&of_url.token(), 200).await;
    api.ask(&of_file.token()).await.expect(200);
}

/// A provider with a certificate of its own: its URL, and the certificate.
async fn over_tls(body: String) -> (String, String) {
    let key = KeyPair::generate().expect("randomness");
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate can be made");
    let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key that was just made");
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions that ring has")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .expect("a certificate that fits its key");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://localhost:{}/jwks", listener.local_addr().expect("a bound socket").port());
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (url, certificate.pem())
}

#[tokio::test]
async fn over_https_the_provider_is_who_its_certificate_says() {
    let signer = Signer::new("a");
    let (url, pem) = over_tls(json!({ "keys": [signer.jwk] }).to_string()).await;
    let mut file = tempfile::NamedTempFile::new().expect("a writable folder");
    file.write_all(pem.as_bytes()).expect("a writable file");
    let ca_file = file.path().to_str().expect("a path in UTF-8");

    let trusting = [("JWKS_ALLOW_HTTP", "false"), ("JWKS_CA_FILE", ca_file)];
    let api = Api::ready(&url, &trusting).await;
    api.ask(&signer.token()).await.expect(200);

    for (url, settings) in [
        (url.clone(), vec![("JWKS_ALLOW_HTTP", "false")]),
        (url.replace("localhost", "127.0.0.1"), trusting.to_vec()),
    ] {
        let mut api = Api::start(&url, &settings).await;
        let what = "the provider's certificate is refused";
        eventually(what, DEADLINE, async || api.readyz().await.text().contains("certificate").then_some(()))
            .await;
        unavailable(api.ask(&signer.token()).await);
    }
}

//! How requests leave the dispatcher, and what a developer is told when one cannot.

use std::sync::Arc;

use domain::EventType::BookingCreated;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use testkit::database::SECRET_KEYS;
use testkit::{Binary, Event, Receiver, Stack};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::settled;

const RETRY_DELAYS: &str = "LOK__DELIVERY__RETRY_DELAYS";

fn event() -> Event {
    Event::example(BookingCreated).to("user_1")
}

/// The URL of a port that nobody listens on.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
    format!("http://{}", listener.local_addr().expect("a bound socket has an address"))
}

/// The URL of a receiver whose certificate nobody vouches for.
async fn self_signed_receiver() -> String {
    let key = KeyPair::generate().expect("a key can be made");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address is a valid name");
    let certificate = params.self_signed(&key).expect("a certificate can be made").der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key that was just made");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key))
        .expect("the certificate and its key");
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
    let url = format!("https://{}/hook", listener.local_addr().expect("a bound socket has an address"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = tls.accept(stream).await;
        }
    });
    url
}

#[tokio::test]
async fn a_wrong_certificate_is_told_in_the_delivery_s_error() {
    let stack = Stack::builder().env(RETRY_DELAYS, "").start().await;
    let webhook = stack.given_webhook("user_1", &self_signed_receiver().await, &[BookingCreated]).await;
    stack.publish(&event()).await;
    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!(deliveries[0]["status"], "failed");
    assert_eq!(
        deliveries[0]["error"],
        "TLS: the certificate's issuer is unknown: is the chain complete, or the certificate self-signed?"
    );
}

#[tokio::test]
async fn the_environment_s_proxies_are_not_asked() {
    let mut stack = Stack::builder();
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        stack = stack.env(name, nobody().await);
    }
    let stack = stack.start().await;
    let receiver = Receiver::start().await;
    stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    stack.publish(&event()).await;
    receiver.expect_request().await;
}

#[tokio::test]
async fn with_a_proxy_nothing_leaves_past_it() {
    let proxy = nobody().await;
    let stack = Stack::builder().env(RETRY_DELAYS, "").env("LOK__EGRESS__PROXY", proxy).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    stack.publish(&event()).await;
    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!(deliveries[0]["status"], "failed");
    let error = deliveries[0]["error"].as_str().expect("a failed delivery has an error");
    assert!(error.starts_with("egress proxy: it cannot be reached"), "{error}");
    assert!(error.ends_with("the request did not get to the receiver"), "{error}");
    assert_eq!(receiver.requests().len(), 0);
}

#[tokio::test]
async fn a_proxy_that_is_no_http_url_is_refused_at_the_start() {
    let output = Binary::new("dispatcher")
        .env("LOK__DATABASE__URL", "postgres://lok@127.0.0.1:1/lok")
        .env("LOK__AMQP__URL", "amqp://lok@127.0.0.1:1/%2f")
        .env("LOK__SECRETS__KEYS", SECRET_KEYS)
        .env("LOK__EGRESS__PROXY", "socks5://user:hunter2@proxy:1080")
        .output()
        .await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("egress.proxy: the proxy must be given as http://"), "{output:?}");
    assert!(!output.stderr.contains("hunter2"), "{output:?}");
}

//! How requests leave the dispatcher, and what a developer is told when one cannot.

use std::sync::Arc;

use domain::EventType::BookingCreated;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use testkit::database::SECRET_KEYS;
use testkit::{Binary, DEADLINE, Event, Receiver, Stack, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
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

/// Connects whom it is asked to.
async fn proxy(listener: TcpListener) {
    while let Ok((mut from, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = from.read_u8().await else { return };
                head.push(byte);
            }
            let head = String::from_utf8_lossy(&head);
            let Some(address) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
                return;
            };
            let Ok(mut to) = TcpStream::connect(address).await else { return };
            if from.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok() {
                let _ = copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

#[tokio::test]
async fn with_a_proxy_nothing_leaves_past_it_and_deliveries_wait_while_it_is_away() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    drop(listener);
    let mut stack = Stack::builder()
        .env(RETRY_DELAYS, "")
        .env("LOK__DELIVERY__PARK_DELAYS", "500ms,30s")
        .env("LOK__EGRESS__PROXY", format!("http://{address}"))
        .start()
        .await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    stack.publish(&event()).await;
    // The one attempt that the delivery has would be gone after the first time.
    eventually("it is put off again and again", DEADLINE, async || {
        (stack.dispatchers[0].metric("attempts_put_off_total").await >= 2.0).then_some(())
    })
    .await;
    assert_eq!(stack.history(&webhook, "").await["statistics"]["pending"], 1);
    assert_eq!(receiver.requests().len(), 0);

    let listener = TcpListener::bind(address).await.expect("nobody took the port meanwhile");
    tokio::spawn(proxy(listener));
    let request = receiver.expect_request().await;
    assert_eq!(request.header("x-lok-attempt"), Some("1"));
    assert_eq!(settled(&stack, &webhook, 1).await[0]["status"], "success");
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

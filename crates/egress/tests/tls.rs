//! Certificates, and the protocol that TLS agrees on.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod support;

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use egress::{Attempt, AttemptError, Client, Outcome};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use support::{TIMEOUT, config, loopback, post};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// An authority that signs receivers' certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A receiver's TLS with a certificate for `name`, changed by `change`.
    fn tls(
        &self,
        name: &str,
        protocols: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// A client that trusts this authority.
    fn client(&self) -> Client {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(self.pem.as_bytes()).unwrap();
        let mut config = config(loopback());
        config.ca_file = Some(file.path().to_owned());
        // As long as under load, where a connection is never idle.
        config.idle_timeout = TIMEOUT * 60;
        Client::new(config).unwrap()
    }
}

/// A receiver that answers with the HTTP version of the request.
async fn serve(tls: ServerConfig) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/hook", listener.local_addr().unwrap().port());
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let answer = service_fn(async |request: Request<Incoming>| {
                    let version = format!("{:?}", request.version());
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(version))))
                });
                let io = TokioIo::new(stream);
                let _ = if is_h2 {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, answer)
                        .await
                } else {
                    hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await
                };
            });
        }
    });
    url
}

fn body(attempt: &Attempt) -> &[u8] {
    let Outcome::Responded(response) = &attempt.outcome else { panic!("{attempt:?}") };
    &response.body
}

async fn failure(client: &Client, url: &str) -> String {
    let attempt = post(client, url).await;
    let Outcome::Failed(error @ AttemptError::Tls(_)) = &attempt.outcome else { panic!("{attempt:?}") };
    error.to_string()
}

#[tokio::test]
async fn the_newest_protocol_that_both_speak_is_spoken() {
    let authority = Authority::new("trusted");
    let client = authority.client();
    let both = serve(authority.tls("localhost", &["h2", "http/1.1"], |_| {})).await;
    assert_eq!(body(&post(&client, &both).await), b"HTTP/2.0");
    let old = serve(authority.tls("localhost", &["http/1.1"], |_| {})).await;
    assert_eq!(body(&post(&client, &old).await), b"HTTP/1.1");
    let silent = serve(authority.tls("localhost", &[], |_| {})).await;
    assert_eq!(body(&post(&client, &silent).await), b"HTTP/1.1");
}

#[tokio::test]
async fn many_requests_at_once_over_http_2_all_succeed() {
    let authority = Authority::new("trusted");
    let client = authority.client();
    let url = serve(authority.tls("localhost", &["h2"], |_| {})).await;
    let posts: Vec<_> = (0..200)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move { post(&client, &url).await })
        })
        .collect();
    for posted in posts {
        assert_eq!(body(&posted.await.unwrap()), b"HTTP/2.0");
    }
}

/// A receiver's machine that goes away without a word, and another that takes its place.
#[tokio::test]
async fn an_http_2_connection_that_died_unnoticed_is_given_up() {
    let authority = Authority::new("trusted");
    let client = authority.client();
    let url = serve(authority.tls("localhost", &["h2"], |_| {})).await;
    let receiver = url.parse::<http::Uri>().unwrap().port_u16().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/hook", listener.local_addr().unwrap().port());
    let (silence, mut silent) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let mut to = TcpStream::connect(("127.0.0.1", receiver)).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut first, &mut to) => {}
            _ = silent.wait_for(|silent| *silent) => {}
        }
        loop {
            let (mut next, _) = listener.accept().await.unwrap();
            let mut to = TcpStream::connect(("127.0.0.1", receiver)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut next, &mut to).await });
        }
    });
    assert_eq!(body(&post(&client, &url).await), b"HTTP/2.0");
    silence.send_replace(true);
    let start = Instant::now();
    loop {
        let attempt = post(&client, &url).await;
        match attempt.outcome {
            Outcome::Responded(_) => break,
            Outcome::Failed(AttemptError::Timeout(_) | AttemptError::Protocol(_)) => {}
            Outcome::Failed(other) => panic!("{other:?}"),
        }
        assert!(start.elapsed() < TIMEOUT * 15, "requests still go to the dead connection");
    }
}

#[tokio::test]
async fn a_wrong_certificate_is_told_with_what_is_wrong() {
    let authority = Authority::new("trusted");
    let client = authority.client();
    let expired = authority.tls("localhost", &[], |params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(failure(&client, &serve(expired).await).await, "TLS: the certificate has expired");
    let early = authority.tls("localhost", &[], |params| params.not_before = date_time_ymd(4000, 1, 1));
    assert_eq!(failure(&client, &serve(early).await).await, "TLS: the certificate is not valid yet");
    let other = authority.tls("other.example", &[], |_| {});
    assert_eq!(failure(&client, &serve(other).await).await, "TLS: the certificate is for another host name");
    let stranger = Authority::new("stranger").tls("localhost", &[], |_| {});
    assert_eq!(
        failure(&client, &serve(stranger).await).await,
        "TLS: the certificate's issuer is unknown: is the chain complete, or the certificate self-signed?"
    );
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_by_the_connection_s_own_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/hook", listener.local_addr().unwrap());
    let mut config = config(loopback());
    config.timeout = TIMEOUT * 10;
    config.connect_timeout = Duration::from_millis(300);
    let attempt = post(&Client::new(config).unwrap(), &url).await;
    let Outcome::Failed(error) = &attempt.outcome else { panic!("{attempt:?}") };
    assert_eq!(*error, AttemptError::ConnectTimeout(Duration::from_millis(300)));
    assert!(attempt.duration < TIMEOUT, "{attempt:?}");
}

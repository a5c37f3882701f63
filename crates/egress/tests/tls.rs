//! Certificates, and the protocol that TLS agrees on.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use egress::{Attempt, AttemptError, Client, Outcome};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use support::authority::{Authority, authority, provider, server};
use support::{TIMEOUT, config, loopback, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A client that trusts this authority.
fn client_of(authority: &Authority) -> Client {
    let mut config = authority.trusted(config(loopback()));
    // As long as under load, where a connection is never idle.
    config.idle_timeout = TIMEOUT * 60;
    Client::new(config).unwrap()
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
    let client = client_of(&authority);
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
    let mut config = authority.trusted(config(loopback()));
    // Each may begin with a handshake of its own.
    (config.timeout, config.connect_timeout) = (TIMEOUT * 10, TIMEOUT * 10);
    let client = Client::new(config).unwrap();
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
    let client = client_of(&authority);
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
    let client = client_of(&authority);
    let expired = authority.tls("localhost", &[], |params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(failure(&client, &serve(expired).await).await, "TLS: the certificate has expired");
    let early = authority.tls("localhost", &[], |params| params.not_before = date_time_ymd(4000, 1, 1));
    assert_eq!(failure(&client, &serve(early).await).await, "TLS: the certificate is not valid yet");
    let other = authority.tls("other.example", &[], |_| {});
    assert_eq!(failure(&client, &serve(other).await).await, "TLS: the certificate is for another host name");
    let stranger = Authority::new("stranger").tls("localhost", &[], |_| {});
    assert_eq!(failure(&client, &serve(stranger).await).await, UNKNOWN);
    let for_clients = authority.tls("localhost", &[], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(failure(&client, &serve(for_clients).await).await, "TLS: the certificate is not for servers");
}

const UNKNOWN: &str =
    "TLS: the certificate's issuer is unknown: is the chain complete, or the certificate self-signed?";

/// A certificate that vouches for itself.
fn self_signed(params: &CertificateParams) -> ServerConfig {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    server(provider(), vec![certificate], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

#[tokio::test]
async fn a_certificate_that_vouches_for_itself_is_told_as_such() {
    let client = client_of(&Authority::new("trusted"));
    let plain = self_signed(&CertificateParams::new(vec!["localhost".to_owned()]).unwrap());
    assert_eq!(failure(&client, &serve(plain).await).await, UNKNOWN);
    // As `openssl req -x509` makes them.
    let mut params = authority("localhost");
    params.subject_alt_names =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().subject_alt_names;
    let own = failure(&client, &serve(self_signed(&params)).await).await;
    assert_eq!(own, "TLS: the certificate is self-signed, or an authority's own");
}

/// A server that answers the `ClientHello` with these bytes.
async fn server_that_says(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 4096];
        assert!(stream.read(&mut hello).await.unwrap() > 0);
        stream.write_all(&answer).await.unwrap();
        while stream.read(&mut hello).await.is_ok_and(|read| read > 0) {}
    });
    url
}

/// A fatal alert (RFC 8446 §6) of TLS 1.2's version.
fn alert(description: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, description]
}

/// A `ServerHello` of this version (RFC 5246 §7.4.1.3), with `TLS_RSA_WITH_AES_128_CBC_SHA`.
fn server_hello(version: [u8; 2]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.extend([0, 0, 0x2f, 0]);
    let length = u8::try_from(body.len()).unwrap();
    let mut record = vec![22, version[0], version[1], 0, length + 4, 2, 0, 0, length];
    record.extend(body);
    record
}

#[tokio::test]
async fn a_server_of_old_is_told_as_such() {
    let client = client_of(&Authority::new("trusted"));
    for answer in [alert(70), server_hello([3, 1]), server_hello([3, 2])] {
        let failure = failure(&client, &server_that_says(answer).await).await;
        assert_eq!(failure, "TLS: the server speaks neither TLS 1.2 nor TLS 1.3");
    }
}

#[tokio::test]
async fn a_server_that_ends_the_handshake_is_told_with_its_reason() {
    let client = client_of(&Authority::new("trusted"));
    for (description, reason) in [
        (
            40,
            "no cipher suite or key exchange in common, or the server wants a client certificate; TLS 1.2 takes ECDHE \
             with AES-GCM or ChaCha20-Poly1305",
        ),
        (112, "the server does not know this host name"),
        (116, "the server wants a client certificate; there is none"),
        (80, "the server ended the handshake: InternalError"),
    ] {
        let failure = failure(&client, &server_that_says(alert(description)).await).await;
        assert_eq!(failure, format!("TLS: {reason}"));
    }
    // What nobody may choose: it was not offered.
    let unoffered = failure(&client, &server_that_says(server_hello([3, 3])).await).await;
    assert!(unoffered.starts_with("TLS: "), "{unoffered}");
}

#[tokio::test]
async fn a_server_that_closes_within_the_handshake_is_a_failed_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
    });
    let attempt = post(&client_of(&Authority::new("trusted")), &url).await;
    let Outcome::Failed(AttemptError::Connect(reason)) = &attempt.outcome else { panic!("{attempt:?}") };
    assert_eq!(reason, "tls handshake eof");
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

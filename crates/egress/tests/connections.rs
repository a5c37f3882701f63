//! How long connections live, and how many there are.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use egress::{Attempt, AttemptError, Client, Outcome};
use http::HeaderMap;
use support::authority::Authority;
use support::{TIMEOUT, client, config, loopback, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    (listener, url)
}

async fn read_request(stream: &mut TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n{}") {
        request.push(stream.read_u8().await.unwrap());
    }
}

fn body(attempt: &Attempt) -> &[u8] {
    let Outcome::Responded(response) = &attempt.outcome else { panic!("{attempt:?}") };
    &response.body
}

fn spawn_post(client: &Client, url: &str) -> tokio::task::JoinHandle<Attempt> {
    let (client, url) = (client.clone(), url.to_owned());
    tokio::spawn(async move { post(&client, &url).await })
}

async fn closed(stream: &mut TcpStream) -> bool {
    timeout(TIMEOUT * 3, stream.read(&mut [0])).await.is_ok_and(|read| read.is_ok_and(|read| read == 0))
}

/// Nothing must be taken for the answer of a request that was not sent yet: it may be another webhook's.
async fn a_surplus_answer_is_never_taken(first: &[u8], then: &[u8]) {
    let (listener, url) = listen().await;
    let mut config = config(loopback());
    config.idle_timeout = TIMEOUT * 60;
    let client = Client::new(config).unwrap();
    let posting = spawn_post(&client, &url);
    let (mut poisoned, _) = listener.accept().await.unwrap();
    read_request(&mut poisoned).await;
    poisoned.write_all(first).await.unwrap();
    assert_eq!(body(&posting.await.unwrap()), b"ok");
    if !then.is_empty() {
        poisoned.write_all(then).await.unwrap();
        assert!(closed(&mut poisoned).await, "the connection is given up");
    }

    let posting = spawn_post(&client, &url);
    let (mut fresh, _) = timeout(TIMEOUT, listener.accept()).await.expect("a fresh connection").unwrap();
    read_request(&mut fresh).await;
    fresh.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue").await.unwrap();
    assert_eq!(body(&posting.await.unwrap()), b"true");
}

const SURPLUS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";

#[tokio::test]
async fn a_second_answer_right_behind_the_first_is_never_taken() {
    a_surplus_answer_is_never_taken(&[OK, SURPLUS].concat(), &[]).await;
}

#[tokio::test]
async fn a_second_answer_on_an_idle_connection_is_never_taken() {
    a_surplus_answer_is_never_taken(OK, SURPLUS).await;
    a_surplus_answer_is_never_taken(OK, b"\r\n").await;
}

#[tokio::test]
async fn a_body_longer_than_its_length_is_never_taken_for_an_answer() {
    let split = b"HTTP/1.1 204 No Content\r\ncontent-length: 9\r\n\r\n";
    let (listener, url) = listen().await;
    let client = client(loopback());
    let posting = spawn_post(&client, &url);
    let (mut stream, _) = listener.accept().await.unwrap();
    read_request(&mut stream).await;
    stream.write_all(&[split.as_slice(), SURPLUS].concat()).await.unwrap();
    assert_eq!(body(&posting.await.unwrap()), b"");
    let posting = spawn_post(&client, &url);
    let (mut fresh, _) = timeout(TIMEOUT, listener.accept()).await.expect("a fresh connection").unwrap();
    read_request(&mut fresh).await;
    fresh.write_all(OK).await.unwrap();
    assert_eq!(body(&posting.await.unwrap()), b"ok");
}

/// A receiver that always answers at once; its connections are counted.
async fn good_receiver() -> (String, Arc<AtomicU32>) {
    let (listener, url) = listen().await;
    let connections = Arc::new(AtomicU32::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    request.push(byte);
                    if request.ends_with(b"\r\n\r\n{}") {
                        let _ = stream.write_all(OK).await;
                    }
                }
            });
        }
    });
    (url, connections)
}

#[tokio::test]
async fn a_connection_that_is_old_takes_no_more_requests() {
    let (url, connections) = good_receiver().await;
    let mut config = config(loopback());
    config.idle_timeout = TIMEOUT * 60;
    config.connection_lifetime = Duration::from_millis(300);
    let client = Client::new(config).unwrap();
    let start = Instant::now();
    let mut requests = 0;
    while connections.load(Ordering::SeqCst) < 3 {
        assert_eq!(body(&post(&client, &url).await), b"ok");
        requests += 1;
        assert!(start.elapsed() < TIMEOUT * 10, "always the same connection");
    }
    assert!(start.elapsed() >= Duration::from_millis(600), "each has its time");
    assert!(requests > 10, "and many requests");
}

/// TLS wants to say goodbye, behind a body that the receiver never reads.
#[tokio::test]
async fn a_connection_ends_whatever_its_receiver_does() {
    let authority = Authority::new("trusted");
    let tls = TlsAcceptor::from(Arc::new(authority.tls("localhost", &[], |_| {})));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let mut config = authority.trusted(config(loopback()));
    config.idle_timeout = Duration::from_millis(100);
    config.connection_lifetime = Duration::from_millis(100);
    let client = Client::new(config).unwrap();
    let body = Bytes::from(vec![b'x'; 16 * 1024 * 1024]);
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        tls.accept(stream).await.unwrap()
    };
    let (attempt, stream) = tokio::join!(client.post(url.parse().unwrap(), HeaderMap::new(), body), accept);
    assert!(matches!(&attempt.outcome, Outcome::Failed(AttemptError::Timeout(_))), "{attempt:?}");
    let start = Instant::now();
    while client.open_connections() > 0 {
        assert!(start.elapsed() < TIMEOUT * 10, "it stays for ever");
        tokio::task::yield_now().await;
    }
    drop(stream);
}

#[tokio::test]
async fn connections_beyond_the_most_are_not_kept() {
    let mut config = config(loopback());
    config.idle_timeout = TIMEOUT * 60;
    config.max_connections = 2;
    let client = Client::new(config).unwrap();
    let mut receivers = Vec::new();
    for _ in 0..5 {
        let (url, connections) = good_receiver().await;
        assert_eq!(body(&post(&client, &url).await), b"ok");
        receivers.push((url, connections));
    }
    let start = Instant::now();
    while client.open_connections() > 2 {
        assert!(start.elapsed() < TIMEOUT * 10, "{} connections are kept", client.open_connections());
        tokio::task::yield_now().await;
    }
    // The first two are kept, and used.
    for (url, connections) in &receivers[..2] {
        assert_eq!(body(&post(&client, url).await), b"ok");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn idle_connections_to_one_receiver_are_bounded() {
    let (url, connections) = good_receiver().await;
    let mut config = config(loopback());
    config.idle_timeout = TIMEOUT * 60;
    config.max_idle_per_host = 2;
    let client = Client::new(config).unwrap();
    let posts: Vec<_> = (0..20).map(|_| spawn_post(&client, &url)).collect();
    for posted in posts {
        assert_eq!(body(&posted.await.unwrap()), b"ok");
    }
    assert!(connections.load(Ordering::SeqCst) > 2);
    let start = Instant::now();
    while client.open_connections() > 2 {
        assert!(start.elapsed() < TIMEOUT * 10, "{} connections are kept", client.open_connections());
        tokio::task::yield_now().await;
    }
}

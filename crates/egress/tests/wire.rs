//! What goes over the wire, and on which connection.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use egress::{Attempt, AttemptError, Client, Outcome};
use http::{HeaderMap, HeaderName, HeaderValue};
use support::{TIMEOUT, client, loopback, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?a=b", listener.local_addr().unwrap());
    (listener, url)
}

/// Reads one request, head and the body of two bytes.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n{}") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        request.push(byte[0]);
    }
    String::from_utf8(request).unwrap()
}

fn status(attempt: &Attempt) -> u16 {
    let Outcome::Responded(response) = &attempt.outcome else { panic!("{attempt:?}") };
    response.status
}

fn spawn_post(client: &Client, url: &str) -> tokio::task::JoinHandle<Attempt> {
    let (client, url) = (client.clone(), url.to_owned());
    tokio::spawn(async move { post(&client, &url).await })
}

#[tokio::test]
async fn a_request_is_what_the_caller_said_and_no_more() {
    let (listener, url) = listen().await;
    let client = client(loopback());
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-lok-signature", "abc"),
        ("x-lok-event-id", "event-1"),
        ("user-agent", "Lokroom-Webhooks/1.0"),
        ("webhook-id", "event-1"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let posting = tokio::spawn({
        let url = url.clone();
        async move { client.post(url.parse().unwrap(), headers, Bytes::from_static(b"{}")).await }
    });
    let (mut stream, _) = listener.accept().await.unwrap();
    let request = read_request(&mut stream).await;
    stream.write_all(OK).await.unwrap();
    assert_eq!(status(&posting.await.unwrap()), 200);

    let address = listener.local_addr().unwrap();
    let (head, _) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<_> = head.split("\r\n").collect();
    assert_eq!(lines.remove(0), "POST /hook?a=b HTTP/1.1");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "Content-Length: 2",
            "Content-Type: application/json",
            &format!("Host: {address}"),
            "User-Agent: Lokroom-Webhooks/1.0",
            "Webhook-Id: event-1",
            "X-Lok-Event-Id: event-1",
            "X-Lok-Signature: abc",
        ],
        "as the guide spells them; no cookies, no compression"
    );
}

#[tokio::test]
async fn a_connection_whose_answer_was_read_is_used_again() {
    let (listener, url) = listen().await;
    let client = client(loopback());
    let first = spawn_post(&client, &url);
    let (mut stream, _) = listener.accept().await.unwrap();
    read_request(&mut stream).await;
    stream.write_all(OK).await.unwrap();
    assert_eq!(status(&first.await.unwrap()), 200);
    let second = spawn_post(&client, &url);
    read_request(&mut stream).await;
    stream.write_all(OK).await.unwrap();
    assert_eq!(status(&second.await.unwrap()), 200);
}

#[tokio::test]
async fn cookies_are_not_kept() {
    let (listener, url) = listen().await;
    let client = client(loopback());
    for _ in 0..2 {
        let posting = spawn_post(&client, &url);
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        assert!(!request.to_lowercase().contains("cookie"), "{request}");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nset-cookie: a=b; Path=/\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(status(&posting.await.unwrap()), 200);
    }
}

#[tokio::test]
async fn a_connection_that_its_server_closed_while_idle_costs_no_attempt() {
    let (listener, url) = listen().await;
    let client = client(loopback());
    for _ in 0..20 {
        let posting = spawn_post(&client, &url);
        let (mut stream, _) = timeout(TIMEOUT, listener.accept()).await.expect("a new connection").unwrap();
        read_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        assert_eq!(status(&posting.await.unwrap()), 200);
        // Closed by the server, and the client has had the chance to see it.
        stream.shutdown().await.unwrap();
        assert_eq!(timeout(TIMEOUT, stream.read(&mut [0])).await.expect("the client closes too").unwrap(), 0);
    }
}

#[tokio::test]
async fn a_connection_whose_body_was_cut_is_not_used_again() {
    let (listener, url) = listen().await;
    let client = client(loopback());
    let posting = spawn_post(&client, &url);
    let (mut stream, _) = listener.accept().await.unwrap();
    read_request(&mut stream).await;
    let endless = tokio::spawn(async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"400\r\n").await.is_ok() && stream.write_all(&[b'x'; 1024]).await.is_ok() {
            if stream.write_all(b"\r\n").await.is_err() {
                break;
            }
        }
    });
    assert_eq!(status(&posting.await.unwrap()), 200);
    timeout(TIMEOUT * 5, endless).await.expect("the client closes the connection").unwrap();
}

#[tokio::test]
async fn a_request_is_not_repeated_when_the_answer_fails_to_come() {
    let (listener, url) = listen().await;
    let client = client(loopback());
    let posting = spawn_post(&client, &url);
    let (mut stream, _) = listener.accept().await.unwrap();
    read_request(&mut stream).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    let attempt = posting.await.unwrap();
    assert!(matches!(&attempt.outcome, Outcome::Failed(AttemptError::Protocol(_))), "{attempt:?}");
    let again = timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(again.is_err(), "the receiver may have acted on the first");
}

#[tokio::test]
async fn a_status_line_that_drips_in_too_late_is_a_timeout() {
    let (listener, url) = listen().await;
    let posting = spawn_post(&client(loopback()), &url);
    let (mut stream, _) = listener.accept().await.unwrap();
    read_request(&mut stream).await;
    let mut drip = tokio::time::interval(TIMEOUT / 8);
    for byte in OK {
        drip.tick().await;
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
    }
    let attempt = posting.await.unwrap();
    assert!(matches!(&attempt.outcome, Outcome::Failed(AttemptError::Timeout(_))), "{attempt:?}");
    assert!(attempt.duration < TIMEOUT * 2, "{attempt:?}");
}

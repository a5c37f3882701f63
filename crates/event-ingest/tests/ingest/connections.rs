//! Connections of clients that make the server wait.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::seen::{event, expect_stored, ingest_alone};

/// Far beyond every time that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends `start`, then a byte now and then, until the server has closed the connection; returns what it said.
async fn drip(address: &str, start: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(start.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let dripping = async {
        while writer.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(200)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = dripping => unreachable!("it never ends"),
        read = timeout(PATIENCE, reader.read_to_end(&mut answer)) => drop(read.expect("the connection is closed")),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_drip_are_given_up_while_events_are_taken() {
    let mut stack = ingest_alone().start().await;
    let url = stack.ingests[0].url().await;
    let address = url.strip_prefix("http://").unwrap();
    let first = "GET /v1/events HTTP/1.1\r\nhost: x\r\nx: ";
    let second = "GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/events HTTP/1.1\r\nhost: x\r\nx: ";
    let dripping = async { tokio::join!(drip(address, first), drip(address, second)) };
    let publishing = async {
        for id in ["one", "two", "three"] {
            stack.ingest().post_text("/v1/events", event(id).to_json()).await.expect(202);
        }
    };
    let ((first, second), ()) = tokio::join!(dripping, publishing);
    for answer in [first, second] {
        assert!(
            answer.contains("HTTP/1.1 408 ") && answer.contains(r#""code":"request_timeout""#),
            "{answer}"
        );
    }
    expect_stored(&stack, 3).await;
}

#[tokio::test]
async fn heads_have_a_size() {
    let mut stack = ingest_alone().start().await;
    let url = stack.ingests[0].url().await;
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    let head = format!("GET /v1/events HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(33 * 1024));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains(r#""code":"head_too_large""#), "{answer}");
}

//! Over HTTP/1.1.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use egress::{AttemptError, Outcome};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::siege::{Aftermath, Attacker, MAX_SENT, Siege};
use crate::support::{LIMIT, post};

/// What is said of one that sends without end.
const FLOOD: &str = "the receiver sent more than a response may have";

async fn read_request(attacker: &mut Attacker) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n{}") {
        request.extend(attacker.read(1).await);
    }
    String::from_utf8(request).unwrap()
}

async fn attacked(attack: impl AsyncFnOnce(&mut Attacker)) -> Aftermath {
    let siege = Siege::plain().run(async |attacker| {
        read_request(attacker).await;
        attack(attacker).await;
    });
    siege.await
}

/// The same, until the attempt's time is over.
async fn attacked_until_the_deadline(attack: impl AsyncFnOnce(&mut Attacker)) -> Aftermath {
    let siege = Siege::plain().until_the_deadline().run(async |attacker| {
        read_request(attacker).await;
        attack(attacker).await;
    });
    siege.await
}

/// The receiver starts as `head` says and goes on with `flood` for ever.
async fn flooded(head: &str, flood: &str) -> Aftermath {
    attacked(async |attacker| {
        attacker.send(head).await;
        attacker.flood(flood).await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_end() {
    flooded("HTTP/1.1 200 OK\r\n", "x-more: and more\r\n").await.protocol_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_without_end() {
    assert_eq!(flooded("HTTP/1.1 200 OK\r\nx: ", "x").await.protocol_error(), "message head is too large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_end() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551613\r\n\r\n";
    let response = flooded(head, "x").await.response();
    assert_eq!((response.status, response.body.len()), (200, LIMIT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunked_body_without_end() {
    let head = "HTTP/1.1 500 Internal Server Error\r\ntransfer-encoding: chunked\r\n\r\n";
    let response = flooded(head, "1\r\nx\r\n").await.response();
    assert_eq!((response.status, response.body.len()), (500, LIMIT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_byte_by_byte() {
    attacked_until_the_deadline(async |attacker| attacker.drip(vec![b"H"; 1000]).await)
        .await
        .protocol_error_or_timeout();
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    attacked_until_the_deadline(async |attacker| attacker.drip(head.chunks(1)).await).await.assert_timeout();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_byte_by_byte() {
    let aftermath = attacked_until_the_deadline(async |attacker| {
        attacker.send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
        attacker.drip(vec![b"x"; 1000]).await;
    });
    let response = aftermath.await.response();
    assert_eq!(response.status, 200);
    assert!((1..100).contains(&response.body.len()), "{response:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage() {
    flooded("", "\u{fffd}\u{0}").await.protocol_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_a_head_as_of_old() {
    let aftermath = attacked(async |attacker| {
        attacker.send("<html>HTTP/0.9</html>\n").await;
        attacker.close().await;
    });
    aftermath.await.protocol_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_responses_without_end() {
    assert_eq!(flooded("", "HTTP/1.1 102 Processing\r\n\r\n").await.protocol_error(), FLOOD);
    assert_eq!(flooded("", "HTTP/1.1 100 Continue\r\nx: y\r\n\r\n").await.protocol_error(), FLOOD);
}

/// Good answers are no credit for a flood.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_responses_without_end_after_many_answers() {
    const ANSWERS: usize = 500;
    let client = Siege::plain().client();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    // One connection, mostly: the client may open another while the first is on its way back to the idle ones.
    let answered = Arc::new(AtomicUsize::new(0));
    let (flooded, mut sent) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let mut attacker = Attacker::over(listener.accept().await.unwrap().0);
            let (answered, flooded) = (answered.clone(), flooded.clone());
            tokio::spawn(async move {
                loop {
                    read_request(&mut attacker).await;
                    if answered.fetch_add(1, Ordering::SeqCst) == ANSWERS {
                        attacker.flood("HTTP/1.1 102 Processing\r\n\r\n").await;
                        return flooded.send(attacker.sent()).await.unwrap();
                    }
                    attacker.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            });
        }
    });
    for _ in 0..ANSWERS {
        assert!(matches!(post(&client, &url).await.outcome, Outcome::Responded(_)));
    }
    let attempt = post(&client, &url).await;
    let flooded = AttemptError::Protocol(FLOOD.to_owned());
    assert!(matches!(&attempt.outcome, Outcome::Failed(error) if *error == flooded), "{attempt:?}");
    // What the answers could have had is 90 MiB.
    let sent = sent.recv().await.unwrap();
    assert!(sent < MAX_SENT, "{sent} bytes were taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_responses_again_and_again() {
    attacked_until_the_deadline(async |attacker| {
        attacker.drip(vec!["HTTP/1.1 103 Early Hints\r\n\r\n"; 1000]).await;
    })
    .await
    .assert_timeout();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_a_size_beyond_measure() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let response = flooded(&format!("{head}fffffffffffffff\r\n"), "x").await.response();
    assert_eq!((response.status, response.body.len()), (200, LIMIT));
    let response = flooded(&format!("{head}fffffffffffffffffffffffff\r\n"), "x").await.response();
    assert_eq!((response.status, response.body.len()), (200, 0));
    let response = flooded(head, "0").await.response();
    assert_eq!((response.status, response.body.len()), (200, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_extension_without_end() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;";
    let response = flooded(head, "a").await.response();
    assert_eq!((response.status, response.body.len()), (200, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_without_end() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n";
    let response = flooded(head, "x: y\r\n").await.response();
    assert_eq!((response.status, &*response.body), (200, b"ok".as_slice()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_that_are_lies() {
    for lie in ["-1", "2\r\ncontent-length: 3", "2, 3", "0x2", "99999999999999999999999", "+2", ""] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {lie}\r\n\r\nok");
        let aftermath = attacked(async |attacker| assert!(attacker.send(&head).await)).await;
        aftermath.protocol_error();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_beyond_what_comes() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nso far";
    let response =
        attacked_until_the_deadline(async |attacker| assert!(attacker.send(head).await)).await.response();
    assert_eq!((response.status, &*response.body), (200, b"so far".as_slice()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_closed_within_the_head() {
    for head in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"] {
        let aftermath = attacked(async |attacker| {
            attacker.send(head).await;
            attacker.close().await;
        });
        assert_eq!(aftermath.await.protocol_error(), "connection closed before message completed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_closed_within_the_body() {
    for length in ["content-length: 10", "transfer-encoding: chunked"] {
        let head = format!("HTTP/1.1 200 OK\r\n{length}\r\n\r\n2\r\nok");
        let aftermath = attacked(async |attacker| {
            attacker.send(&head).await;
            attacker.close().await;
        });
        assert_eq!(aftermath.await.response().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_reset() {
    for (head, answered) in
        [("HTTP/1.1 200 OK\r\n", false), ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", true)]
    {
        let siege = Siege::plain().run_raw(async |stream| {
            // Whatever was sent is on its way when the connection is reset.
            stream.set_zero_linger().unwrap();
            let mut attacker = Attacker::over(stream);
            read_request(&mut attacker).await;
            attacker.send(head).await;
            sleep(Duration::from_millis(100)).await;
            drop(attacker);
            Attacker::over(tokio::io::empty())
        });
        let aftermath = siege.await;
        if answered {
            assert_eq!(aftermath.response().status, 200);
        } else {
            aftermath.protocol_error();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_that_nobody_asked_for() {
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    assert_eq!(flooded(head, "\u{0}").await.response().status, 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_to_an_internal_address() {
    let internal = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = internal.local_addr().unwrap();
    for status in [301, 302, 303, 307, 308] {
        let head = format!(
            "HTTP/1.1 {status} Moved\r\nlocation: http://{address}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        let aftermath = attacked(async |attacker| {
            attacker.send(&head).await;
            attacker.close().await;
        });
        assert_eq!(aftermath.await.response().status, status);
    }
    assert!(
        timeout(Duration::from_millis(50), internal.accept()).await.is_err(),
        "the redirect was followed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_body_is_kept_as_it_came() {
    let siege = Siege::plain().run(async |attacker| {
        let request = read_request(attacker).await;
        assert!(!request.to_lowercase().contains("encoding"), "{request}");
        // What starts a gzip member; what follows would be anything.
        attacker.send(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n\x1f\x8b\x08\x00").await;
        attacker.flood([0]).await;
    });
    let response = siege.await.response();
    assert_eq!((response.body.len(), &response.body[..4]), (LIMIT, b"\x1f\x8b\x08\x00".as_slice()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_never_reads() {
    let siege =
        Siege { body: Bytes::from(vec![b'x'; 32 * 1024 * 1024]), ..Siege::plain() }.until_the_deadline();
    let aftermath = siege.run(async |_| sleep(Duration::from_millis(1500)).await);
    aftermath.await.assert_timeout();
}

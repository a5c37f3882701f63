//! Clients that make the server wait, while others are served.

use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::retry::AttemptNumber;
use http::Method;
use serde_json::{Value, json};
use service::Clock;
use store::{AttemptRecord, AttemptResult};
use testkit::{ApiClient, Stack, eventually_ok};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::raw::{PATIENCE, RawAnswer, connect};
use crate::{UNLIMITED, given, problem};

/// As long as no connection may be left alone here; the times below are a fraction of it.
const LONG: Duration = Duration::from_secs(20);

async fn impatient() -> (Stack, String) {
    let builder = Stack::builder().ingests(0).dispatchers(0).env("LOK__API__REQUEST_TIMEOUT", "1s");
    let builder = builder.env("LOK__API__WRITE_TIMEOUT", "1s");
    let mut stack =
        UNLIMITED.into_iter().fold(builder, |builder, (name, value)| builder.env(name, value)).start().await;
    let url = stack.api.as_mut().expect("an API").url().await;
    (stack, url)
}

/// Sends `start`, then a byte now and then, until the server has closed the connection; returns what it said.
async fn drip(mut stream: TcpStream, start: &[u8], byte: u8) -> RawAnswer {
    stream.write_all(start).await.expect("the service reads");
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    let dripping = async {
        while writer.write_all(&[byte]).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = dripping => unreachable!("it never ends"),
        read = timeout(LONG, reader.read_to_end(&mut answer)) => drop(read.expect("the connection is closed")),
    }
    RawAnswer::read(&answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_that_drip_are_given_up_while_others_are_served() {
    let (stack, url) = impatient().await;
    let token = testkit::token::hs256(stack.hs256_secret(), "user_1");
    let post = format!(
        "POST /api/webhooks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"
    );
    let dripping = async {
        let clients = (0..50).map(async |number| {
            let (start, byte) = match number % 3 {
                0 => ("GET / HTTP/1.1\r\nhost: ".to_owned(), b'x'),
                1 => (format!("{post}content-length: 1000\r\n\r\n{{"), b' '),
                _ => (format!("{post}transfer-encoding: chunked\r\n\r\nfff\r\n{{"), b' '),
            };
            let answer = drip(connect(&url).await, start.as_bytes(), byte).await;
            assert!(answer.status == 408 && answer.is_problem(), "{number}: {answer:?}");
        });
        futures_util::future::join_all(clients).await;
    };
    let good = async {
        for _ in 0..20 {
            stack.api("user_2").get("/api/webhooks").await.expect(200);
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(dripping, good);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_is_given_up() {
    let (stack, url) = impatient().await;
    let token = testkit::token::hs256(stack.hs256_secret(), "user_1");
    // More than the system buffers: the largest answer there is, asked for again and again.
    let ask = format!("GET /api/event-types HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    let mut deaf = connect(&url).await;
    let started = Instant::now();
    let asking = async {
        while started.elapsed() < LONG {
            if deaf.write_all(ask.as_bytes()).await.is_err() {
                return true;
            }
        }
        false
    };
    // Once nothing is taken any more, the server resets the connection, whatever it still holds.
    let is_closed = timeout(LONG, asking).await.unwrap_or(false);
    assert!(is_closed, "{:?}", started.elapsed());
    stack.api("user_2").get("/api/webhooks").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_connections_and_keeps_those_it_has() {
    let builder = Stack::builder().ingests(0).dispatchers(0).env("LOK__API__CONNECTIONS_PER_ADDRESS", "5");
    let mut stack = builder.start().await;
    let url = stack.api.as_mut().unwrap().url().await;
    let api = stack.api("user_1");
    api.get("/api/webhooks").await.expect(200);
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut stream = connect(&url).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap_or(0);
        held.push((RawAnswer::read(&answer[..read]).status, stream));
    }
    let refused = held.iter().filter(|(status, _)| matches!(status, 0 | 429)).count();
    assert!((5..=6).contains(&refused), "{:?}", held.iter().map(|(status, _)| status).collect::<Vec<_>>());
    api.get("/api/webhooks").await.expect(200);
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_not_waited_for() {
    let (stack, url) = impatient().await;
    let token = testkit::token::hs256(stack.hs256_secret(), "user_1");
    let head = format!(
        "POST /api/webhooks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: 9999999999\r\n\r\n"
    );
    let answer = crate::raw::exchange(&url, head.as_bytes()).await;
    assert!(answer.status == 413 && answer.is_problem(), "{answer:?}");
    assert_eq!(problem(stack.api("user_1").get("/nowhere").await, 404), "not_found");
}

/// What a receiver may answer that is longest as JSON.
fn longest_response() -> String {
    "\u{1}".repeat(16 * 1024)
}

/// A webhook of a user with a full page of such answers.
async fn given_long_history(stack: &Stack, api: &ApiClient) -> String {
    let (path, _) = given(api).await;
    let now = Clock::system().now();
    let mut attempts = Vec::new();
    for _ in 0..100 {
        let test = api.post(&format!("{path}/test"), &json!({})).await.expect(202).json();
        attempts.push(AttemptRecord {
            delivery: test["deliveryId"].as_str().expect("an id").parse().expect("an id"),
            attempt: AttemptNumber::FIRST,
            started_at: now,
            duration: Duration::from_millis(42),
            response_status: Some(200),
            response_body: Some(longest_response()),
            error: None,
            result: AttemptResult::Success,
        });
    }
    assert_eq!(
        stack.database.store().record_attempts(&attempts).await.expect("they are recorded").len(),
        100
    );
    format!("{path}/deliveries?pageSize=100")
}

/// Asks, reads the status and no more.
async fn ask_and_stop_reading(url: &str, path: &str, token: &str) -> (u16, TcpStream) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let address = url.strip_prefix("http://").expect("a plain URL").parse().expect("an address");
    let mut stream = socket.connect(address).await.expect("the service listens");
    let ask = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.expect("the service reads");
    let mut start = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut start)).await.expect("an answer").expect("a status line");
    (RawAnswer::read(&start).status, stream)
}

/// An API with long times, and few other limits; its URL.
async fn patient(settings: &[(&str, &str)]) -> (Stack, String) {
    let more = [
        ("LOK__API__WRITE_TIMEOUT", "60s"),
        ("LOK__LIMITS__TEST_EVENTS_PER_WEBHOOK", "1000"),
        ("LOK__LIMITS__TEST_EVENTS_PER_USER", "1000"),
    ];
    let settings = UNLIMITED.iter().chain(&more).chain(settings);
    let builder = Stack::builder().ingests(0).dispatchers(0);
    let mut stack = settings.fold(builder, |builder, (name, value)| builder.env(name, *value)).start().await;
    let url = stack.api.as_mut().expect("an API").url().await;
    (stack, url)
}

/// Asks for more than a user may have, without taking it: what is held, and how many answers were begun.
async fn ask_for_all(stack: &Stack, url: &str, user: &str, path: &str) -> (Vec<TcpStream>, usize) {
    let token = testkit::token::hs256(stack.hs256_secret(), user);
    let asked = (0..20).map(|_| ask_and_stop_reading(url, path, &token));
    let (statuses, held): (Vec<_>, Vec<_>) = futures_util::future::join_all(asked).await.into_iter().unzip();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{user}: {statuses:?}");
    (held, statuses.iter().filter(|status| **status == 200).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_have_so_much_memory_and_a_user_a_part_of_it() {
    let (mut stack, url) = patient(&[]).await;
    let mut held = Vec::new();
    let mut paths = Vec::new();
    // In memory a page has 1.6 MiB, as JSON ten megabytes; a user has 8 MiB of 32.
    for user in ["user_1", "user_2", "user_3", "user_4"] {
        let path = given_long_history(&stack, &stack.api(user)).await;
        let (streams, served) = ask_for_all(&stack, &url, user, &path).await;
        assert_eq!(served, 5, "{user}");
        held.push(streams);
        paths.push(path);
    }
    let (api, path) = (stack.api("user_1"), &paths[0]);
    let refused = api.get(path).await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(problem(refused, 429), "rate_limited");
    let late = given_long_history(&stack, &stack.api("user_5")).await;
    assert_eq!(problem(stack.api("user_5").get(&late).await, 503), "service_unavailable");
    api.get("/api/webhooks").await.expect(200);
    // What is not sent takes none of it.
    api.raw(Method::HEAD, path, None, Bytes::new()).await.expect(200);
    let memory = stack.api.as_mut().expect("an API").memory();
    assert!(memory.peak < 256 * 1024 * 1024, "{memory:?}");

    drop(held);
    let page = eventually_ok("there is memory again", testkit::DEADLINE, async || {
        let answer = api.get(path).await;
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
    })
    .await;
    let deliveries = page["deliveries"].as_array().unwrap();
    assert!(deliveries.len() == 100 && deliveries.iter().all(|it| it["response"] == longest_response()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_takes_no_answers_gets_so_many_and_others_are_served() {
    let settings = [("LOK__API__USER_CONCURRENCY", "8"), ("LOK__API__ANSWER_MEMORY", "128MiB")];
    let (stack, url) = patient(&settings).await;
    let path = given_long_history(&stack, &stack.api("user_1")).await;
    let token = testkit::token::hs256(stack.hs256_secret(), "user_1");
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(ask_and_stop_reading(&url, &path, &token).await);
    }
    let statuses: Vec<_> = held.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 429, 429]);
    let refused = stack.api("user_1").get("/api/webhooks").await;
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(problem(refused, 429), "rate_limited");
    let path = given_long_history(&stack, &stack.api("user_2")).await;
    stack.api("user_2").get(&path).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_unknown_length_has_no_chunks_for_a_client_that_does_not_know_them() {
    let (stack, url) = patient(&[]).await;
    let path = given_long_history(&stack, &stack.api("user_1")).await;
    let token = testkit::token::hs256(stack.hs256_secret(), "user_1");
    // As many proxies ask.
    let ask = format!("GET {path} HTTP/1.0\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n");
    let answer = crate::raw::exchange(&url, ask.as_bytes()).await;
    assert!(answer.status == 200 && !answer.head.contains("transfer-encoding"), "{}", answer.head);
    let page: Value = serde_json::from_str(&answer.body).expect("JSON, whole, and nothing else");
    assert_eq!(page["deliveries"].as_array().map(Vec::len), Some(100));
}

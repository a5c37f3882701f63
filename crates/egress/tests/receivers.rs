//! Whatever a receiver does, an attempt ends by its deadline and says what was wrong.

mod support;

use std::time::Duration;

use egress::{Attempt, AttemptError, Outcome, Response};
use support::{LIMIT, Receiver, TIMEOUT, client, loopback, post};

async fn attempt_at(answer: impl Into<Vec<u8>>) -> Attempt {
    let receiver = Receiver::start(answer).await;
    let attempt = post(&client(loopback()), &receiver.url()).await;
    assert!(attempt.duration < TIMEOUT + Duration::from_millis(500), "{attempt:?}");
    attempt
}

async fn response_to(answer: impl Into<Vec<u8>>) -> Response {
    let attempt = attempt_at(answer).await;
    let Outcome::Responded(response) = attempt.outcome else { panic!("{attempt:?}") };
    response
}

async fn failure_of(answer: impl Into<Vec<u8>>) -> AttemptError {
    let attempt = attempt_at(answer).await;
    let Outcome::Failed(error) = attempt.outcome else { panic!("{attempt:?}") };
    error
}

#[tokio::test]
async fn a_redirect_is_the_answer() {
    let response =
        response_to("HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(response.status, 302);
}

#[tokio::test]
async fn a_body_is_kept_up_to_the_limit() {
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", LIMIT * 4).into_bytes();
    answer.resize(answer.len() + LIMIT * 4, b'x');
    let response = response_to(answer).await;
    assert_eq!((response.status, response.body.len()), (200, LIMIT));
}

#[tokio::test]
async fn a_status_line_in_time_is_a_response_also_where_the_body_never_ends() {
    let response = response_to("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nso far").await;
    assert_eq!((response.status, &*response.body), (200, b"so far".as_slice()));
}

#[tokio::test]
async fn silence_is_a_timeout() {
    assert_eq!(failure_of("").await, AttemptError::Timeout(TIMEOUT));
}

#[tokio::test]
async fn informational_responses_are_no_response() {
    let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000);
    assert!(matches!(failure_of(flood).await, AttemptError::Timeout(_) | AttemptError::Protocol(_)));
}

#[tokio::test]
async fn what_is_not_http_is_told_as_such() {
    for answer in ["220 mail.example ESMTP\r\n", "\u{0}\u{1}\u{2}\u{3}", "HTTP/1.1 abc\r\n\r\n"] {
        assert!(matches!(failure_of(answer).await, AttemptError::Protocol(_)), "{answer:?}");
    }
}

#[tokio::test]
async fn headers_without_end_are_cut_off() {
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "x-more: and more\r\n".repeat(100_000));
    assert!(matches!(failure_of(endless).await, AttemptError::Protocol(_)));
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_a_failed_connection() {
    let port = Receiver::start("").await.stop().await;
    let attempt = post(&client(loopback()), &format!("http://127.0.0.1:{port}/")).await;
    assert!(matches!(attempt.outcome, Outcome::Failed(AttemptError::Connect(_))), "{attempt:?}");
}

#[tokio::test]
async fn a_receiver_without_tls_is_told_as_such() {
    let receiver = Receiver::start("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let attempt = post(&client(loopback()), &format!("https://127.0.0.1:{}/", receiver.port)).await;
    assert!(matches!(attempt.outcome, Outcome::Failed(AttemptError::Tls(_))), "{attempt:?}");
}

//! Over HTTP/2, in frames (RFC 9113 §4.1).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use egress::{Attempt, AttemptError, Client, Outcome};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::siege::{Aftermath, Attacker, Siege, peak_memory};
use crate::support::{LIMIT, TIMEOUT, config, loopback, post};

const FLOOD: &str = "the receiver sent more than a response may have";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:status: 200` of the static table (RFC 7541, Appendix A).
const STATUS_200: &[u8] = &[0x88];

/// `:status: 103`, written out.
const STATUS_103: &[u8] = b"\x08\x03103";

/// The client's request.
const STREAM: u32 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header that is not remembered: its name and value, each shorter than 127 bytes.
fn header(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// A header of 4,000 bytes that is remembered (RFC 7541 §6.2.1).
fn large_header() -> Vec<u8> {
    [[0x40, 1, b'x', 0x7f, 0xa1, 0x1e].as_slice(), &[b'x'; 4000]].concat()
}

/// The header that was remembered last.
const NAMED_AGAIN: u8 = 0xbe;

async fn read_preface(attacker: &mut Attacker) {
    assert_eq!(attacker.read(24).await, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}

/// Reads frames up to the head of a request.
async fn read_request(attacker: &mut Attacker) {
    loop {
        let head = attacker.read(9).await;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        attacker.read(length as usize).await;
        if head[3] == HEADERS {
            return;
        }
    }
}

async fn attacked_with(siege: Siege, settings: &[u8], attack: impl AsyncFnOnce(&mut Attacker)) -> Aftermath {
    let aftermath = siege.run(async |attacker| {
        attacker.send(frame(SETTINGS, 0, 0, settings)).await;
        read_preface(attacker).await;
        read_request(attacker).await;
        attack(attacker).await;
    });
    aftermath.await
}

async fn attacked(attack: impl AsyncFnOnce(&mut Attacker)) -> Aftermath {
    attacked_with(Siege::with_tls(&["h2"]), &[], attack).await
}

/// The same, until the attempt's time is over.
async fn attacked_until_the_deadline(attack: impl AsyncFnOnce(&mut Attacker)) -> Aftermath {
    attacked_with(Siege::with_tls(&["h2"]).until_the_deadline(), &[], attack).await
}

/// The receiver sends `start` and then `flood` for ever.
async fn flooded(start: impl AsRef<[u8]>, flood: impl AsRef<[u8]>) -> Aftermath {
    attacked(async |attacker| {
        attacker.send(start).await;
        attacker.flood(flood).await;
    })
    .await
}

/// The contract gives it the whole of the attempt's time. A receiver that is busy acknowledges nothing either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_acknowledges_nothing_for_seven_seconds_and_then_answers() {
    let answered = attacked(async |receiver| {
        sleep(Duration::from_secs(7)).await;
        receiver.send(frame(HEADERS, END_STREAM | END_HEADERS, STREAM, STATUS_200)).await;
        receiver.close().await;
    });
    assert_eq!(answered.await.response().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_end() {
    let start = frame(HEADERS, 0, STREAM, STATUS_200);
    let more = frame(CONTINUATION, 0, STREAM, &header("x-more", "and more").repeat(500));
    flooded(start, more).await.protocol_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuations_of_nothing() {
    let start = frame(HEADERS, 0, STREAM, STATUS_200);
    flooded(start, frame(CONTINUATION, 0, STREAM, &[])).await.protocol_error();
}

/// A few bytes that stand for many: a value of 4,000 bytes that is remembered, and then named again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_unfold() {
    let block = [STATUS_200, &large_header(), &[NAMED_AGAIN; 8000]].concat();
    flooded(frame(HEADERS, END_HEADERS, STREAM, &block), frame(PING, 0, 0, &[0; 8])).await.protocol_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_end() {
    let start = frame(HEADERS, END_HEADERS, STREAM, STATUS_200);
    let response = flooded(start, frame(DATA, 0, STREAM, &[b'x'; 16 * 1024])).await.response();
    assert_eq!((response.status, response.body.len()), (200, LIMIT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_nothing_without_end() {
    let start = frame(HEADERS, END_HEADERS, STREAM, STATUS_200);
    let response = flooded(start, frame(DATA, 0, STREAM, &[])).await.response();
    assert_eq!((response.status, response.body.len()), (200, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_byte_by_byte() {
    let aftermath = attacked_until_the_deadline(async |attacker| {
        attacker.send(frame(HEADERS, END_HEADERS, STREAM, STATUS_200)).await;
        attacker.drip(vec![frame(DATA, 0, STREAM, b"x"); 1000]).await;
    });
    let response = aftermath.await.response();
    assert!((1..100).contains(&response.body.len()), "{response:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_byte_by_byte() {
    let block = [STATUS_200, &header("x", "y").repeat(50)].concat();
    let head = frame(HEADERS, END_HEADERS, STREAM, &block);
    attacked_until_the_deadline(async |attacker| attacker.drip(head.chunks(1)).await).await.assert_timeout();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_responses_without_end() {
    let interim = frame(HEADERS, END_HEADERS, STREAM, STATUS_103);
    assert_eq!(flooded("", interim).await.protocol_error(), FLOOD);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_settings() {
    assert_eq!(flooded("", frame(SETTINGS, 0, 0, &[])).await.protocol_error(), FLOOD);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings() {
    assert_eq!(flooded("", frame(PING, 0, 0, &[7; 8])).await.protocol_error(), FLOOD);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_priorities_and_of_frames_that_mean_nothing() {
    for kind in [2, 0x5c] {
        let stream = if kind == 2 { STREAM } else { 0 };
        assert_eq!(flooded("", frame(kind, 0, stream, &[0, 0, 0, 3, 1])).await.protocol_error(), FLOOD);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets() {
    flooded("", frame(RST_STREAM, 0, STREAM, &[0, 0, 0, 2])).await.protocol_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_never_opens() {
    // SETTINGS_INITIAL_WINDOW_SIZE (4) of 0.
    let settings = [0, 4, 0, 0, 0, 0];
    let body = Bytes::from(vec![b'x'; 1024 * 1024]);
    let siege = Siege { body, ..Siege::with_tls(&["h2"]) }.until_the_deadline();
    let aftermath = attacked_with(siege, &settings, async |_| sleep(Duration::from_millis(1500)).await);
    aftermath.await.assert_timeout();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_beyond_measure() {
    flooded("", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])).await.protocol_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_farewell_instead_of_an_answer() {
    flooded("", frame(GOAWAY, 0, 0, &[0; 8])).await.protocol_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_that_nobody_asked_for() {
    let promise = [[0, 0, 0, 2].as_slice(), STATUS_200].concat();
    flooded("", frame(PUSH_PROMISE, END_HEADERS, STREAM, &promise)).await.protocol_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_beyond_measure() {
    flooded([0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1], "x").await.protocol_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage() {
    flooded("", [0xfe, 1, 0xfd, 2]).await.protocol_error();
    flooded("", "HTTP/1.1 200 OK\r\n\r\n").await.protocol_error();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence() {
    attacked_until_the_deadline(async |_| sleep(Duration::from_millis(1500)).await).await.assert_timeout();
}

/// The more answers are awaited, the more may come; but what is thrown away must be so at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_responses_do_not_pile_up() {
    const REQUESTS: u32 = 90;
    let siege = Siege::with_tls(&["h2"]);
    let client = siege.client();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let tls = TlsAcceptor::from(Arc::new(siege.tls.clone().unwrap()));
    let attacking = tokio::spawn(async move {
        let mut attacker = Attacker::over(tls.accept(listener.accept().await.unwrap().0).await.unwrap());
        attacker.send(frame(SETTINGS, 0, 0, &[])).await;
        read_preface(&mut attacker).await;
        read_request(&mut attacker).await;
        attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, STREAM, STATUS_200)).await;
        for _ in 0..REQUESTS {
            read_request(&mut attacker).await;
        }
        // Each unfolds to a head of 60 KB.
        let remembered = frame(HEADERS, END_HEADERS, STREAM + 2, &[STATUS_103, &large_header()].concat());
        attacker.send(remembered).await;
        let block = [STATUS_103, &[NAMED_AGAIN; 15]].concat();
        let streams = (1..=REQUESTS).map(|request| STREAM + 2 * request);
        let interim: Vec<_> = streams.map(|stream| frame(HEADERS, END_HEADERS, stream, &block)).collect();
        attacker.flood(interim.concat()).await;
        attacker.sent()
    });
    assert!(matches!(post(&client, &url).await.outcome, Outcome::Responded(_)));
    let before = peak_memory();
    let posts: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move { post(&client, &url).await })
        })
        .collect();
    for posted in posts {
        let attempt = posted.await.unwrap();
        let Outcome::Failed(error) = &attempt.outcome else { panic!("{attempt:?}") };
        assert!(matches!(error, AttemptError::Protocol(_) | AttemptError::Timeout(_)), "{attempt:?}");
    }
    let sent = attacking.await.unwrap();
    let grown = peak_memory() - before;
    println!("{sent} bytes sent, {grown} bytes of memory");
    assert!(sent > 1024 * 1024, "the flood was not large: {sent}");
    assert!(grown < 24 * 1024 * 1024, "{grown} bytes of memory");
}

/// A client that would keep its connections, and a receiver for it.
async fn kept() -> (Siege, Client, TcpListener, String) {
    let siege = Siege::with_tls(&["h2"]);
    let mut config = siege.authority.trusted(config(loopback()));
    config.idle_timeout = TIMEOUT * 60;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    (siege, Client::new(config).unwrap(), listener, url)
}

async fn accept(siege: &Siege, listener: &TcpListener) -> Attacker {
    let tls = TlsAcceptor::from(Arc::new(siege.tls.clone().unwrap()));
    let mut attacker = Attacker::over(tls.accept(listener.accept().await.unwrap().0).await.unwrap());
    attacker.send(frame(SETTINGS, 0, 0, &[])).await;
    read_preface(&mut attacker).await;
    read_request(&mut attacker).await;
    attacker
}

fn spawn_post(client: &Client, url: &str) -> JoinHandle<Attempt> {
    let (client, url) = (client.clone(), url.to_owned());
    tokio::spawn(async move { post(&client, &url).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_answer_was_not_read_to_its_end_gets_no_more_requests() {
    let head = frame(HEADERS, END_HEADERS, STREAM, STATUS_200);
    let cut = [head, frame(DATA, 0, STREAM, &[b'x'; LIMIT + 1])].concat();
    for (answer, answered) in [(Vec::new(), false), (cut, true)] {
        let (siege, client, listener, url) = kept().await;
        let posting = spawn_post(&client, &url);
        let mut first = accept(&siege, &listener).await;
        first.send(answer).await;
        assert_eq!(matches!(posting.await.unwrap().outcome, Outcome::Responded(_)), answered);
        let posting = spawn_post(&client, &url);
        let second = timeout(TIMEOUT, accept(&siege, &listener)).await;
        assert!(second.is_ok(), "the next request has a connection of its own");
        posting.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_beside_one_that_is_not_answered_goes_on() {
    let (siege, client, listener, url) = kept().await;
    let posting = spawn_post(&client, &url);
    let mut receiver = accept(&siege, &listener).await;
    receiver.send(frame(HEADERS, END_HEADERS | END_STREAM, STREAM, STATUS_200)).await;
    assert!(matches!(posting.await.unwrap().outcome, Outcome::Responded(_)));

    let unanswered = spawn_post(&client, &url);
    read_request(&mut receiver).await;
    sleep(TIMEOUT / 2).await;
    let beside = spawn_post(&client, &url);
    read_request(&mut receiver).await;
    assert!(matches!(unanswered.await.unwrap().outcome, Outcome::Failed(AttemptError::Timeout(_))));
    receiver.send(frame(HEADERS, END_HEADERS | END_STREAM, STREAM + 4, STATUS_200)).await;
    let attempt = beside.await.unwrap();
    assert!(matches!(attempt.outcome, Outcome::Responded(_)), "{attempt:?}");
}

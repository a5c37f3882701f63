//! Connections as the worst clients use them, over raw sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, web};
use futures_util::stream::{self, Stream};
use ingress::Bounds;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// More than the system buffers between two ends.
const LARGE: usize = 32 * 1024 * 1024;

/// Far beyond every time that is waited for here.
const PATIENCE: Duration = Duration::from_secs(20);

fn bounds() -> Bounds {
    Bounds {
        workers: 1,
        connections: 100,
        connections_per_address: 100,
        proxies: Vec::new(),
        head_bytes: 4096,
        head_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(60),
        answer_timeout: Duration::from_secs(60),
        write_timeout: Duration::from_secs(60),
        grace: Duration::from_secs(1),
    }
}

/// A body whose length nobody knows before.
fn parts() -> impl Stream<Item = io::Result<web::Bytes>> {
    stream::iter(["one ", "two ", "three"].map(|part| Ok(part.into())))
}

/// A server, stopped when the test is over.
struct Server {
    address: SocketAddr,
    handle: ServerHandle,
}

impl Server {
    fn start(bounds: &Bounds) -> Self {
        let application = || {
            App::new()
                .route("/", web::get().to(async || "hello"))
                .route("/large", web::get().to(async || "x".repeat(LARGE)))
                .route("/body", web::post().to(async |body: web::Bytes| body.len().to_string()))
                .route("/parts", web::get().to(async || HttpResponse::Ok().streaming(parts())))
                .route("/never", web::get().to(std::future::pending::<HttpResponse>))
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let (server, address) = ingress::listen(address, bounds, application).unwrap();
        let handle = server.handle();
        tokio::spawn(server);
        Self { address, handle }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A good client is served, at once.
    async fn serves(&self) {
        let answer =
            exchange(self.connect().await, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

/// Sends, and reads until the server closes.
async fn exchange(mut stream: TcpStream, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    read_to_end(&mut stream).await
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ =
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads one answer with a short body from a connection that stays open.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    let mut buffer = [0; 4096];
    while !answer.contains("\r\n\r\n") {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert!(read > 0, "closed after {answer:?}");
        answer.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    answer
}

/// Sends a byte now and then until the server has enough; returns what it said.
async fn drip(mut stream: TcpStream, bytes: &[u8]) -> (String, Duration) {
    let started = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let dripping = async {
        for byte in bytes.iter().cycle() {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let reading = timeout(PATIENCE, reader.read_to_end(&mut answer));
    tokio::select! {
        () = dripping => unreachable!("it never ends"),
        read = reading => drop(read.expect("the server closes the connection")),
    }
    (String::from_utf8_lossy(&answer).into_owned(), started.elapsed())
}

fn is_problem(answer: &str, status: u16, code: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains("content-type: application/problem+json\r\n"), "{answer}");
    assert!(answer.contains(&format!(r#""code":"{code}""#)), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_drips_is_given_up_and_others_are_served_meanwhile() {
    let server = Server::start(&bounds());
    let dripping =
        drip(server.connect().await, b"GET / HTTP/1.1\r\nx: y\r\nx: y\r\nx: y\r\nx: y\r\nx: y\r\nx: y\r\n");
    let serving = async {
        for _ in 0..10 {
            server.serves().await;
            sleep(Duration::from_millis(50)).await;
        }
    };
    let ((answer, took), ()) = tokio::join!(dripping, serving);
    is_problem(&answer, 408, "request_timeout");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_head_of_a_connection_may_not_drip_either() {
    let server = Server::start(&bounds());
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_answer(&mut stream).await;
    let (answer, took) = drip(stream, b"GET / HTTP/1.1\r\nx: y\r\nx: y\r\nx: y\r\n").await;
    is_problem(&answer, 408, "request_timeout");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_second_head_that_came_with_the_first_is_not_waited_for_without_end() {
    let server = Server::start(&Bounds { idle_timeout: Duration::from_secs(1), ..bounds() });
    let answer =
        exchange(server.connect().await, b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nho").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_word_is_closed_without_one() {
    let server = Server::start(&bounds());
    assert_eq!(exchange(server.connect().await, b"").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_body_that_nobody_takes_is_not_waited_for() {
    let server = Server::start(&bounds());
    let mut stream = server.connect().await;
    let head = b"POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await.unwrap();
    assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 404"));
    let (more, took) = drip(stream, b"1\r\nx\r\n").await;
    assert!(!more.contains("HTTP/1.1"), "nothing was asked: {more}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    server.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_takes_and_that_does_not_come_is_not_waited_for_either() {
    let server = Server::start(&Bounds { idle_timeout: Duration::from_secs(1), ..bounds() });
    let head = b"POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = exchange(server.connect().await, head).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_have_a_size_and_bodies_do_not_count_as_heads() {
    let server = Server::start(&bounds());
    let head = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-filler: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4))
    };
    let answer = exchange(server.connect().await, head(4096).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    is_problem(&exchange(server.connect().await, head(4097).as_bytes()).await, 431, "head_too_large");
    is_problem(&exchange(server.connect().await, head(200_000).as_bytes()).await, 431, "head_too_large");
    let url = format!("GET /{}", "x".repeat(1_000_000));
    is_problem(&exchange(server.connect().await, url.as_bytes()).await, 431, "head_too_large");

    let body = "x".repeat(100_000);
    let request = format!("POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut stream = server.connect().await;
    for _ in 0..2 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_read_closes_the_connection_and_one_that_is_does_not() {
    let server = Server::start(&Bounds { write_timeout: Duration::from_secs(3), ..bounds() });
    let request = b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut deaf = server.connect().await;
    deaf.write_all(request).await.unwrap();
    server.serves().await;
    // What is sent to a connection that is gone fails in the end.
    let gone = async {
        while deaf.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the connection is closed");

    let whole = exchange(server.connect().await, request).await;
    assert!(whole.len() > LARGE, "{}", whole.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_answer_is_given_up() {
    let server = Server::start(&Bounds { answer_timeout: Duration::from_millis(200), ..bounds() });
    let request = b"GET /never HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = exchange(server.connect().await, request).await;
    is_problem(&answer, 503, "service_unavailable");
    assert!(answer.contains("retry-after: 5\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_connections_and_proxies_have_more() {
    let few = Bounds { connections_per_address: 3, head_timeout: Duration::from_secs(60), ..bounds() };
    let server = Server::start(&few);
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        read_answer(&mut stream).await;
        held.push(stream);
    }
    let refused = read_to_end(&mut server.connect().await).await;
    is_problem(&refused, 429, "too_many_connections");
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    drop(held);
    let freed = async {
        loop {
            let mut stream = server.connect().await;
            let sent = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
            if sent.is_ok() && read_to_end(&mut stream).await.starts_with("HTTP/1.1 200") {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, freed).await.expect("places are given back");

    let proxied = Server::start(&Bounds { proxies: vec!["127.0.0.0/8".parse().unwrap()], ..few });
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(proxied.connect().await);
    }
    proxied.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_in_one_go_are_answered_in_their_order() {
    let server = Server::start(&bounds());
    let one = "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12345";
    let last = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = exchange(server.connect().await, format!("{}{last}", one.repeat(100)).as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 101);
    assert!(answer.ends_with("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_chunks_reads_until_the_connection_ends() {
    let server = Server::start(&bounds());
    let ask = async |head: &str| {
        let answer = exchange(server.connect().await, head.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        (head.to_ascii_lowercase(), body.to_owned())
    };
    for head in [
        "GET /parts HTTP/1.0\r\n\r\n",
        "GET /parts HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
        "GET /parts HTTP/1.0\r\nhost: x\r\nte: chunked\r\n\r\n",
    ] {
        let (head, body) = ask(head).await;
        assert!(head.starts_with("http/1.0 200"), "{head}");
        for field in ["transfer-encoding", "content-length", "keep-alive"] {
            assert!(!head.contains(field), "{head}");
        }
        assert_eq!(body, "one two three");
    }
    let (head, body) = ask("GET /parts HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(head.contains("transfer-encoding: chunked") && body.ends_with("0\r\n\r\n"), "{head} {body}");
    let (head, body) = ask("GET / HTTP/1.0\r\n\r\n").await;
    assert!(head.contains("content-length: 5") && body == "hello", "{head} {body}");
}

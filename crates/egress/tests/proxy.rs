//! The operator's proxy, and the environment's, which are none.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::network::AddressPolicy;
use egress::{AttemptError, Client, InvalidProxy, Outcome, Proxy};
use support::authority::Authority;
use support::{Receiver, TIMEOUT, config, loopback, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A proxy that writes down what it is asked, and does it or answers as it was told.
struct TestProxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl TestProxy {
    async fn start(refusal: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let written = heads.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, written.clone(), refusal));
            }
        });
        Self { port, heads }
    }

    fn client(&self, addresses: AddressPolicy) -> Client {
        let mut config = config(addresses);
        config.proxy = Some(Proxy::parse(&format!("http://127.0.0.1:{}", self.port)).unwrap());
        Client::new(config).unwrap()
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>, refusal: Option<&'static str>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    heads.lock().unwrap().push(head.clone());
    if let Some(refusal) = refusal {
        let _ = stream.write_all(refusal.as_bytes()).await;
        let _ = stream.shutdown().await;
        while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
        return;
    }
    let address = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
    let Ok(mut to) = TcpStream::connect(address).await else {
        let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
        return;
    };
    stream.write_all(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
}

fn error(outcome: Outcome) -> AttemptError {
    let Outcome::Failed(error) = outcome else { panic!("{outcome:?}") };
    error
}

#[tokio::test]
async fn the_proxy_is_told_the_address_that_was_checked_and_not_the_name() {
    let proxy = TestProxy::start(None).await;
    let receiver = Receiver::start(OK).await;
    let attempt = post(&proxy.client(loopback()), &format!("http://localhost:{}/hook", receiver.port)).await;
    let Outcome::Responded(response) = &attempt.outcome else { panic!("{attempt:?}") };
    assert_eq!((response.status, &*response.body), (200, b"ok".as_slice()));
    let heads = proxy.heads();
    let (v4, v6) = (format!("127.0.0.1:{}", receiver.port), format!("[::1]:{}", receiver.port));
    let expected = |address: &str| format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    // The receiver listens on one of the name's addresses only.
    assert_eq!(heads.last(), Some(&expected(&v4)));
    assert!(heads.iter().all(|head| [expected(&v4), expected(&v6)].contains(head)), "{heads:?}");
}

#[tokio::test]
async fn a_certificate_is_checked_against_the_name_also_through_a_proxy() {
    let authority = Authority::new("trusted");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = TlsAcceptor::from(Arc::new(authority.tls("localhost", &[], |_| {})));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = tls.accept(stream).await else { return };
                assert_eq!(stream.get_ref().1.server_name(), Some("localhost"));
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(OK.as_bytes()).await;
            });
        }
    });
    let proxy = TestProxy::start(None).await;
    let mut config = authority.trusted(config(loopback()));
    config.proxy = Some(Proxy::parse(&format!("http://127.0.0.1:{}", proxy.port)).unwrap());
    let client = Client::new(config).unwrap();
    let attempt = post(&client, &format!("https://localhost:{port}/")).await;
    assert!(matches!(attempt.outcome, Outcome::Responded(_)), "{attempt:?}");
    let attempt = post(&client, &format!("https://127.0.0.1:{port}/")).await;
    assert_eq!(
        error(attempt.outcome),
        AttemptError::Tls("the certificate is for another host name".to_owned())
    );
}

#[tokio::test]
async fn an_internal_address_is_refused_before_the_proxy_is_asked() {
    let proxy = TestProxy::start(None).await;
    let client = proxy.client(AddressPolicy::default());
    for host in ["127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1"] {
        let attempt = post(&client, &format!("http://{host}/")).await;
        assert!(matches!(error(attempt.outcome), AttemptError::Blocked(_)), "{host}");
    }
    // Also under a name.
    let attempt = post(&client, "http://localhost/").await;
    assert!(matches!(error(attempt.outcome), AttemptError::Blocked(_) | AttemptError::Url(_)));
    assert!(proxy.heads().is_empty(), "{:?}", proxy.heads());
}

#[tokio::test]
async fn credentials_go_to_the_proxy_and_nowhere_else() {
    let proxy = TestProxy::start(None).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(loopback());
    let url = format!("http://lok%40room:p%3Ass@127.0.0.1:{}/", proxy.port);
    config.proxy = Some(Proxy::parse(&url).unwrap());
    assert!(!format!("{config:?}").contains("ss@"), "{config:?}");
    let client = Client::new(config).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let posting = tokio::spawn(async move { post(&client, &url).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n{}") {
        request.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(OK.as_bytes()).await.unwrap();
    assert!(matches!(posting.await.unwrap().outcome, Outcome::Responded(_)));
    let request = String::from_utf8(request).unwrap();
    assert!(request.starts_with("POST / HTTP/1.1\r\n"), "{request}");
    assert!(!request.to_lowercase().contains("proxy"), "{request}");
    // `lok@room:p:ss`.
    assert!(
        proxy.heads()[0].contains("\r\nProxy-Authorization: Basic bG9rQHJvb206cDpzcw==\r\n"),
        "{:?}",
        proxy.heads()
    );
}

#[tokio::test]
async fn what_the_proxy_does_wrong_is_not_laid_to_the_receiver() {
    for (answer, reason) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-Authenticate: Basic realm=\"out\"\r\n\r\n",
            "it does not let us in",
        ),
        ("HTTP/1.1 429 Too Many Requests\r\n\r\n", "it does not let us in"),
        ("", "it closed the connection"),
        ("HTTP/1.1 200", "it closed the connection"),
        ("SSH-2.0-OpenSSH\r\n", "its answer is not HTTP: invalid HTTP version"),
    ] {
        let proxy = TestProxy::start(Some(answer)).await;
        let error = error(post(&proxy.client(loopback()), "http://127.0.0.1:9/").await.outcome);
        assert_eq!(error, AttemptError::Proxy(reason.to_owned()));
        assert!(error.is_ours());
    }
    let endless: &'static str = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(100_000)).leak();
    let proxy = TestProxy::start(Some(endless)).await;
    let attempt = post(&proxy.client(loopback()), "http://127.0.0.1:9/").await;
    assert_eq!(error(attempt.outcome), AttemptError::Proxy("its answer is too long".to_owned()));

    let port = Receiver::start("").await.stop().await;
    let mut config = config(loopback());
    config.proxy = Some(Proxy::parse(&format!("http://127.0.0.1:{port}")).unwrap());
    let error = error(post(&Client::new(config).unwrap(), "http://127.0.0.1:9/").await.outcome);
    let AttemptError::Proxy(reason) = &error else { panic!("{error:?}") };
    assert!(reason.starts_with("it cannot be reached: "), "{reason}");
    assert!(!reason.contains("127.0.0.1"), "developers need not know where it is: {reason}");
}

#[tokio::test]
async fn what_the_proxy_says_of_one_destination_is_a_failed_connection_to_it() {
    for (answer, status) in [
        ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\n\r\n", 302),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", 502),
        ("HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\r\n", 503),
        ("HTTP/1.1 504 Gateway Timeout\r\n\r\n", 504),
    ] {
        let proxy = TestProxy::start(Some(answer)).await;
        let error = error(post(&proxy.client(loopback()), "http://127.0.0.1:9/").await.outcome);
        let reason = format!("127.0.0.1:9: the egress proxy did not connect, status {status}");
        assert_eq!(error, AttemptError::Connect(reason));
        assert!(!error.is_ours());
    }
}

/// Were it put off, the delivery would be until its event is dropped, and the developer would read nothing of it.
#[tokio::test]
async fn a_proxy_that_denies_an_address_fails_the_attempt_and_the_developer_reads_why() {
    for (answer, status) in [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", 403),
        // Smokescreen's.
        (
            "HTTP/1.1 407 Request rejected by proxy\r\ncontent-type: text/plain\r\n\
             x-smokescreen-error: denied\r\ncontent-length: 0\r\n\r\n",
            407,
        ),
        ("HTTP/1.1 451 Unavailable For Legal Reasons\r\n\r\n", 451),
    ] {
        let proxy = TestProxy::start(Some(answer)).await;
        let error = error(post(&proxy.client(loopback()), "http://127.0.0.1:9/").await.outcome);
        assert!(!error.is_ours(), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!("blocked: the address may not be reached: the egress proxy refuses it (status {status})")
        );
    }
}

/// What it says is no answer to the request, and not the proxy's mistake: a developer could make the proxy look broken.
#[tokio::test]
async fn a_receiver_that_speaks_first_is_not_taken_for_a_proxy_that_fails() {
    let proxy = TestProxy::start(Some("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")).await;
    let error = error(post(&proxy.client(loopback()), "http://127.0.0.1:9/").await.outcome);
    assert_eq!(error, AttemptError::Protocol("the receiver spoke before it was asked".to_owned()));
    assert!(!error.is_ours());
}

#[tokio::test]
async fn a_receiver_that_the_proxy_cannot_reach_is_a_failed_connection() {
    let proxy = TestProxy::start(None).await;
    let port = Receiver::start("").await.stop().await;
    let attempt = post(&proxy.client(loopback()), &format!("http://127.0.0.1:{port}/")).await;
    let expected = format!("127.0.0.1:{port}: the egress proxy did not connect, status 502");
    assert_eq!(error(attempt.outcome), AttemptError::Connect(expected));
}

#[tokio::test]
async fn a_proxy_that_hangs_ends_by_the_connection_s_own_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(loopback());
    config.timeout = TIMEOUT * 10;
    config.connect_timeout = Duration::from_millis(300);
    config.proxy = Some(Proxy::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap());
    let attempt = post(&Client::new(config).unwrap(), "http://127.0.0.1:9/").await;
    assert!(matches!(attempt.outcome, Outcome::Failed(AttemptError::ConnectTimeout(_))), "{attempt:?}");
    assert!(attempt.duration < TIMEOUT, "{attempt:?}");
}

#[test]
fn a_proxy_is_given_as_an_http_url() {
    for (url, shown) in [
        ("http://proxy.internal:3128", "Proxy(proxy.internal:3128)"),
        ("http://user:password@10.0.0.1:8080/", "Proxy(10.0.0.1:8080)"),
        ("http://[fd00::1]", "Proxy(fd00::1:80)"),
    ] {
        assert_eq!(format!("{:?}", Proxy::parse(url).unwrap()), shown);
    }
    for url in [
        "",
        "proxy:3128",
        "https://proxy:3128",
        "socks5://proxy:1080",
        "http://",
        "http://proxy/path",
        "http://proxy/?a",
    ] {
        assert_eq!(Proxy::parse(url).unwrap_err(), InvalidProxy, "{url}");
    }
}

/// The variable by which the test tells its child process where the receiver is.
const RECEIVER: &str = "EGRESS_TEST_RECEIVER";

#[tokio::test]
async fn the_environment_s_proxies_are_not_asked() {
    if let Ok(url) = std::env::var(RECEIVER) {
        let attempt = post(&Client::new(config(loopback())).unwrap(), &url).await;
        assert!(
            matches!(&attempt.outcome, Outcome::Responded(response) if response.status == 200),
            "{attempt:?}"
        );
        return;
    }
    let proxy = TestProxy::start(None).await;
    let receiver = Receiver::start(OK).await;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "the_environment_s_proxies_are_not_asked"]).env(RECEIVER, receiver.url());
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, format!("http://127.0.0.1:{}", proxy.port));
    }
    child.env_remove("NO_PROXY").env_remove("no_proxy");
    let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(receiver.connections(), 1);
    assert!(proxy.heads().is_empty(), "{:?}", proxy.heads());
}

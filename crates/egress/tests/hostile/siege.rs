//! An attempt at a receiver that is the test's own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use egress::{AttemptError, Client, Outcome, Response};
use http::HeaderMap;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::support::authority::Authority;
use crate::support::{TIMEOUT, config, loopback, post};

/// How late things may be on a machine that is busy.
const SLACK: Duration = Duration::from_secs(2);

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_millis(100);

/// An attempt that ends by something else than its deadline, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest that a siege takes; it means that the client holds on to what it should have given up.
const DEADLINE: Duration = Duration::from_secs(30);

/// What an attacker gets rid of, at most: what is read of one answer, and what the kernel takes on both sides.
pub(crate) const MAX_SENT: usize = 24 * 1024 * 1024;

/// Memory of the whole process.
const MAX_MEMORY: usize = 160 * 1024 * 1024;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The attacker's end of a connection.
pub(crate) struct Attacker {
    stream: Box<dyn Stream>,
    sent: usize,
}

impl Attacker {
    pub(crate) fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream), sent: 0 }
    }

    /// Bytes that it got rid of.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// Sends; whether the client is still there.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let written = written.await.is_ok();
        self.sent += bytes.len();
        written
    }

    /// Sends the same again and again, until the client is gone.
    pub(crate) async fn flood(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let many = bytes.repeat((32 * 1024 / bytes.len()).max(1));
        while self.send(&many).await {}
    }

    /// Sends a part at a time, slowly, until the client is gone or nothing is left.
    pub(crate) async fn drip(&mut self, parts: impl IntoIterator<Item = impl AsRef<[u8]>>) {
        for part in parts {
            if !self.send(part).await {
                return;
            }
            sleep(TIMEOUT / 16).await;
        }
    }

    pub(crate) async fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.stream.read_exact(&mut read).await.unwrap();
        read
    }

    pub(crate) async fn close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    async fn until_closed(&mut self) {
        let mut ignored = [0; 4096];
        while self.stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
    }
}

/// The URL of a good receiver, whose answer takes a while.
async fn neighbour() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n{}") {
            request.push(stream.read_u8().await.unwrap());
        }
        sleep(TIMEOUT / 4).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood").await;
        let _ = stream.read_u8().await;
    });
    url
}

/// What a siege came to.
#[derive(Debug)]
pub(crate) struct Aftermath(Outcome);

impl Aftermath {
    pub(crate) fn response(self) -> Response {
        let Outcome::Responded(response) = self.0 else { panic!("{self:?}") };
        response
    }

    pub(crate) fn error(self) -> AttemptError {
        let Outcome::Failed(error) = self.0 else { panic!("{self:?}") };
        error
    }

    /// The reason of what is no valid answer.
    pub(crate) fn protocol_error(self) -> String {
        let AttemptError::Protocol(reason) = self.error() else { panic!("not an error of the protocol") };
        reason
    }

    pub(crate) fn protocol_error_or_timeout(self) {
        let error = self.error();
        assert!(matches!(error, AttemptError::Protocol(_) | AttemptError::Timeout(_)), "{error:?}");
    }

    pub(crate) fn assert_timeout(self) {
        assert_eq!(self.error(), AttemptError::Timeout(TIMEOUT));
    }
}

/// A receiver that means harm, and the request that it gets.
pub(crate) struct Siege {
    pub(crate) tls: Option<ServerConfig>,
    pub(crate) body: Bytes,
    /// The attempt's, and the connection's.
    pub(crate) timeouts: (Duration, Duration),
    pub(crate) authority: Authority,
}

impl Siege {
    pub(crate) fn plain() -> Self {
        Self {
            tls: None,
            body: Bytes::from_static(b"{}"),
            timeouts: (PATIENCE, PATIENCE),
            authority: Authority::new("trusted"),
        }
    }

    /// With an attempt that ends by its deadline.
    pub(crate) fn until_the_deadline(self) -> Self {
        Self { timeouts: (TIMEOUT, TIMEOUT), ..self }
    }

    /// TLS with what the client trusts.
    pub(crate) fn with_tls(protocols: &[&str]) -> Self {
        let siege = Self::plain();
        let tls = siege.authority.tls("localhost", protocols, |_| {});
        Self { tls: Some(tls), ..siege }
    }

    /// TLS that is made with the authority which the client trusts.
    pub(crate) fn with_tls_of(make: impl FnOnce(&Authority) -> ServerConfig) -> Self {
        let siege = Self::plain();
        Self { tls: Some(make(&siege.authority)), ..siege }
    }

    /// A client that trusts the receiver.
    pub(crate) fn client(&self) -> Client {
        let mut config = self.authority.trusted(config(loopback()));
        (config.timeout, config.connect_timeout) = self.timeouts;
        config.idle_timeout = IDLE;
        Client::new(config).unwrap()
    }

    /// Makes one request; `attack` has its connection from the start, or from the end of the TLS handshake.
    pub(crate) async fn run(self, attack: impl AsyncFnOnce(&mut Attacker)) -> Aftermath {
        let tls = self.tls.clone();
        self.run_raw(async |stream: TcpStream| {
            let mut attacker = match tls {
                None => Attacker::over(stream),
                Some(tls) => Attacker::over(TlsAcceptor::from(Arc::new(tls)).accept(stream).await.unwrap()),
            };
            attack(&mut attacker).await;
            attacker
        })
        .await
    }

    /// The same with what `attack` makes of the TCP connection.
    pub(crate) async fn run_raw(self, attack: impl AsyncFnOnce(TcpStream) -> Attacker) -> Aftermath {
        let client = self.client();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{port}/hook");

        let attacking = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut attacker = attack(stream).await;
            attacker.until_closed().await;
            attacker.sent
        };
        let attempted = tokio::spawn({
            let (client, url, body) = (client.clone(), url.clone(), self.body.clone());
            async move { client.post(url.parse().unwrap(), HeaderMap::new(), body).await }
        });
        let elsewhere = tokio::spawn({
            let (client, url) = (client.clone(), neighbour().await);
            async move { post(&client, &url).await }
        });
        let (sent, attempt, elsewhere) = tokio::join!(timeout(DEADLINE, attacking), attempted, elsewhere);
        let (attempt, elsewhere) = (attempt.unwrap(), elsewhere.unwrap());
        let Outcome::Responded(good) = &elsewhere.outcome else { panic!("the neighbour: {elsewhere:?}") };
        assert_eq!((good.status, &*good.body), (200, b"good".as_slice()));
        let sent = sent.expect("the client gives the connection up");
        assert!(attempt.duration < self.timeouts.0 + SLACK, "{attempt:?}");
        assert!(sent < MAX_SENT, "{sent} bytes were taken");
        let memory = peak_memory();
        assert!(memory < MAX_MEMORY, "{memory} bytes of memory");

        tokio::select! {
            biased;
            _ = listener.accept() => {}
            again = post(&client, &url) => panic!("the connection was used again: {again:?}"),
        }
        none_is_left(&client).await;
        Aftermath(attempt.outcome)
    }
}

async fn none_is_left(client: &Client) {
    let start = Instant::now();
    while client.open_connections() > 0 {
        assert!(start.elapsed() < DEADLINE, "{} connections are left", client.open_connections());
        sleep(Duration::from_millis(10)).await;
    }
}

/// The most memory that this process had so far, in bytes.
pub(crate) fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

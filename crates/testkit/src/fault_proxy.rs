//! A TCP proxy that fails when told.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use url::Url;

/// Bytes read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Chunks on their way through, per connection and direction: 1 MiB. More stay with their sender.
const MAX_CHUNKS: usize = 64;

/// What a proxy does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Passes everything on.
    Pass,
    /// Closes new connections at once.
    Cut,
    /// Passes nothing on and closes nothing: a network that swallows packets.
    Frozen,
    /// Passes on what clients say, and nothing of what the server answers.
    Muted,
}

#[derive(Debug, Clone, Copy)]
struct State {
    mode: Mode,
    /// How long bytes are on their way, each way.
    delay: Duration,
    /// How often all connections were closed: one that is older than the last time ends.
    cuts: u64,
}

/// Who is being passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

impl State {
    fn passes(self, side: Side) -> bool {
        match self.mode {
            Mode::Pass => true,
            Mode::Muted => side == Side::Client,
            Mode::Cut | Mode::Frozen => false,
        }
    }
}

/// A TCP proxy on 127.0.0.1, for services that are to lose their database or broker. Gone when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    /// A thread of its own. On a test's thread it would keep connections open while the test blocks it to clean up, and
    /// `DROP DATABASE` waits for a backend that waits for a client to go on.
    runtime: Option<Runtime>,
}

impl FaultProxy {
    /// Starts passing on to `host:port`.
    pub async fn start(target: impl Into<String>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("the system has room for a thread");
        let state = watch::Sender::new(State { mode: Mode::Pass, delay: Duration::ZERO, cuts: 0 });
        let (target, states) = (target.into(), state.clone());
        let (bound, address) = oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
            let _ = bound.send(listener.local_addr().expect("a bound socket has an address"));
            serve(listener, target, states).await;
        });
        let address = address.await.expect("the proxy listens");
        Self { address, state, runtime: Some(runtime) }
    }

    /// Starts passing on to the server that `url` names, and makes `url` name the proxy.
    pub async fn put_before(url: &mut String, default_port: u16) -> Self {
        let mut parsed: Url = url.parse().expect("the server's URL is valid");
        let host = parsed.host_str().expect("the server's URL has a host");
        let proxy = Self::start(format!("{host}:{}", parsed.port().unwrap_or(default_port))).await;
        parsed.set_host(Some("127.0.0.1")).expect("the URL can have a host");
        parsed.set_port(Some(proxy.address().port())).expect("the URL can have a port");
        *url = parsed.into();
        proxy
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections, and new ones at once.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.mode = Mode::Cut;
            state.cuts += 1;
        });
    }

    /// Lets all connections stay and nothing through.
    pub fn freeze(&self) {
        self.state.send_modify(|state| state.mode = Mode::Frozen);
    }

    /// Lets clients through and holds back what the server answers. Followed by [`FaultProxy::cut`]: the server did
    /// what it was asked for, and nobody knows.
    pub fn mute(&self) {
        self.state.send_modify(|state| state.mode = Mode::Muted);
    }

    /// Passes everything on, this much later each way: a server far away.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| (state.mode, state.delay) = (Mode::Pass, delay));
    }

    /// Passes everything on again, at once; connections that were held go on.
    pub fn restore(&self) {
        self.delay(Duration::ZERO);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, target: String, state: watch::Sender<State>) {
    // Connections end with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(pass_on(stream, target.clone(), state.subscribe()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass_on(stream: TcpStream, target: String, mut state: watch::Receiver<State>) {
    let State { mode, cuts, .. } = *state.borrow();
    if mode == Mode::Cut {
        return;
    }
    let Ok(upstream) = TcpStream::connect(&target).await else { return };
    let _ = (stream.set_nodelay(true), upstream.set_nodelay(true));
    let ((of_client, to_client), (of_server, to_server)) = (stream.into_split(), upstream.into_split());
    let (client_state, server_state) = (state.clone(), state.clone());
    tokio::select! {
        // First: what was held back must not get through when all passes again right after the cut.
        biased;
        _ = state.wait_for(|state| state.cuts != cuts) => {}
        () = pump(Side::Client, of_client, to_server, client_state) => {}
        () = pump(Side::Server, of_server, to_client, server_state) => {}
    }
}

/// What was read, and when it is there.
type Chunk = (Instant, Bytes);

/// Passes on what one side says, until it has said everything or the other side listens no more.
async fn pump(side: Side, from: OwnedReadHalf, to: OwnedWriteHalf, state: watch::Receiver<State>) {
    let (under_way, arriving) = mpsc::channel(MAX_CHUNKS);
    let reading = read(from, under_way, state.clone());
    tokio::select! {
        () = write(side, to, arriving, state) => {}
        // Ends only after `write`, which ends when the last chunk is through.
        () = async { reading.await; std::future::pending().await } => {}
    }
}

async fn read(mut from: OwnedReadHalf, under_way: mpsc::Sender<Chunk>, state: watch::Receiver<State>) {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        if from.read_buf(&mut chunk).await.unwrap_or(0) == 0 {
            return;
        }
        let due = Instant::now() + state.borrow().delay;
        if under_way.send((due, chunk.freeze())).await.is_err() {
            return;
        }
    }
}

/// What was read before it was held back is passed on after it: TCP loses nothing in between.
async fn write(
    side: Side,
    mut to: OwnedWriteHalf,
    mut arriving: mpsc::Receiver<Chunk>,
    mut state: watch::Receiver<State>,
) {
    while let Some((due, chunk)) = arriving.recv().await {
        sleep_until(due).await;
        let passes = state.wait_for(|state| state.passes(side)).await.is_ok();
        if !passes || to.write_all(&chunk).await.is_err() {
            return;
        }
    }
    // The end is said no earlier than anything else would be.
    let _ = state.wait_for(|state| state.passes(side)).await;
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;

    /// A server that sends everything back, and its address.
    async fn echo() -> (JoinHandle<()>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut from, mut to) = stream.into_split();
            tokio::io::copy(&mut from, &mut to).await.unwrap();
        });
        (server, address)
    }

    #[tokio::test]
    async fn a_delayed_connection_loses_nothing_and_costs_the_delay_each_way_once() {
        const DELAY: Duration = Duration::from_millis(150);
        let (_server, address) = echo().await;
        let proxy = FaultProxy::start(address.to_string()).await;
        proxy.delay(DELAY);
        let (mut from, mut to) = TcpStream::connect(proxy.address()).await.unwrap().into_split();

        let started = Instant::now();
        let sent: Vec<u8> = (0..=255).cycle().take(200_000).collect();
        let mut received = vec![0; sent.len()];
        let (written, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut received));
        written.and(read.map(drop)).unwrap();

        assert_eq!(received, sent);
        let took = started.elapsed();
        assert!(took >= 2 * DELAY, "{took:?}");
        assert!(took < 2 * DELAY + Duration::from_secs(1), "the delay is not paid by every chunk: {took:?}");
    }
}

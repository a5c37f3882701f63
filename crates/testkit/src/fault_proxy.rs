//! A TCP proxy that fails when told.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes on their way through, per connection and direction.
const BUFFER_BYTES: usize = 16 * 1024;

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
    server: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts passing on to `host:port`.
    pub async fn start(target: impl Into<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = watch::Sender::new(State { mode: Mode::Pass, cuts: 0 });
        let server = tokio::spawn(serve(listener, target.into(), state.clone()));
        Self { address, state, server }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections, and new ones at once.
    pub fn cut(&self) {
        self.state.send_modify(|state| *state = State { mode: Mode::Cut, cuts: state.cuts + 1 });
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

    /// Passes everything on again; connections that were held go on.
    pub fn restore(&self) {
        self.state.send_modify(|state| state.mode = Mode::Pass);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.server.abort();
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
    let State { mode, cuts } = *state.borrow();
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

/// Passes on what one side says. What was read before it was held back is passed on after it: TCP loses nothing in
/// between.
async fn pump(
    side: Side,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let passes = state.wait_for(|state| state.passes(side)).await.is_ok();
        if read == 0 || !passes || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

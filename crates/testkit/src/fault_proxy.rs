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
    /// Closes the connections there are, and new ones at once.
    Cut,
    /// Passes nothing on and closes nothing: a network that swallows packets.
    Frozen,
}

/// A TCP proxy on 127.0.0.1, for services that are to lose their database or broker. Gone when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    server: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts passing on to `host:port`.
    pub async fn start(target: impl Into<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let mode = watch::Sender::new(Mode::Pass);
        let server = tokio::spawn(serve(listener, target.into(), mode.clone()));
        Self { address, mode, server }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections, and new ones at once.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Lets all connections stay and nothing through.
    pub fn freeze(&self) {
        self.mode.send_replace(Mode::Frozen);
    }

    /// Passes everything on again; connections that were frozen go on.
    pub fn restore(&self) {
        self.mode.send_replace(Mode::Pass);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, target: String, mode: watch::Sender<Mode>) {
    // Connections end with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(pass_on(stream, target.clone(), mode.subscribe()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass_on(stream: TcpStream, target: String, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(upstream) = TcpStream::connect(&target).await else { return };
    let _ = (stream.set_nodelay(true), upstream.set_nodelay(true));
    let ((from, to), (from_target, to_target)) = (stream.into_split(), upstream.into_split());
    tokio::select! {
        () = pump(from, to_target, mode.clone()) => {}
        () = pump(from_target, to, mode.clone()) => {}
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

/// Passes one direction on. What was read before a freeze is passed on after it: TCP loses nothing in between.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let passing = mode.wait_for(|mode| *mode == Mode::Pass).await.is_ok();
        if read == 0 || !passing || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

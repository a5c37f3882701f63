//! A TCP proxy that can be told to fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the proxy does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// What the server says is kept back; what the client says passes.
    HoldAnswers,
    /// Connections are closed as soon as they come.
    Refuse,
}

/// Between a client and a server.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    connections: Arc<AtomicUsize>,
    /// Cancelled to cut the connections of now.
    cut: Arc<std::sync::Mutex<CancellationToken>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(Mode::Pass);
        let cut = Arc::new(std::sync::Mutex::new(CancellationToken::new()));
        let current = cut.clone();
        let connections = Arc::new(AtomicUsize::new(0));
        let accepted = connections.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::Relaxed);
                if *modes.borrow() == Mode::Refuse {
                    continue;
                }
                let token = current.lock().unwrap().clone();
                let modes = modes.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = pass(from_client, to_server, None) => {}
                        () = pass(from_server, to_client, Some(modes)) => {}
                    }
                });
            }
        });
        Self { address, mode, connections, cut, accepting }
    }

    /// How many connections came, also those that were refused.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Closes every connection; new ones are as before.
    pub(crate) fn cut(&self) {
        let mut current = self.cut.lock().unwrap();
        current.cancel();
        *current = CancellationToken::new();
    }

    /// Lets no connection through until [`Proxy::pass`].
    pub(crate) fn refuse(&self) {
        self.mode.send_replace(Mode::Refuse);
        self.cut();
    }

    /// Keeps the server's answers back until [`Proxy::pass`].
    pub(crate) fn hold_answers(&self) {
        self.mode.send_replace(Mode::HoldAnswers);
    }

    pub(crate) fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut modes: Option<watch::Receiver<Mode>>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        if let Some(modes) = &mut modes {
            let _ = modes.wait_for(|mode| *mode != Mode::HoldAnswers).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

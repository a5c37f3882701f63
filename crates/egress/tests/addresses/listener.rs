//! A web server on several loopback addresses with one port, which counts who connects where.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

pub(crate) struct Listener {
    pub(crate) port: u16,
    connections: HashMap<IpAddr, Arc<AtomicUsize>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Listener {
    /// Answers every connection with 200 and closes it.
    pub(crate) async fn start<const N: usize>(addresses: [&str; N]) -> Self {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let listeners = bind(&addresses).await;
        let port = listeners[0].local_addr().unwrap().port();
        let mut connections = HashMap::new();
        let mut tasks = Vec::new();
        for (address, listener) in addresses.into_iter().zip(listeners) {
            let count = Arc::new(AtomicUsize::new(0));
            connections.insert(address, count.clone());
            tasks.push(tokio::spawn(serve(listener, count)));
        }
        Self { port, connections, tasks }
    }

    pub(crate) fn connections(&self, address: &str) -> usize {
        self.connections[&address.parse::<IpAddr>().unwrap()].load(Ordering::SeqCst)
    }

    pub(crate) fn all_connections(&self) -> usize {
        self.connections.values().map(|count| count.load(Ordering::SeqCst)).sum()
    }
}

async fn bind(addresses: &[IpAddr]) -> Vec<TcpListener> {
    'ports: for _ in 0..100 {
        let mut listeners: Vec<TcpListener> = Vec::new();
        for address in addresses {
            let port = listeners.first().map_or(0, |first| first.local_addr().unwrap().port());
            match TcpListener::bind(SocketAddr::new(*address, port)).await {
                Ok(listener) => listeners.push(listener),
                Err(_) => continue 'ports,
            }
        }
        return listeners;
    }
    panic!("no port is free on all of {addresses:?}");
}

async fn serve(listener: TcpListener, count: Arc<AtomicUsize>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        count.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(ANSWER).await;
        });
    }
}

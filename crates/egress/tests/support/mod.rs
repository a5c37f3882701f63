//! A receiver that writes given bytes and then keeps the connection open.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]
#![expect(dead_code, reason = "each test binary uses a part")]

pub(crate) mod authority;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use domain::network::AddressPolicy;
use egress::{Attempt, Client, DnsConfig, EgressConfig, RESOLV_CONF};
use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One attempt.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of a response's body that are kept.
pub(crate) const LIMIT: usize = 4096;

pub(crate) struct Receiver {
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Answers every connection's first bytes with `answer`, and then nothing more.
    pub(crate) async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, connections) = (Arc::new(answer.into()), Arc::new(AtomicUsize::new(0)));
        let count = connections.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    let _ = stream.read(&mut buffer).await;
                    let _ = stream.write_all(&answer).await;
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                });
            }
        });
        Self { port, connections, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Stops listening; the port that is free again.
    pub(crate) async fn stop(mut self) -> u16 {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.port
    }
}

pub(crate) fn loopback() -> AddressPolicy {
    AddressPolicy::with_exceptions(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()])
}

pub(crate) fn dns() -> DnsConfig {
    DnsConfig {
        name_servers: Vec::new(),
        resolv_conf: RESOLV_CONF.into(),
        timeout: TIMEOUT,
        max_lookups: 16,
        cached_names: 100,
        max_ttl: Duration::from_secs(300),
        max_negative_ttl: Duration::from_secs(10),
    }
}

pub(crate) fn config(addresses: AddressPolicy) -> EgressConfig {
    EgressConfig {
        timeout: TIMEOUT,
        connect_timeout: TIMEOUT,
        response_limit: LIMIT,
        idle_timeout: Duration::from_secs(1),
        max_idle_per_host: 4,
        max_connections: 1000,
        connection_lifetime: Duration::from_secs(60),
        proxy: None,
        addresses,
        dns: dns(),
        ca_file: None,
    }
}

pub(crate) fn client(addresses: AddressPolicy) -> Client {
    Client::new(config(addresses)).unwrap()
}

pub(crate) async fn post(client: &Client, url: &str) -> Attempt {
    client.post(url.parse().unwrap(), HeaderMap::new(), Bytes::from_static(b"{}")).await
}

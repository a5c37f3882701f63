//! The broker as a service holds it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::consumer::{Consumer, ConsumerConfig};
use crate::error::BrokerError;
use crate::inspect::Inspector;
use crate::link::{Keeper, Link};
use crate::publisher::{Publisher, PublisherConfig};
use crate::topology::Topology;

/// How to reach the broker.
#[derive(Clone)]
pub struct BrokerConfig {
    /// `amqp://` or `amqps://`, with user, password and virtual host.
    pub url: String,
    /// The name operators see next to the connections.
    pub name: String,
    /// The interval of heartbeats.
    pub heartbeat: Duration,
    /// The longest wait for a connection, a channel or a declaration.
    pub connect_timeout: Duration,
    /// The longest wait for a publish to be confirmed, reconnects included.
    pub publish_timeout: Duration,
    /// Waits between connection attempts.
    pub backoff: Backoff,
    /// PEM certificates to trust for `amqps://` instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// Who publishes what is consumed.
    pub consumes: Origin,
}

/// Who publishes what is consumed: whether its headers may be as large as the broker lets them.
///
/// A message's headers are one frame, and the client buffers 64 of the largest frames for each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Others too: frames as large as the broker allows (128 KiB by default).
    Anyone,
    /// Programs that use this crate: small frames.
    Ourselves,
}

/// Largest frame of what this crate publishes. Headers that are moved fit into it ([`crate::Received::forward_to`]); bodies are
/// split. Half of what the broker allows is half the memory; with a fourth, messages of many events cost all who carry them
/// several percent more.
const OWN_FRAME: u32 = 64 * 1024;

impl fmt::Debug for BrokerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerConfig")
            .field("url", &"[redacted]")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Checks that a text is an AMQP URL.
pub fn check_url(url: &str) -> Result<(), BrokerError> {
    parse_url(url).map(drop)
}

fn parse_url(url: &str) -> Result<AMQPUri, BrokerError> {
    // Not in the parser's words: they may hold the URL, and with it the password.
    url.parse().map_err(|_| {
        let is_amqp = url.starts_with("amqp://") || url.starts_with("amqps://");
        let reason = if is_amqp { "its parts cannot be read" } else { "it starts with another scheme" };
        BrokerError::Url { reason: reason.to_owned() }
    })
}

/// Whether the broker can be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Connected,
    /// Connected, but the broker takes no messages: its disk or memory alarm is on.
    Blocked {
        /// What the broker says.
        reason: String,
    },
    /// No connection; a new one is being tried.
    Disconnected {
        /// Why.
        reason: String,
    },
}

impl Health {
    /// Before the first try to connect has ended.
    pub(crate) fn not_yet() -> Self {
        Self::Disconnected { reason: "not connected yet".to_owned() }
    }
}

/// Two connections to the broker that are kept up until [`Broker::close`]. Clones share them.
#[derive(Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

struct Shared {
    config: Arc<BrokerConfig>,
    publishing: Link,
    consuming: Link,
    publishing_health: watch::Receiver<Health>,
    consuming_health: watch::Receiver<Health>,
    /// The tasks that hold messages: publishers and acknowledgers.
    work: TaskTracker,
    /// The tasks that keep the connections.
    keepers: TaskTracker,
    closing: CancellationToken,
}

impl Broker {
    /// Starts connecting. Does not wait: see [`Broker::ready`].
    pub fn connect(config: BrokerConfig, topology: Topology) -> Result<Self, BrokerError> {
        let mut uri = parse_url(&config.url)?;
        let seconds = config.heartbeat.as_secs().clamp(1, u16::MAX.into());
        uri.query.heartbeat = u16::try_from(seconds).ok();
        let tls = match &config.ca_file {
            None => OwnedTLSConfig::default(),
            Some(path) => {
                let pem = std::fs::read_to_string(path)
                    .map_err(|source| BrokerError::CaFile { path: path.display().to_string(), source })?;
                OwnedTLSConfig { identity: None, cert_chain: Some(pem) }
            }
        };

        let (config, topology) = (Arc::new(config), Arc::new(topology));
        let (keepers, closing) = (TaskTracker::new(), CancellationToken::new());
        let link = |purpose, carries: Origin| {
            let (health, receiver) = watch::channel(Health::not_yet());
            let mut uri = uri.clone();
            if carries == Origin::Ourselves {
                uri.query.frame_max = Some(OWN_FRAME);
            }
            let keeper = Keeper {
                purpose,
                config: config.clone(),
                uri,
                tls: tls.clone(),
                topology: topology.clone(),
                closing: closing.clone(),
                health,
            };
            (Link::new(keeper, &keepers), receiver)
        };
        let (publishing, publishing_health) = link("publishing", Origin::Ourselves);
        let (consuming, consuming_health) = link("consuming", config.consumes);
        let work = TaskTracker::new();
        let shared = Shared {
            config,
            publishing,
            consuming,
            publishing_health,
            consuming_health,
            work,
            keepers,
            closing,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Waits until both connections are up and the topology is declared.
    pub async fn ready(&self) {
        self.shared.publishing.connection().await;
        self.shared.consuming.connection().await;
    }

    /// The state of the connection that publishes and of the one that consumes.
    pub fn health(&self) -> [watch::Receiver<Health>; 2] {
        [self.shared.publishing_health.clone(), self.shared.consuming_health.clone()]
    }

    /// A publisher with a channel and a task of its own.
    pub fn publisher(&self, config: PublisherConfig) -> Publisher {
        let timeout = self.shared.config.publish_timeout;
        Publisher::start(
            self.shared.publishing.clone(),
            config,
            timeout,
            &self.shared.work,
            self.shared.closing.clone(),
        )
    }

    /// A consumer of a queue, with a channel of its own.
    pub fn consumer(&self, queue: impl Into<String>, config: ConsumerConfig) -> Consumer {
        Consumer::start(
            self.shared.consuming.clone(),
            queue.into(),
            config,
            &self.shared.work,
            self.shared.closing.clone(),
        )
    }

    /// Looks into queues without consuming them for good.
    pub fn inspector(&self) -> Inspector {
        Inspector::new(self.shared.consuming.clone(), self.shared.config.connect_timeout)
    }

    /// Closes the connections. Publishers, consumers and ackers dropped before are flushed first. Takes at most `limit`:
    /// what cannot be flushed or closed by then is left to the end of the process.
    pub async fn close(&self, limit: Duration) {
        let end = Instant::now() + limit;
        self.shared.work.close();
        // With a share for the farewell: a connection that ends without one is an error in the broker's log.
        let _ = timeout_at(end - limit / 4, self.shared.work.wait()).await;
        self.shared.closing.cancel();
        self.shared.keepers.close();
        let _ = timeout_at(end, self.shared.keepers.wait()).await;
    }
}

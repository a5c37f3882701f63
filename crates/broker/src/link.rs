//! One connection that is kept up.

use std::error::Error as _;
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::broker::{BrokerConfig, Health};
use crate::error::BrokerError;
use crate::topology::Topology;

/// How often the connection's own status is looked at, in case its error event was missed.
const STATUS_CHECK: Duration = Duration::from_secs(1);

/// A connection that comes back, with the topology declared before anyone gets it.
#[derive(Clone)]
pub(crate) struct Link {
    current: watch::Receiver<Option<Arc<Connection>>>,
    topology: Arc<Topology>,
    timeout: Duration,
}

/// What the task that keeps a link up needs.
pub(crate) struct Keeper {
    pub(crate) purpose: &'static str,
    pub(crate) config: Arc<BrokerConfig>,
    pub(crate) uri: AMQPUri,
    pub(crate) tls: lapin::tcp::OwnedTLSConfig,
    pub(crate) topology: Arc<Topology>,
    pub(crate) closing: CancellationToken,
    pub(crate) health: watch::Sender<Health>,
}

impl Link {
    /// Starts with the task that keeps the connection up.
    pub(crate) fn new(keeper: Keeper, tasks: &tokio_util::task::TaskTracker) -> Self {
        let (sender, current) = watch::channel(None);
        let link =
            Self { current, topology: keeper.topology.clone(), timeout: keeper.config.connect_timeout };
        tasks.spawn(keeper.keep_up(sender));
        link
    }

    /// The longest wait for an answer of the broker that nobody else waits for.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The connection, as soon as there is one; `None` when the link was closed for good.
    pub(crate) async fn connection(&self) -> Option<Arc<Connection>> {
        let mut current = self.current.clone();
        let connection = current.wait_for(Option::is_some).await.ok()?;
        connection.clone()
    }

    /// A new channel on the current connection; `None` when the link was closed for good.
    pub(crate) async fn channel(&self, backoff: &mut Backoff) -> Option<Channel> {
        loop {
            let connection = self.connection().await?;
            match timeout(self.timeout, connection.create_channel()).await {
                Ok(Ok(channel)) => return Some(channel),
                Ok(Err(_)) | Err(_) => backoff.wait().await,
            }
        }
    }

    /// Declares the topology again, on a channel of its own: a queue was deleted under our feet.
    pub(crate) async fn declare_topology(&self) -> Result<(), BrokerError> {
        let Some(connection) = self.connection().await else { return Ok(()) };
        declare(&connection, &self.topology, self.timeout).await
    }
}

async fn declare(connection: &Connection, topology: &Topology, limit: Duration) -> Result<(), BrokerError> {
    let declaring = async {
        let channel = connection.create_channel().await?;
        topology.declare(&channel).await?;
        channel.close(200, "OK".into()).await?;
        Ok(())
    };
    timeout(limit, declaring).await.map_err(|_| BrokerError::Timeout(limit))?
}

fn with_cause(error: &BrokerError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl Keeper {
    async fn keep_up(self, current: watch::Sender<Option<Arc<Connection>>>) {
        let mut backoff = self.config.backoff.clone();
        loop {
            let connected = tokio::select! {
                () = self.closing.cancelled() => return,
                connected = self.connect() => connected,
            };
            let reason = match connected {
                Ok(connection) => {
                    backoff.reset();
                    info!(connection = self.purpose, "connected to the broker");
                    self.set_health(Health::Connected);
                    let connection = Arc::new(connection);
                    current.send_replace(Some(connection.clone()));
                    let reason = tokio::select! {
                        () = self.closing.cancelled() => {
                            current.send_replace(None);
                            let _ = timeout(self.config.connect_timeout, connection.close(200, "OK".into())).await;
                            return;
                        }
                        reason = self.watch(&connection) => reason,
                    };
                    current.send_replace(None);
                    reason
                }
                Err(error) => with_cause(&error),
            };
            self.set_health(Health::Disconnected { reason });
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = backoff.wait() => {}
            }
        }
    }

    async fn connect(&self) -> Result<Connection, BrokerError> {
        let name = format!("{} ({})", self.config.name, self.purpose);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime()?;
        let connecting =
            Connection::connect_uri_with_config(self.uri.clone(), properties, self.tls.clone(), runtime);
        let limit = self.config.connect_timeout;
        let connection = timeout(limit, connecting).await.map_err(|_| BrokerError::Timeout(limit))??;
        if let Err(error) = declare(&connection, &self.topology, limit).await {
            let _ = timeout(limit, connection.close(200, "OK".into())).await;
            return Err(error);
        }
        Ok(connection)
    }

    /// Ends when the connection is lost, with the reason.
    async fn watch(&self, connection: &Connection) -> String {
        let mut events = Box::pin(connection.events_listener());
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::Error(error)) if !connection.status().connected() => return error.to_string(),
                    Some(Event::ConnectionBlocked(reason)) => self.set_health(Health::Blocked { reason }),
                    Some(Event::ConnectionUnblocked) => self.set_health(Health::Connected),
                    Some(_) => {}
                    None => return "the connection is gone".to_owned(),
                },
                () = sleep(STATUS_CHECK) => {
                    if !connection.status().connected() {
                        return "the connection is gone".to_owned();
                    }
                }
            }
        }
    }

    /// One log line a change of state, however often a reconnect fails and whatever the reasons are.
    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|current| {
            if *current == health {
                return false;
            }
            let is_told = discriminant(current) == discriminant(&health) && *current != Health::not_yet();
            match &health {
                Health::Blocked { reason } if !is_told => {
                    warn!(connection = self.purpose, reason, "the broker blocks publishing");
                }
                Health::Disconnected { reason } if !is_told => {
                    warn!(connection = self.purpose, reason, "no connection to the broker; trying again");
                }
                _ => {}
            }
            *current = health;
            true
        });
    }
}

//! The broker, within a bounded time and with a reason where it is not to be had.

use std::time::Duration;

use anyhow::bail;
use broker::{Broker, Health, Origin, Publisher, PublisherConfig};
use service::Settings;
use tokio::time::timeout;

use crate::environment::NotConfigured;

/// The name operators see next to the connections.
const NAME: &str = "lokctl";

/// The longest wait for the connections to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A broker that only looks: nothing is declared.
pub(crate) async fn to_look_at(settings: &Settings) -> anyhow::Result<Broker> {
    connected(backends::broker_to_look_at(settings, NAME).map_err(NotConfigured::from)?, settings).await
}

/// A broker with the services' topology declared: what is published now waits for them.
pub(crate) async fn to_publish(settings: &Settings) -> anyhow::Result<Broker> {
    connected(backends::broker(settings, NAME, Origin::Anyone).map_err(NotConfigured::from)?, settings).await
}

async fn connected(broker: Broker, settings: &Settings) -> anyhow::Result<Broker> {
    let limit = settings.amqp.connect_timeout.0;
    if timeout(limit, broker.ready()).await.is_ok() {
        return Ok(broker);
    }
    bail!(
        "no connection to the broker of amqp.url within {limit:?}: {}; does it run, and is the URL right?",
        trouble(&broker).unwrap_or_else(|| "no answer".to_owned())
    )
}

/// What is the matter with the broker, if anything is.
pub(crate) fn trouble(broker: &Broker) -> Option<String> {
    broker.health().into_iter().find_map(|health| match &*health.borrow() {
        Health::Connected => None,
        Health::Blocked { reason } => Some(format!("the broker takes no messages: {reason}")),
        Health::Disconnected { reason } => Some(reason.clone()),
    })
}

/// A publisher for a few messages.
pub(crate) fn publisher(broker: &Broker) -> Publisher {
    broker.publisher(PublisherConfig::default())
}

/// Closes the connections after everything is flushed.
pub(crate) async fn close(broker: Broker) {
    broker.close(CLOSE_LIMIT).await;
}

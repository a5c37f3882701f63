//! Looking into queues, for operators.

use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use tokio::time::timeout;

use crate::consumer::Received;
use crate::error::BrokerError;
use crate::link::Link;
use crate::publisher::Confirmed;

/// Looks into queues.
#[derive(Clone)]
pub struct Inspector {
    link: Link,
    timeout: Duration,
}

/// Messages taken from a queue to be looked at. Dropped, all that were not removed go back.
pub struct Pulled {
    channel: Channel,
    messages: Vec<(u64, Received)>,
}

impl Inspector {
    pub(crate) fn new(link: Link, timeout: Duration) -> Self {
        Self { link, timeout }
    }

    /// The number of messages ready in a queue; `None` if there is no such queue.
    pub async fn depth(&self, queue: &str) -> Result<Option<u32>, BrokerError> {
        self.bounded(async |connection| {
            let channel = connection.create_channel().await?;
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
                Ok(found) => Ok(Some(found.message_count())),
                Err(error) if is_not_found(&error) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// Takes up to `max` messages from a queue to look at them.
    pub async fn pull(&self, queue: &str, max: usize) -> Result<Pulled, BrokerError> {
        self.bounded(async |connection| {
            let channel = connection.create_channel().await?;
            let mut messages = Vec::new();
            while messages.len() < max
                && let Some(got) = channel.basic_get(queue.into(), BasicGetOptions::default()).await?
            {
                let delivery = got.delivery;
                let received = Received::new(
                    delivery.data,
                    delivery.exchange.as_str(),
                    delivery.routing_key.as_str(),
                    delivery.redelivered,
                    &delivery.properties,
                );
                messages.push((delivery.delivery_tag, received));
            }
            Ok(Pulled { channel, messages })
        })
        .await
    }

    async fn bounded<T>(
        &self,
        work: impl AsyncFnOnce(&Connection) -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        let limited = timeout(self.timeout, async {
            match self.link.connection().await {
                Some(connection) => work(&connection).await,
                None => Err(BrokerError::Timeout(self.timeout)),
            }
        });
        limited.await.map_err(|_| BrokerError::Timeout(self.timeout))?
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    const NOT_FOUND: u16 = 404;
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(error) if error.get_id() == NOT_FOUND)
}

impl Pulled {
    /// What was taken, oldest first.
    pub fn messages(&self) -> impl Iterator<Item = &Received> {
        self.messages.iter().map(|(_, received)| received)
    }

    /// Removes the message at `index` from its queue: it is published elsewhere, confirmed.
    pub async fn remove(&self, index: usize, _proof: Confirmed) -> Result<(), BrokerError> {
        let Some((tag, _)) = self.messages.get(index) else { return Ok(()) };
        self.channel.basic_ack(*tag, BasicAckOptions::default()).await?;
        Ok(())
    }

    /// Gives back what was not removed.
    pub async fn close(self) -> Result<(), BrokerError> {
        self.channel.close(200, "OK".into()).await?;
        Ok(())
    }
}

//! What leaves for a queue, tried until the broker confirms it.

use std::sync::Arc;
use std::time::Duration;

use broker::{Confirmed, Message, Publisher};
use domain::protocol::Taken;
use futures_util::future::join_all;
use metrics::counter;
use wire::names::ERROR_HEADER;
use wire::{DeliveryJob, Names, PROTOBUF};

/// Publishes to our own queues. Clones share the publisher.
#[derive(Clone)]
pub(crate) struct Outbox {
    publisher: Publisher,
    names: Arc<Names>,
    park_delay: Duration,
}

impl Outbox {
    pub(crate) fn new(publisher: Publisher, names: Arc<Names>, park_delay: Duration) -> Self {
        Self { publisher, names, park_delay }
    }

    /// Hands jobs over to be made now.
    pub(crate) async fn deliver(&self, jobs: impl IntoIterator<Item = DeliveryJob>) -> Confirmed {
        let queue = self.names.deliver_queue();
        let publishing =
            jobs.into_iter().map(|job| self.publisher.publish_until_confirmed(to_queue(&queue, &job)));
        let each = join_all(publishing).await;
        each.into_iter().fold(Confirmed::nothing_to_publish(), Confirmed::and)
    }

    /// Hands a job over to be made after `delay`.
    pub(crate) async fn retry(&self, job: &DeliveryJob, delay: Duration) -> Confirmed {
        self.publisher.publish_until_confirmed(to_queue(&self.names.retry_queue(delay), job)).await
    }

    /// How long a parked job stays parked.
    pub(crate) fn park_delay(&self) -> Duration {
        self.park_delay
    }

    /// Hands a job over whose webhook or dispatcher has its hands full. Not an attempt.
    pub(crate) async fn park(&self, job: &DeliveryJob, taken: Taken) -> Confirmed {
        counter!("deliveries_parked_total").increment(1);
        let message = to_queue(&self.names.park_queue(self.park_delay), job);
        self.publisher
            .publish_until_confirmed(match taken {
                Taken::First => message,
                Taken::Again => message.redelivered(),
            })
            .await
    }

    /// Tells operators of a delivery that failed for good. The body is left out: it may be personal.
    pub(crate) async fn dead(&self, job: &DeliveryJob, reason: &str) -> Confirmed {
        let job = DeliveryJob { body: None, ..job.clone() };
        self.publisher
            .publish_until_confirmed(to_queue(&self.names.dead_queue(), &job).header(ERROR_HEADER, reason))
            .await
    }
}

fn to_queue(queue: &str, job: &DeliveryJob) -> Message {
    Message::to_queue(queue, job.encode()).content_type(PROTOBUF)
}

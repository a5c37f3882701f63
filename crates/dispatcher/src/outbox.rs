//! What leaves for a queue, tried until the broker confirms it.

use std::sync::Arc;
use std::time::Duration;

use broker::{Confirmed, Message, Publisher, Received};
use domain::pace::ParkDelays;
use domain::protocol::Taken;
use futures_util::future::join_all;
use metrics::counter;
use wire::names::{ERROR_HEADER, WAITED_HEADER};
use wire::{DeliveryJob, FanOutEvent, Names, PROTOBUF};

/// How much longer than the longest request a stand-in stays away: for the record to be written.
const STAND_IN_MARGIN: Duration = Duration::from_secs(1);

/// Publishes to our own queues. Clones share the publisher.
#[derive(Clone)]
pub(crate) struct Outbox {
    publisher: Publisher,
    names: Arc<Names>,
    park_delays: Arc<ParkDelays>,
    /// The rung on which a job stands in for a request that is on the wire.
    stand_in: usize,
}

impl Outbox {
    /// Stand-ins stay away for as long as there is.
    pub(crate) fn new(publisher: Publisher, names: Arc<Names>, park_delays: ParkDelays) -> Self {
        let stand_in = park_delays.rung_beyond(Duration::MAX);
        Self { publisher, names, park_delays: Arc::new(park_delays), stand_in }
    }

    /// With stand-ins for requests that take no longer than this.
    #[must_use]
    pub(crate) fn for_requests_of(self, longest: Duration) -> Self {
        let stand_in = self.park_delays.rung_beyond(longest + STAND_IN_MARGIN);
        Self { stand_in, ..self }
    }

    /// Hands jobs over to be made now.
    pub(crate) async fn deliver(&self, jobs: impl IntoIterator<Item = DeliveryJob>) -> Confirmed {
        self.publish_all(jobs.into_iter().map(|job| self.now(&job))).await
    }

    /// Hands jobs over of which an earlier holder may have done part.
    pub(crate) async fn deliver_again(&self, jobs: impl IntoIterator<Item = DeliveryJob>) -> Confirmed {
        self.publish_all(jobs.into_iter().map(|job| self.now(&job).redelivered())).await
    }

    /// Hands jobs over to be made after the shortest delay.
    pub(crate) async fn deliver_later(&self, jobs: impl IntoIterator<Item = DeliveryJob>) -> Confirmed {
        self.publish_all(jobs.into_iter().map(|job| self.parked(&job, self.delay(0)))).await
    }

    fn now(&self, job: &DeliveryJob) -> Message {
        to_queue(self.names.of_webhook(job.webhook).deliver_queue(), job)
    }

    fn parked(&self, job: &DeliveryJob, delay: Duration) -> Message {
        to_queue(self.names.of_webhook(job.webhook).park_queue(delay), job)
    }

    async fn publish_all(&self, messages: impl Iterator<Item = Message>) -> Confirmed {
        let each = join_all(messages.map(|message| self.publisher.publish_until_confirmed(message))).await;
        each.into_iter().fold(Confirmed::nothing_to_publish(), Confirmed::and)
    }

    /// Has a message of these events come again after the shortest delay, as one that has waited.
    pub(crate) async fn park_fan_out(&self, message: &Received, events: &[FanOutEvent]) -> Confirmed {
        let queue = self.names.of_events(events).fan_out_park_queue(self.delay(0));
        let waiting = message.forward_to(queue).header(WAITED_HEADER, "true");
        self.publisher.publish_until_confirmed(waiting).await
    }

    /// Hands a job over to be made after `delay`.
    pub(crate) async fn retry(&self, job: &DeliveryJob, delay: Duration) -> Confirmed {
        let queue = self.names.of_webhook(job.webhook).retry_queue(delay);
        self.publisher.publish_until_confirmed(to_queue(queue, job)).await
    }

    /// How long a job is parked on this rung of the ladder.
    pub(crate) fn delay(&self, rung: usize) -> Duration {
        self.park_delays.delay(rung)
    }

    /// Hands a job over whose webhook or dispatcher has its hands full, for the [`Self::delay`] of this rung. Not an
    /// attempt.
    pub(crate) async fn park_for(&self, job: &DeliveryJob, taken: Taken, rung: usize) -> Confirmed {
        counter!("deliveries_parked_total").increment(1);
        let message = self.parked(job, self.delay(rung));
        self.publisher
            .publish_until_confirmed(match taken {
                Taken::First => message,
                Taken::Again => message.redelivered(),
            })
            .await
    }

    /// How long a stand-in is parked: longer than the request takes.
    pub(crate) fn stand_in_delay(&self) -> Duration {
        self.delay(self.stand_in)
    }

    /// Parks a job that stands in for a request on the wire: it comes out when the request is over and recorded, and
    /// then there is nothing left to do, unless whoever sent it has died.
    pub(crate) async fn stand_in(&self, job: &DeliveryJob) -> Confirmed {
        self.publisher.publish_until_confirmed(self.parked(job, self.stand_in_delay())).await
    }

    /// Tells operators of a delivery that failed for good. The body is left out: it may be personal.
    pub(crate) async fn dead(&self, job: &DeliveryJob, reason: &str) -> Confirmed {
        let job = DeliveryJob { body: None, ..job.clone() };
        self.publisher
            .publish_until_confirmed(to_queue(self.names.dead_queue(), &job).header(ERROR_HEADER, reason))
            .await
    }
}

fn to_queue(queue: String, job: &DeliveryJob) -> Message {
    Message::to_queue(queue, job.encode()).content_type(PROTOBUF)
}

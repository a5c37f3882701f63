//! From stored events to delivery jobs.

mod first;
mod spread;

use std::sync::Arc;
use std::time::Duration;

use backends::{Availability, Chain};
use broker::{Batch, Confirmed, Consumer, Held, Received};
use bytes::Bytes;
use domain::protocol::{Fence, Ticket};
use domain::retry::AttemptNumber;
use domain::{DeliveryId, Timestamp, WebhookId};
use isolation::{Isolation, MAY_TAKE, Stopping, Work};
use service::Clock;
use store::Store;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;
use wire::names::WAITED_HEADER;
use wire::rejected::UNUSABLE;
use wire::{DeliveryJob, FanOut, FanOutEvent};

use self::spread::{Came, came};
use crate::attempts::Attempts;
use crate::first_attempts::FirstAttempts;
use crate::outbox::Outbox;
use crate::reconcile::Probes;
use crate::subscriptions::Subscriptions;

/// Deliveries written with one statement and handed over together: what a large fan-out holds in memory.
const CHUNK: usize = 1000;

/// Batches whose deliveries are found out at once. What came meanwhile is the next one.
pub(crate) const ENTERING: usize = 1;

/// Bytes of messages taken together: they are held together.
const BATCH_BYTES: usize = 256 * 1024;

/// The stage that fans events out.
pub(crate) struct FanOutStage {
    pub(crate) store: Store,
    pub(crate) availability: Availability,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) outbox: Outbox,
    pub(crate) probes: Probes,
    pub(crate) isolation: Isolation,
    pub(crate) clock: Clock,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) first_attempts: Arc<FirstAttempts>,
    /// Batches whose deliveries are found out at once: those that wait behind them are only messages.
    pub(crate) entering: Semaphore,
    /// Longest time from when messages are taken until all their first attempts are started; then jobs are made, for whoever
    /// has a hand free. Nobody may hold a message longer than a lost one is waited for.
    pub(crate) patience: Duration,
    /// Batches whose jobs are handed over at once.
    pub(crate) spreading: Semaphore,
    /// Deliveries of one event whose first attempts this dispatcher makes; those of an event with more are spread over all.
    pub(crate) inline_fan_out: usize,
    /// Messages taken together: the consumer's prefetch.
    pub(crate) batch_messages: usize,
    /// Bodies up to this many bytes travel with the jobs.
    pub(crate) inline_body: usize,
}

impl FanOutStage {
    /// Works messages off until `stopping`, each batch in a task of its own; the consumer's prefetch bounds them.
    pub(crate) async fn run(self: Arc<Self>, mut consumer: Consumer, stopping: CancellationToken) {
        loop {
            let batch = tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                batch = consumer.next_batch(self.batch_messages, BATCH_BYTES) => batch,
            };
            let Some(batch) = batch else { break };
            self.first_attempts.tasks.spawn(self.clone().take(batch));
        }
        consumer.cancel().await;
    }

    async fn take(self: Arc<Self>, batch: Batch) {
        // Given up, its messages come back when the channel closes.
        let taken = TakenBatch { held: batch.held(), stage: self };
        if let Ok(proof) = taken.stage.isolation.work_off(&taken, batch.messages()).await {
            batch.ack_alone(proof);
        }
    }

    /// When this returns, what these messages ask for is done, or other messages stand for it.
    async fn fan_out_messages(
        &self,
        messages: &[Received],
        held: Option<&Held>,
    ) -> Result<Confirmed, Stopping> {
        let entered = Instant::now();
        let entering = self.entering.acquire().await.ok();
        if self.attempts.stopping.is_cancelled() {
            return Err(Stopping);
        }
        let (mut fresh, mut from_before) = (Vec::new(), Vec::new());
        let mut proof = Confirmed::nothing_to_publish();
        for message in messages {
            if self.probes.take(message).await {
                continue;
            }
            match FanOut::decode(message.body.clone()) {
                Ok(decoded) if message.redelivered => {
                    from_before.extend(came(decoded.events, Came::Again));
                }
                Ok(decoded) if has_waited(message) => {
                    from_before.extend(came(decoded.events, Came::Waited));
                }
                // The first may be in somebody's hands: looked at later, the rows will tell.
                Ok(decoded) if message.may_be_copy => {
                    proof = proof.and(self.outbox.park_fan_out(message, &decoded.events).await);
                }
                Ok(decoded) => fresh.extend(decoded.events),
                Err(error) => {
                    let message = message.forward_to(self.isolation.queue());
                    proof = proof.and(self.isolation.set_aside(message, UNUSABLE, &error.to_string()).await?);
                }
            }
        }
        if fresh.is_empty() {
            drop(entering);
        } else {
            proof = proof.and(self.attempt(fresh, held, entered, entering).await?);
        }
        if from_before.is_empty() {
            return Ok(proof);
        }
        Ok(proof.and(self.fan_out_or_set_aside(&from_before).await?))
    }

    fn job(
        &self,
        delivery: DeliveryId,
        fence: Fence,
        event: &FanOutEvent,
        webhook: WebhookId,
    ) -> DeliveryJob {
        DeliveryJob {
            delivery,
            webhook,
            event: event.id,
            public_id: event.public_id.clone(),
            event_type: event.event_type,
            timestamp: event.timestamp.clone(),
            ticket: Ticket { attempt: AttemptNumber::FIRST, fence },
            body: (event.body.len() <= self.inline_body).then(|| event.body.clone()),
            body_bytes: u32::try_from(event.body.len()).unwrap_or(u32::MAX),
        }
    }

    /// Keeps the reconciler from events whose message waits elsewhere, until then; `None`: for good.
    async fn leave(&self, events: &[FanOutEvent], until: Option<Timestamp>) {
        let ids: Vec<_> = events.iter().map(|event| event.id).collect();
        let leaving = self.availability.until_available(|| self.store.leave_events(&ids, until)).await;
        if let Err(refusal) = leaving {
            error!(error = %Chain(&refusal), events = ids.len(), "events set aside may be put back");
        }
    }
}

/// Messages, and whether they are still this dispatcher's.
struct TakenBatch {
    stage: Arc<FanOutStage>,
    held: Held,
}

impl Work for TakenBatch {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, Stopping> {
        self.stage.fan_out_messages(messages, Some(&self.held)).await
    }

    fn parts(&self, message: &Received) -> Vec<Bytes> {
        self.stage.parts(message)
    }

    async fn isolating(&self, message: &Received) -> Result<(), Stopping> {
        self.stage.isolating(message).await
    }

    async fn give_up(&self, message: &Received, reason: &str) -> Result<(), Stopping> {
        self.stage.give_up(message, reason).await
    }
}

impl Work for FanOutStage {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, Stopping> {
        self.fan_out_messages(messages, None).await
    }

    fn parts(&self, message: &Received) -> Vec<Bytes> {
        let single = |event| FanOut { events: vec![event] }.encode();
        events_of(message).into_iter().map(single).collect()
    }

    async fn isolating(&self, message: &Received) -> Result<(), Stopping> {
        self.leave(&events_of(message), Some(self.clock.now() + MAY_TAKE)).await;
        Ok(())
    }

    async fn give_up(&self, message: &Received, _reason: &str) -> Result<(), Stopping> {
        self.leave(&events_of(message), None).await;
        Ok(())
    }
}

/// Whether a message may have been a copy, and was parked since. What publishers write is not believed.
fn has_waited(message: &Received) -> bool {
    message.exchange.is_empty() && message.headers.text(WAITED_HEADER).is_some()
}

/// What a message holds; nothing if it cannot be read.
fn events_of(message: &Received) -> Vec<FanOutEvent> {
    FanOut::decode(message.body.clone()).map(|decoded| decoded.events).unwrap_or_default()
}

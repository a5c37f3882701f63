//! From stored events to delivery jobs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use backends::{Availability, Chain};
use broker::{Confirmed, Consumer, Message, Received};
use bytes::Bytes;
use domain::protocol::{Fence, Taken, Ticket};
use domain::retry::AttemptNumber;
use domain::{DeliveryId, EventId, Timestamp, WebhookId};
use futures_util::FutureExt as _;
use isolation::{Isolation, MAY_TAKE, Stopping, Work};
use metrics::counter;
use service::Clock;
use store::{NewDelivery, Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::error;
use wire::rejected::UNUSABLE;
use wire::{DeliveryJob, FanOut, FanOutEvent, PROTOBUF};

use crate::outbox::Outbox;
use crate::reconcile::Probes;
use crate::subscriptions::Subscriptions;

/// Deliveries written with one statement and handed over together: what a large fan-out holds in memory.
const CHUNK: usize = 1000;

/// Bytes of messages taken together.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The stage that fans events out.
pub(crate) struct FanOutStage {
    pub(crate) store: Store,
    pub(crate) availability: Availability,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) outbox: Outbox,
    pub(crate) probes: Probes,
    pub(crate) isolation: Isolation,
    pub(crate) clock: Clock,
    /// Messages taken together: the consumer's prefetch.
    pub(crate) batch_messages: usize,
    /// Bodies up to this many bytes travel with the jobs.
    pub(crate) inline_body: usize,
}

/// An event and how its message came.
type Event = (FanOutEvent, Taken);

/// Deliveries on their way to the database, each with the event whose job it is.
#[derive(Default)]
struct Chunk<'a> {
    deliveries: Vec<NewDelivery>,
    events: HashMap<DeliveryId, (&'a Event, WebhookId)>,
    /// Events of which no delivery is missing once this chunk is written.
    completed: Vec<EventId>,
}

impl FanOutStage {
    /// Works messages off, batch after batch, until `stopping`.
    pub(crate) async fn run(self: Arc<Self>, mut consumer: Consumer, stopping: CancellationToken) {
        loop {
            let batch = tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                batch = consumer.next_batch(self.batch_messages, BATCH_BYTES) => batch,
            };
            let Some(batch) = batch else { break };
            let Ok(proof) = self.isolation.work_off(&*self, batch.messages()).boxed().await else { break };
            batch.ack(proof);
        }
        consumer.cancel().await;
    }

    /// When this returns, every delivery of these messages is committed and every job confirmed.
    async fn fan_out_messages(&self, messages: &[Received]) -> Result<Confirmed, Stopping> {
        let mut events = Vec::new();
        let mut proof = Confirmed::nothing_to_publish();
        for message in messages {
            if self.probes.take(message).await {
                continue;
            }
            let taken = if message.redelivered { Taken::Again } else { Taken::First };
            match FanOut::decode(message.body.clone()) {
                Ok(decoded) => events.extend(decoded.events.into_iter().map(|event| (event, taken))),
                Err(error) => {
                    let message = message.forward_to(self.isolation.queue());
                    proof = proof.and(self.isolation.set_aside(message, UNUSABLE, &error.to_string()).await?);
                }
            }
        }
        Ok(proof.and(self.fan_out_or_set_aside(&events).await?))
    }

    /// One event that the database refuses must not take the others with it: events that are refused are tried in
    /// halves, and what is refused alone is set aside.
    async fn fan_out_or_set_aside(&self, events: &[Event]) -> Result<Confirmed, Stopping> {
        let mut proof = Confirmed::nothing_to_publish();
        let mut parts = vec![events];
        while let Some(part) = parts.pop() {
            let done = match self.fan_out(part).await {
                Ok(done) => done,
                Err(refusal) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                    error!(error = %Chain(&refusal), events = part.len(), "fan-out refused; trying it in halves");
                    continue;
                }
                Err(refusal) => self.set_aside(part, &refusal).await?,
            };
            proof = proof.and(done);
        }
        Ok(proof)
    }

    async fn fan_out(&self, events: &[Event]) -> Result<Confirmed, StoreError> {
        let recipients = events.iter().flat_map(|(event, _)| &event.recipients);
        let subscriptions = self.subscriptions.of(recipients).await?;
        let mut proof = Confirmed::nothing_to_publish();
        let mut chunk = Chunk::default();
        for event in events {
            let (fan_out, _) = event;
            let of_user = fan_out.recipients.iter().filter_map(|user| subscriptions.get(user));
            for webhook in of_user.flat_map(|subscribed| subscribed.to(fan_out.event_type)) {
                chunk.add(event, webhook);
                if chunk.deliveries.len() >= CHUNK {
                    proof = proof.and(self.flush(std::mem::take(&mut chunk)).await?);
                }
            }
            chunk.completed.push(fan_out.id);
        }
        counter!("fanout_events_total").increment(events.len() as u64);
        Ok(proof.and(self.flush(chunk).await?))
    }

    /// Writes deliveries and hands over the jobs of those that are new. Of a message that came back also those
    /// that were written but never attempted, issued anew: the earlier holder may not have come to hand them over, or
    /// still be at it. The same where writing took several tries: one may have been committed and its answer lost on the
    /// way.
    async fn flush(&self, chunk: Chunk<'_>) -> Result<Confirmed, StoreError> {
        let (deliveries, completed) = (&chunk.deliveries, &chunk.completed);
        let now = self.clock.now();
        let mut tries = 0_u32;
        let new = self
            .availability
            .until_available(|| {
                tries += 1;
                self.store.record_fan_out(deliveries, completed, now)
            })
            .await?;

        let is_in_doubt = |((_, taken), _): &(&Event, WebhookId)| *taken == Taken::Again || tries > 1;
        let is_from_before =
            |id: &DeliveryId| !new.contains(id) && chunk.events.get(id).is_some_and(is_in_doubt);
        let from_before: Vec<_> =
            deliveries.iter().map(|delivery| delivery.id).filter(is_from_before).collect();
        let mut to_hand_over: HashMap<_, _> = new.iter().map(|id| (*id, Fence::FIRST)).collect();
        if !from_before.is_empty() {
            let reissuing = || self.store.reissue_unattempted(&from_before, self.clock.now());
            to_hand_over.extend(self.availability.until_available(reissuing).await?);
        }

        counter!("fanout_deliveries_total").increment(to_hand_over.len() as u64);
        let jobs = to_hand_over.iter().filter_map(|(id, fence)| {
            let ((event, _), webhook) = chunk.events.get(id)?;
            Some(self.job(*id, *fence, event, *webhook))
        });
        Ok(self.outbox.deliver(jobs).await)
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

    async fn set_aside(&self, events: &[Event], refusal: &StoreError) -> Result<Confirmed, Stopping> {
        let events: Vec<_> = events.iter().map(|(event, _)| event.clone()).collect();
        self.leave(&events, None).await;
        let body = FanOut { events }.encode();
        let message = Message::to_queue(self.isolation.queue(), body).content_type(PROTOBUF).redelivered();
        self.isolation.set_aside(message, UNUSABLE, &Chain(refusal).to_string()).await
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

impl Work for FanOutStage {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, Stopping> {
        self.fan_out_messages(messages).await
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

/// What a message holds; nothing if it cannot be read.
fn events_of(message: &Received) -> Vec<FanOutEvent> {
    FanOut::decode(message.body.clone()).map(|decoded| decoded.events).unwrap_or_default()
}

impl<'a> Chunk<'a> {
    fn add(&mut self, event: &'a Event, webhook: WebhookId) {
        let (fan_out, _) = event;
        let id = DeliveryId::of(fan_out.id, webhook);
        // An event may stand twice in a batch; one statement may not insert a row twice. The copy that came back is
        // the one that counts.
        let (_, taken) = event;
        match self.events.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert((event, webhook));
                let event_type = fan_out.event_type;
                self.deliveries.push(NewDelivery { id, webhook, event: fan_out.id, event_type });
            }
            Entry::Occupied(mut entry) if *taken == Taken::Again => drop(entry.insert((event, webhook))),
            Entry::Occupied(_) => {}
        }
    }
}

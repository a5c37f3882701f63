//! The slow way: rows first, then a job for each delivery, for all dispatchers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use backends::Chain;
use broker::{Confirmed, Message};
use domain::protocol::{DeliveryStatus, Fence};
use domain::{DeliveryId, EventId, WebhookId};
use isolation::Stopping;
use metrics::counter;
use store::{DeliveryState, NewDelivery, StoreError};
use tracing::error;
use wire::rejected::UNUSABLE;
use wire::{FanOut, FanOutEvent, PROTOBUF};

use super::{CHUNK, FanOutStage};

/// An event and how its message came.
pub(super) type Event = (FanOutEvent, Came);

/// How an event's message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// For the first time.
    Fresh,
    /// It may be a copy, and was parked since: who had the first has written by now what there is to say, or is at it.
    Waited,
    /// An earlier holder may have done part of the work.
    Again,
}

pub(super) fn came(events: Vec<FanOutEvent>, how: Came) -> Vec<Event> {
    events.into_iter().map(|event| (event, how)).collect()
}

/// Deliveries on their way to the database, each with the event whose job it is.
#[derive(Default)]
struct Chunk<'a> {
    deliveries: Vec<NewDelivery>,
    events: HashMap<DeliveryId, (&'a Event, WebhookId)>,
    /// Events of which no delivery is missing once this chunk is written.
    completed: Vec<EventId>,
}

impl FanOutStage {
    /// One event that the database refuses must not take the others with it: events that are refused are tried in
    /// halves, and what is refused alone is set aside.
    pub(super) async fn fan_out_or_set_aside(&self, events: &[Event]) -> Result<Confirmed, Stopping> {
        // The jobs of a chunk are in memory until they are confirmed.
        let _spreading = self.spreading.acquire().await;
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

    /// Writes deliveries and hands over the jobs of those that are new. Of a message that came back also those that were
    /// written: never attempted, they are issued anew, for the earlier holder may not have come to hand them over, or still
    /// be at it; attempted and not done, whoever takes the job hands over what follows. The same where writing took several
    /// tries: one may have been committed and its answer lost on the way.
    ///
    /// What only a copy that waited has written is parked before it is made: whoever had the first message may have looked
    /// for a row an instant before, and be at it.
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

        let is_in_doubt = |((_, how), _): &(&Event, WebhookId)| *how == Came::Again || tries > 1;
        let is_from_before =
            |id: &DeliveryId| !new.contains(id) && chunk.events.get(id).is_some_and(is_in_doubt);
        let from_before: Vec<_> =
            deliveries.iter().map(|delivery| delivery.id).filter(is_from_before).collect();
        let mut to_hand_over: HashMap<_, _> = new.iter().map(|id| (*id, Fence::FIRST)).collect();
        let mut attempted = HashMap::new();
        if !from_before.is_empty() {
            let reissuing = || self.store.reissue_unattempted(&from_before, self.clock.now());
            to_hand_over.extend(self.availability.until_available(reissuing).await?);
            let others: Vec<_> = from_before
                .iter()
                .filter(|id| !to_hand_over.contains_key(id))
                .map(|id| (*id, false))
                .collect();
            let states = self.availability.until_available(|| self.store.check_deliveries(&others)).await?;
            let is_open =
                |state: &DeliveryState| state.row.status == DeliveryStatus::Pending && state.row.attempts > 0;
            let open = states.iter().filter(|(_, state)| is_open(state));
            attempted.extend(open.map(|(id, state)| (*id, state.row.fence)));
        }

        counter!("fanout_deliveries_total").increment(to_hand_over.len() as u64);
        let job = |(id, fence): (&DeliveryId, &Fence)| {
            let ((event, _), webhook) = chunk.events.get(id)?;
            Some(self.job(*id, *fence, event, *webhook))
        };
        let has_waited = |(id, _): &(&DeliveryId, &Fence)| {
            chunk.events.get(id).is_some_and(|((_, how), _)| *how == Came::Waited)
        };
        let (later, now): (Vec<_>, Vec<_>) = to_hand_over.iter().partition(has_waited);
        let proof = self.outbox.deliver(now.into_iter().filter_map(job)).await;
        let proof = proof.and(self.outbox.deliver_later(later.into_iter().filter_map(job)).await);
        Ok(proof.and(self.outbox.deliver_again(attempted.iter().filter_map(job)).await))
    }

    async fn set_aside(&self, events: &[Event], refusal: &StoreError) -> Result<Confirmed, Stopping> {
        let events: Vec<_> = events.iter().map(|(event, _)| event.clone()).collect();
        self.leave(&events, None).await;
        let body = FanOut { events }.encode();
        let message = Message::to_queue(self.isolation.queue(), body).content_type(PROTOBUF).redelivered();
        self.isolation.set_aside(message, UNUSABLE, &Chain(refusal).to_string()).await
    }
}

impl<'a> Chunk<'a> {
    fn add(&mut self, event: &'a Event, webhook: WebhookId) {
        let (fan_out, _) = event;
        let id = DeliveryId::of(fan_out.id, webhook);
        // An event may stand twice in a batch; one statement may not insert a row twice. The copy that came back is
        // the one that counts.
        let (_, how) = event;
        match self.events.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert((event, webhook));
                let event_type = fan_out.event_type;
                self.deliveries.push(NewDelivery { id, webhook, event: fan_out.id, event_type });
            }
            Entry::Occupied(mut entry) if *how == Came::Again => drop(entry.insert((event, webhook))),
            Entry::Occupied(_) => {}
        }
    }
}

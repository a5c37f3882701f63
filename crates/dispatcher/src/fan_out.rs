//! From stored events to delivery jobs.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use backends::{Availability, Chain};
use broker::{Batch, Confirmed, Consumer, Held, Message, Received};
use bytes::Bytes;
use domain::protocol::{DeliveryStatus, Fence, Taken, Ticket};
use domain::retry::AttemptNumber;
use domain::{DeliveryId, EventId, Timestamp, WebhookId};
use futures_util::future::try_join_all;
use isolation::{Isolation, MAY_TAKE, Stopping, Work};
use metrics::counter;
use service::Clock;
use store::{DeliveryState, NewDelivery, Store, StoreError};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;
use wire::names::WAITED_HEADER;
use wire::rejected::UNUSABLE;
use wire::{DeliveryJob, FanOut, FanOutEvent, PROTOBUF};

use crate::attempts::{Attempts, Unwritten};
use crate::first_attempts::{First, FirstAttempts, Look, UnderWay};
use crate::journal::JournalError;
use crate::outbox::Outbox;
use crate::reconcile::Probes;
use crate::subscriptions::Subscriptions;

/// Deliveries written with one statement and handed over together: what a large fan-out holds in memory.
const CHUNK: usize = 1000;

/// Batches whose deliveries are found out at once: while one waits for the database, the next is prepared.
pub(crate) const ENTERING: usize = 2;

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

/// An event and how its message came.
type Event = (FanOutEvent, Taken);

/// Deliveries that may be made.
#[derive(Default)]
struct Candidates {
    /// Of events with so few of them that this dispatcher makes their first attempts.
    few: Vec<Candidate>,
    /// Events with more: their places among the events.
    many: Vec<usize>,
}

/// First attempts were not started.
enum NotStarted {
    /// This dispatcher has its hands full.
    NoRoom,
    Journal(JournalError),
}

impl From<JournalError> for NotStarted {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

/// A delivery that may be made.
struct Candidate {
    /// The event's place among the events.
    index: usize,
    webhook: WebhookId,
    delivery: DeliveryId,
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
                    from_before.extend(as_taken(decoded.events, Taken::Again));
                }
                Ok(decoded) if has_waited(message) => {
                    from_before.extend(as_taken(decoded.events, Taken::First));
                }
                // The first may be in somebody's hands: looked at later, the rows will tell.
                Ok(_) if message.may_be_copy => proof = proof.and(self.outbox.park_fan_out(message).await),
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

    /// Makes the first attempts of events that nobody had before, and marks them once every delivery is written or another
    /// message stands for it.
    async fn attempt(
        &self,
        mut events: Vec<FanOutEvent>,
        held: Option<&Held>,
        entered: Instant,
        entering: Option<SemaphorePermit<'_>>,
    ) -> Result<Confirmed, Stopping> {
        // A body is a part of its message, and a request that takes long must not keep the whole of it in memory. Larger
        // ones are nearly all of theirs, and counted.
        for event in events.iter_mut().filter(|event| event.body.len() <= self.inline_body) {
            event.body = Bytes::copy_from_slice(&event.body);
        }
        let Some(candidates) = self.candidates(&events).await else {
            // Which of them the database refuses is found out there.
            return self.fan_out_or_set_aside(&as_taken(events, Taken::First)).await;
        };
        let mut under_way = Vec::with_capacity(candidates.few.len());
        let mut started = Ok(());
        for chunk in candidates.few.chunks(self.first_attempts.room.size().min(CHUNK)) {
            started = self.start(&events, chunk, held, entered, &mut under_way).await;
            if started.is_err() {
                break;
            }
        }
        drop((entering, candidates.few));
        // All of them, whatever becomes of one: a message that is given back with a request on the wire is made again.
        let (mut settled, mut panicked) = (Ok(Confirmed::nothing_to_publish()), None);
        for attempt in under_way {
            match attempt.settled().await {
                Ok(this) => settled = settled.and_then(|proof| Ok(proof.and(this?))),
                Err(panic) => panicked = Some(panic),
            }
        }
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        let proof = settled?;
        match started {
            Ok(()) => {}
            Err(NotStarted::Journal(JournalError::Stopped(_))) => return Err(Stopping),
            // What was started is written and will be found.
            Err(NotStarted::NoRoom | NotStarted::Journal(JournalError::Refused(_))) => {
                return Ok(proof.and(self.fan_out_or_set_aside(&as_taken(events, Taken::First)).await?));
            }
        }

        let large: HashSet<_> = candidates.many.iter().map(|index| events[*index].id).collect();
        let (large, small): (Vec<_>, Vec<_>) =
            events.into_iter().partition(|event| large.contains(&event.id));
        counter!("fanout_events_total").increment(small.len() as u64);
        self.mark(&small).await?;
        if large.is_empty() {
            return Ok(proof);
        }
        Ok(proof.and(self.fan_out_or_set_aside(&as_taken(large, Taken::First)).await?))
    }

    /// Who may get which event; `None` if the database refuses to tell.
    async fn candidates(&self, events: &[FanOutEvent]) -> Option<Candidates> {
        let recipients = events.iter().flat_map(|event| &event.recipients);
        let subscriptions = self.subscriptions.of(recipients).await.ok()?;
        let mut candidates = Candidates::default();
        let mut known = HashSet::new();
        for (index, event) in events.iter().enumerate() {
            let before = candidates.few.len();
            let of_user = event.recipients.iter().filter_map(|user| subscriptions.get(user));
            for webhook in of_user.flat_map(|subscribed| subscribed.to(event.event_type)) {
                let delivery = DeliveryId::of(event.id, webhook);
                // An event may stand twice in a batch.
                if known.insert(delivery) {
                    candidates.few.push(Candidate { index, webhook, delivery });
                }
            }
            if candidates.few.len() - before > self.inline_fan_out {
                candidates.few.truncate(before);
                candidates.many.push(index);
            }
        }
        Some(candidates)
    }

    /// Looks at the webhooks and starts the first attempts to those that take the event.
    async fn start(
        &self,
        events: &[FanOutEvent],
        chunk: &[Candidate],
        held: Option<&Held>,
        entered: Instant,
        under_way: &mut Vec<UnderWay>,
    ) -> Result<(), NotStarted> {
        let until = entered + self.patience;
        let Some(mut room) = self.first_attempts.room.take(chunk.len(), until).await else {
            return Err(NotStarted::NoRoom);
        };
        let at = Instant::now();
        let asked: HashSet<_> =
            chunk.iter().map(|candidate| (candidate.webhook, events[candidate.index].event_type)).collect();
        let looking = asked.into_iter().map(async |(webhook, event_type)| {
            let revision = self.attempts.journal.wanted(webhook, event_type).await?;
            Ok::<_, JournalError>(((webhook, event_type), revision))
        });
        let revisions: HashMap<_, _> = try_join_all(looking).await?.into_iter().collect();

        let created_at = self.clock.now();
        let mut started = 0;
        for Candidate { index, webhook, delivery } in chunk {
            let event = &events[*index];
            let revision = revisions.get(&(*webhook, event.event_type)).copied().flatten();
            let (Some(revision), Some(room)) = (revision, room.split(1)) else { continue };
            started += 1;
            let new = NewDelivery {
                id: *delivery,
                webhook: *webhook,
                event: event.id,
                event_type: event.event_type,
            };
            let first = First {
                job: self.job(*delivery, Fence::FIRST, event, *webhook),
                body: event.body.clone(),
                unwritten: Unwritten::new(new, created_at),
                look: Look { revision, at },
                accepted_at: event.id.accepted_at(),
                held: held.cloned(),
            };
            under_way.push(self.first_attempts.start(first, room));
        }
        counter!("fanout_deliveries_total").increment(started);
        Ok(())
    }

    async fn mark(&self, events: &[FanOutEvent]) -> Result<(), Stopping> {
        let ids = events.iter().map(|event| event.id).collect();
        match self.attempts.journal.mark_fanned_out(ids).await {
            Ok(()) => Ok(()),
            Err(JournalError::Stopped(_)) => Err(Stopping),
            // Nothing is left to do for them, but the reconciler would think so.
            Err(JournalError::Refused(_)) => {
                self.leave(events, None).await;
                Ok(())
            }
        }
    }

    /// One event that the database refuses must not take the others with it: events that are refused are tried in
    /// halves, and what is refused alone is set aside.
    async fn fan_out_or_set_aside(&self, events: &[Event]) -> Result<Confirmed, Stopping> {
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
        let proof = self.outbox.deliver(to_hand_over.iter().filter_map(job)).await;
        Ok(proof.and(self.outbox.deliver_again(attempted.iter().filter_map(job)).await))
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

fn as_taken(events: Vec<FanOutEvent>, taken: Taken) -> Vec<Event> {
    events.into_iter().map(|event| (event, taken)).collect()
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

//! Stores accepted events and hands them to the dispatchers.

use std::collections::HashSet;
use std::sync::Arc;

use backends::Chain;
use broker::{Confirmed, Message};
use bytes::Bytes;
use domain::event::{AcceptedEvent, Rejection, RejectionCode};
use domain::{EventId, PublicEventId, UserId};
use futures_util::future::try_join_all;
use metrics::histogram;
use service::Clock;
use service::settings::Ingest;
use store::{Inserted, NewEvent, Store, StoredEvent};
use tokio::time::Instant;
use tracing::error;
use wire::fan_out::MESSAGE_BYTES;
use wire::{FanOut, FanOutEvent, Names, PROTOBUF};

use crate::chunks::chunks;
use crate::outbox::Outbox;
use crate::retry::{Retry, Stopping};

/// Fan-out messages of one group on their way at once: each is a copy of what it carries.
const FAN_OUTS_AT_ONCE: usize = 2;

/// How much is stored with one statement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StatementBounds {
    /// Events.
    pub(crate) events: usize,
    /// Bytes of what they carry; one event may exceed it alone.
    pub(crate) bytes: usize,
}

impl StatementBounds {
    /// The configured bounds.
    pub(crate) fn of(settings: &Ingest) -> Self {
        Self { events: settings.batch_events as usize, bytes: settings.batch_bytes.0 }
    }
}

/// What became of an accepted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// Stored now.
    Stored(PublicEventId),
    /// The same id was published within the last 24 hours.
    Duplicate(PublicEventId),
    /// The database refuses it, and would again.
    Refused(Rejection),
}

/// The way from "accepted" to "durable and on its way". Clones share it.
#[derive(Clone)]
pub(crate) struct Pipeline {
    store: Store,
    outbox: Outbox,
    names: Arc<Names>,
    clock: Clock,
    retry: Retry,
    bounds: StatementBounds,
}

impl Pipeline {
    /// The way into this store and this broker.
    pub(crate) fn new(
        store: Store,
        outbox: Outbox,
        names: Arc<Names>,
        clock: Clock,
        retry: Retry,
        bounds: StatementBounds,
    ) -> Self {
        Self { store, outbox, names, clock, retry, bounds }
    }

    /// Stores events, then publishes those that are not fanned out yet; tries again while the database or the
    /// broker is away. When this returns, all of them are committed, save those refused, and their fan-out messages
    /// confirmed. Answers for every event, in order.
    ///
    /// Cancellation: events may be stored without being published; the same events again are then published.
    ///
    /// # Errors
    /// The service is stopping, and the last try failed.
    pub(crate) async fn take(&self, events: &[NewEvent]) -> Result<(Vec<Receipt>, Confirmed), Stopping> {
        let started = Instant::now();
        let outcomes = self.store(events).await?;
        histogram!("ingest_store_seconds").record(started.elapsed());

        let started = Instant::now();
        let (new, earlier) = self.not_fanned_out(events, &outcomes).await?;
        let confirmed = self.fan_out(&new, Elsewhere::No).await?;
        let confirmed = confirmed.and(self.fan_out(&earlier, Elsewhere::Perhaps).await?);
        histogram!("ingest_publish_seconds").record(started.elapsed());
        Ok((events.iter().zip(outcomes).map(|(event, outcome)| receipt(event, outcome)).collect(), confirmed))
    }

    /// One event that the database refuses must not take the others with it: what is refused together is tried in
    /// halves. Answers for every event, in order.
    async fn store(&self, events: &[NewEvent]) -> Result<Vec<Outcome>, Stopping> {
        let mut outcomes = Vec::with_capacity(events.len());
        let mut parts = chunks(events, self.bounds.events, self.bounds.bytes, stored_bytes);
        parts.reverse();
        while let Some(part) = parts.pop() {
            let stored =
                self.retry.until_answered(|| self.store.insert_events(part, self.clock.now())).await?;
            match stored {
                Ok(inserted) => outcomes.extend(inserted.into_iter().map(Ok)),
                Err(_) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(refusal) => {
                    let reason = Chain(&refusal).to_string();
                    error!(event.id = %part[0].id, reason, "the database refuses an event");
                    let message = format!("the database refuses the event: {reason}");
                    outcomes.push(Err(Rejection::of_document(RejectionCode::NotStorable, message)));
                }
            }
        }
        Ok(outcomes)
    }

    /// New events, and stored ones that were published again before a dispatcher marked them: their fan-out message
    /// may never have been published, or be in a dispatcher's hands.
    async fn not_fanned_out(
        &self,
        events: &[NewEvent],
        outcomes: &[Outcome],
    ) -> Result<(Vec<FanOutEvent>, Vec<FanOutEvent>), Stopping> {
        let mut new = Vec::new();
        let mut earlier = HashSet::new();
        for (event, outcome) in events.iter().zip(outcomes) {
            match outcome {
                Ok(Inserted::New) => new.push(of_new(event)),
                Ok(Inserted::Duplicate { event, fanned_out: false }) => {
                    earlier.insert(*event);
                }
                Ok(Inserted::Duplicate { .. }) | Err(_) => {}
            }
        }
        // An id may stand twice among the events: the second is a duplicate of the first.
        for event in &new {
            earlier.remove(&event.id);
        }
        Ok((new, self.load(earlier).await?))
    }

    async fn load(&self, ids: HashSet<EventId>) -> Result<Vec<FanOutEvent>, Stopping> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = ids.into_iter().collect();
        match self.retry.until_answered(|| self.store.load_events(&ids)).await? {
            Ok(stored) => Ok(stored.into_iter().map(of_stored).collect()),
            Err(refusal) => {
                // They are stored: the reconciler finds what no dispatcher has marked.
                error!(error = %Chain(&refusal), events = ids.len(), "stored events cannot be read");
                Ok(Vec::new())
            }
        }
    }

    async fn fan_out(&self, events: &[FanOutEvent], elsewhere: Elsewhere) -> Result<Confirmed, Stopping> {
        let publish = |chunk: &&[FanOutEvent]| {
            let body = FanOut { events: chunk.to_vec() }.encode();
            let queue = self.names.of_events(chunk).fan_out_queue();
            let message = Message::to_queue(queue, body).content_type(PROTOBUF);
            self.outbox.publish(match elsewhere {
                Elsewhere::No => message,
                Elsewhere::Perhaps => message.may_be_copy(),
            })
        };
        let mut proof = Confirmed::nothing_to_publish();
        for some in chunks(events, usize::MAX, MESSAGE_BYTES, FanOutEvent::size).chunks(FAN_OUTS_AT_ONCE) {
            let confirmed = try_join_all(some.iter().map(publish)).await?;
            proof = confirmed.into_iter().fold(proof, Confirmed::and);
        }
        Ok(proof)
    }
}

/// Whether there may be another message about the same events: dispatchers make the first attempts of those that nobody else
/// has.
#[derive(Debug, Clone, Copy)]
enum Elsewhere {
    No,
    Perhaps,
}

/// What became of an event in the database; an error is a refusal for good.
type Outcome = Result<Inserted, Rejection>;

/// An event without a publisher's id is stored under its own: a statement that is sent again, because its answer was
/// lost, must find what the first one stored.
pub(crate) fn to_store(event: AcceptedEvent) -> NewEvent {
    NewEvent {
        id: event.id,
        publisher_id: Some(event.public_id()),
        event_type: event.event_type,
        recipients: event.recipients,
        timestamp: event.timestamp.as_str().to_owned(),
        body: Bytes::from(event.body),
    }
}

fn receipt(event: &NewEvent, outcome: Outcome) -> Receipt {
    match outcome {
        Ok(Inserted::New) => Receipt::Stored(event.public_id()),
        Ok(Inserted::Duplicate { .. }) => Receipt::Duplicate(event.public_id()),
        Err(rejection) => Receipt::Refused(rejection),
    }
}

/// An event in the form in which it travels between services.
fn of_new(event: &NewEvent) -> FanOutEvent {
    FanOutEvent {
        id: event.id,
        public_id: event.public_id(),
        event_type: event.event_type,
        timestamp: event.timestamp.clone(),
        recipients: event.recipients.clone(),
        body: event.body.clone(),
    }
}

fn of_stored(event: StoredEvent) -> FanOutEvent {
    let StoredEvent { id, public_id, event_type, recipients, timestamp, body } = event;
    FanOutEvent { id, public_id, event_type, timestamp, recipients, body }
}

fn stored_bytes(event: &NewEvent) -> usize {
    event.body.len() + bytes_of(&event.recipients)
}

fn bytes_of(recipients: &[UserId]) -> usize {
    recipients.iter().map(|user| user.as_str().len()).sum()
}

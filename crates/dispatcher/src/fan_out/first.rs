//! The fast way: the first attempts of events that nobody had before.

use std::collections::{HashMap, HashSet};
use std::panic::resume_unwind;

use broker::{Confirmed, Held};
use bytes::Bytes;
use domain::protocol::Fence;
use domain::{DeliveryId, EventId, WebhookId};
use futures_util::future::try_join_all;
use isolation::Stopping;
use metrics::counter;
use store::NewDelivery;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use wire::FanOutEvent;

use super::spread::{Came, came};
use super::{CHUNK, FanOutStage};
use crate::attempts::Unwritten;
use crate::first_attempts::{First, Look, UnderWay};
use crate::journal::JournalError;

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
    /// Whether it is the only one of its event.
    is_only: bool,
}

impl FanOutStage {
    /// Makes the first attempts of events that nobody had before, and marks them once every delivery is written or another
    /// message stands for it.
    pub(super) async fn attempt(
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
            return self.fan_out_or_set_aside(&came(events, Came::Fresh)).await;
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
        let mut marked = HashSet::new();
        for (index, attempt) in under_way {
            match attempt.settled().await {
                Ok(this) => {
                    if this.has_ended_event {
                        marked.insert(index);
                    }
                    settled = settled.and_then(|proof| Ok(proof.and(this.proof?)));
                }
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
                return Ok(proof.and(self.fan_out_or_set_aside(&came(events, Came::Fresh)).await?));
            }
        }

        let large: HashSet<_> = candidates.many.iter().map(|index| events[*index].id).collect();
        counter!("fanout_events_total").increment((events.len() - large.len()) as u64);
        let unmarked = events.iter().enumerate().filter(|(index, _)| !marked.contains(index));
        let unmarked: Vec<_> = unmarked.map(|(_, event)| event.id).filter(|id| !large.contains(id)).collect();
        let (large, small): (Vec<_>, Vec<_>) =
            events.into_iter().partition(|event| large.contains(&event.id));
        self.mark(unmarked, &small).await?;
        if large.is_empty() {
            return Ok(proof);
        }
        Ok(proof.and(self.fan_out_or_set_aside(&came(large, Came::Fresh)).await?))
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
                    candidates.few.push(Candidate { index, webhook, delivery, is_only: false });
                }
            }
            if let [only] = &mut candidates.few[before..] {
                only.is_only = true;
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
        under_way: &mut Vec<(usize, UnderWay)>,
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
        for Candidate { index, webhook, delivery, is_only } in chunk {
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
                unwritten: Unwritten::new(new, created_at, *is_only),
                look: Look { revision, at },
                accepted_at: event.id.accepted_at(),
                held: held.cloned(),
            };
            under_way.push((*index, self.first_attempts.start(first, room)));
        }
        counter!("fanout_deliveries_total").increment(started);
        Ok(())
    }

    /// Marks those of `events` that are not marked yet.
    async fn mark(&self, unmarked: Vec<EventId>, events: &[FanOutEvent]) -> Result<(), Stopping> {
        if unmarked.is_empty() {
            return Ok(());
        }
        match self.attempts.journal.mark_fanned_out(unmarked).await {
            Ok(()) => Ok(()),
            Err(JournalError::Stopped(_)) => Err(Stopping),
            // Nothing is left to do for them, but the reconciler would think so.
            Err(JournalError::Refused(_)) => {
                self.leave(events, None).await;
                Ok(())
            }
        }
    }
}

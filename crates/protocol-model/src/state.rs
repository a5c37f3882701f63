//! Everything there is at an instant: rows, queues, processes, and what the receiver has seen.

use domain::protocol::{DeliveryStatus, Fence, Row, Taken, Ticket, WebhookState};
use domain::retry::{AttemptNumber, Verdict};

use crate::broker::{Message, Queue};
use crate::dispatcher::Dispatcher;
use crate::fan_out::Note;
use crate::work::Job;
use crate::{fingerprint, ingest, reconcile};

/// One event for one webhook, at an instant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    /// The publisher has the broker's confirm: the event is accepted.
    pub accepted: bool,

    /// `ingest.events`: what the publisher published.
    pub ingest: Queue<()>,
    /// `webhooks.fanout`.
    pub fan_out: Queue<Note>,
    /// The queue in which copies of it wait before they are fanned out.
    pub waiting_copies: Vec<Message<Note>>,
    /// `webhooks.deliver`.
    pub deliver: Queue<Ticket>,
    /// The delay queues (retry and parking) together. Time is not counted: a job may come out at any instant.
    pub delayed: Vec<Delayed>,

    /// The event's row.
    pub event: Option<Event>,
    /// The delivery's row.
    pub delivery: Option<Delivery>,
    /// `queue_progress` of the fan-out queue.
    pub fan_out_progress: reconcile::Progress,
    /// `queue_progress` of the deliver queue.
    pub deliver_progress: reconcile::Progress,

    /// The replicas of event-ingest.
    pub ingesters: [Option<Job<(), ingest::Phase>>; 2],
    /// The dispatchers.
    pub dispatchers: [Dispatcher; 2],
    /// What the one reconciler that holds the lock is at.
    pub reconciler: reconcile::Phase,

    /// What an observer outside has seen.
    pub seen: Seen,
    /// Faults that happened.
    pub faults: u8,
    /// The broker lost everything once.
    pub wiped: bool,
    /// Times a job was parked.
    pub parked: u8,
    /// Times the webhook was disabled or enabled: at first it is enabled.
    pub switched: u8,
}

/// A job in a delay queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delayed {
    /// The job.
    pub message: Message<Ticket>,
    /// What for.
    pub why: Why,
}

/// Why a job is in a delay queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// A later attempt.
    Retry,
    /// It was there before, and is put off.
    Parked,
    /// It stands for a first attempt that was on the wire when it was published.
    StandIn,
}

/// The event's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event {
    /// It does not stand in `events_to_fan_out`.
    pub fanned_out: bool,
}

/// The delivery's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// `status`.
    pub status: DeliveryStatus,
    /// `attempts`: how many are recorded.
    pub attempts: u32,
    /// `fence`: how often its job was issued anew.
    pub fence: Fence,
}

/// What an observer outside has seen: never read by the protocol, only by the properties.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    /// POSTs that began, by attempt.
    pub posts: Vec<u8>,
    /// Attempts that were recorded, in order, with what they said.
    pub records: Vec<(AttemptNumber, Verdict)>,
    /// How POSTs began that should not have begun; each way once.
    pub wrong: Vec<Wrong>,
    /// The delivery was ended because its webhook was disabled.
    pub abandoned: bool,
    /// There was none, because its webhook was disabled.
    pub unwanted: bool,
    /// What the reconciler put back: events and jobs.
    pub put_back: u8,
}

/// How a POST may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// The delivery was final.
    AfterEnd,
    /// No job had waited for it.
    TooEarly,
    /// The webhook was disabled.
    WhileDisabled,
}

impl Delayed {
    /// A later attempt.
    pub fn retry(message: Message<Ticket>) -> Self {
        Self { message, why: Why::Retry }
    }

    /// One that is put off.
    pub fn parked(message: Message<Ticket>) -> Self {
        Self { message, why: Why::Parked }
    }

    /// One that stands for a request.
    pub fn stand_in(message: Message<Ticket>) -> Self {
        Self { message, why: Why::StandIn }
    }
}

impl Delivery {
    /// Whether a job with this ticket would still lead to an attempt.
    pub fn is_awaiting(self, ticket: Ticket) -> bool {
        self.status == DeliveryStatus::Pending
            && ticket.fence >= self.fence
            && ticket.attempt.get() > self.attempts
    }
}

impl Seen {
    /// A POST begins, wrongly or not.
    pub fn post(&mut self, number: AttemptNumber, wrong: impl IntoIterator<Item = Wrong>) {
        for wrong in wrong {
            if !self.wrong.contains(&wrong) {
                self.wrong.push(wrong);
            }
        }
        let index = number.get() as usize - 1;
        if self.posts.len() <= index {
            self.posts.resize(index + 1, 0);
        }
        self.posts[index] += 1;
    }
}

impl State {
    /// The delivery will not be attempted again.
    pub fn is_final(&self) -> bool {
        self.delivery.is_some_and(|delivery| delivery.status != DeliveryStatus::Pending)
    }

    /// The event has come to its end.
    pub fn has_ended(&self) -> bool {
        let needs_none = self.seen.unwanted && self.event.is_some_and(|event| event.fanned_out);
        self.is_final() || self.delivery.is_none() && needs_none
    }

    /// The webhook takes events.
    pub fn is_enabled(&self) -> bool {
        self.switched.is_multiple_of(2)
    }

    /// What [`domain::protocol::decide`] is shown.
    pub fn row(&self) -> Option<Row> {
        let enabled = WebhookState::Active { revision: 0 };
        let webhook = if self.is_enabled() { enabled } else { WebhookState::Disabled };
        self.delivery.map(|Delivery { status, attempts, fence }| Row { status, attempts, fence, webhook })
    }

    /// A dispatcher has a job in hand, or makes the first attempt.
    pub fn is_delivering(&self) -> bool {
        self.dispatchers.iter().any(|dispatcher| dispatcher.work.is_some())
    }

    /// A first attempt is in hand, on its way to be made at once.
    pub fn makes_first_attempt(&self) -> bool {
        self.dispatchers.iter().any(Dispatcher::makes_first_attempt)
    }

    /// A job's delay is longer than what others needed, who had a job in hand when it began or were about to take one.
    pub fn outlasts(&self, which: usize) -> bool {
        let Delayed { message, why } = &self.delayed[which];
        let before = self.delayed.iter().filter(|other| other.why != Why::Parked).map(|other| &other.message);
        let is_put_off_for_another = *why == Why::Parked
            && self.deliver.messages().chain(before).any(|other| other.body == message.body);
        !self.is_delivering() && !is_put_off_for_another
    }

    /// The messages that would lead to an attempt: of a delivery, jobs that wait, are in hand and not recorded yet, or about to
    /// be published; of an event that has none yet, its own, wherever it is.
    pub fn valid_messages(&self) -> usize {
        let Some(delivery) = self.delivery else { return self.messages_of_event() };
        let queued = self.deliver.messages().map(|message| message.body);
        let in_hand = self.dispatchers.iter().flat_map(Dispatcher::tickets);
        let all = queued.chain(self.delayed.iter().map(|delayed| delayed.message.body)).chain(in_hand);
        all.chain(self.reconciler.owes()).filter(|ticket| delivery.is_awaiting(*ticket)).count()
    }

    /// The event's messages: waiting, in hand, or about to be published.
    fn messages_of_event(&self) -> usize {
        let is_owed = |job: &&Job<(), ingest::Phase>| matches!(job.phase, ingest::Phase::Publishing { .. });
        let waiting = self.fan_out.messages().count() + self.waiting_copies.len();
        let in_hand = self.dispatchers.iter().filter(|dispatcher| dispatcher.fan_out.is_some()).count();
        let owed = self.ingesters.iter().flatten().filter(is_owed).count();
        waiting + in_hand + owed + usize::from(self.reconciler == reconcile::Phase::Requeueing)
    }

    /// The delay of a copy of the event's message is longer than others needed, who had one in hand when it began, were about
    /// to take one, or to publish it.
    pub fn outlasts_event(&self) -> bool {
        let is_owed = |job: &Job<(), ingest::Phase>| matches!(job.phase, ingest::Phase::Publishing { .. });
        self.dispatchers.iter().all(|dispatcher| dispatcher.fan_out.is_none())
            && self.fan_out.messages().all(|message| message.body == Note::HasWaited)
            && !self.ingesters.iter().flatten().any(is_owed)
    }

    /// Two processes of a kind do the same things: which is which does not matter, and halves what there is to look at.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        self.ingesters.sort_by_key(|job| (job.is_none(), fingerprint(job)));
        self.dispatchers.sort_by_key(|dispatcher| (dispatcher.is_idle(), fingerprint(dispatcher)));
        self.waiting_copies.sort_by_key(|message| (message.taken == Taken::Again, message.may_be_copy));
        self.delayed.sort_by_key(|Delayed { message, why }| {
            let Ticket { attempt, fence } = message.body;
            (attempt, fence, message.taken == Taken::Again, message.may_be_copy, *why)
        });
        self
    }
}

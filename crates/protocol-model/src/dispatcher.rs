//! A dispatcher, as far as this event and its delivery go: what its two stages have in hand, and who may work on the
//! delivery.

use domain::protocol::Ticket;
use domain::retry::AttemptNumber;

use crate::broker::{Message, Queue};
use crate::deliver::Phase;
use crate::fan_out::{self, FIRST, Note};
use crate::work::{Hold, Job};

/// What a dispatcher has in hand.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Dispatcher {
    /// The event's message, with the fan-out stage.
    pub fan_out: Option<Job<Note, fan_out::Phase>>,
    /// What holds the claim to the delivery: a job, or the first attempt that is made at once, for the event's message.
    pub work: Option<Job<Ticket, Phase>>,
    /// What waits for the claim (`dispatcher::claims`): copies, and what came back from a channel that was lost.
    pub waiting: Vec<(Message<Ticket>, Hold)>,
}

impl Dispatcher {
    /// Nothing is in hand.
    pub(crate) fn is_idle(&self) -> bool {
        self.fan_out.is_none() && self.work.is_none()
    }

    /// Works on a job, or lets it wait for the claim.
    pub(crate) fn claim(&mut self, message: Message<Ticket>, hold: Hold) {
        if self.work.is_some() {
            self.waiting.push((message, hold));
        } else {
            self.work = Some(Job { message, hold, phase: Phase::Waiting });
        }
    }

    /// The work in hand is done with. What waits next has its go, unless what it asks for was handed over just now
    /// (`Claims::claim`).
    pub(crate) fn free_claim(&mut self, attempt: AttemptNumber, handed_over: bool) {
        let is_left = |message: &Message<Ticket>| !(handed_over && message.body.attempt <= attempt);
        let (left, over): (Vec<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(message, _)| is_left(message));
        self.waiting = left;
        for (_, hold) in over {
            self.settle(hold);
        }
        if !self.waiting.is_empty() {
            let (message, hold) = self.waiting.remove(0);
            self.work = Some(Job { message, hold, phase: Phase::Waiting });
        }
    }

    /// Work ended. If the event's message was held for it, it need not be any longer.
    pub(crate) fn settle(&mut self, hold: Hold) {
        if let (Hold::ForEvent, Some(event)) = (hold, &mut self.fan_out)
            && event.phase == fan_out::Phase::Attempting
        {
            event.phase = fan_out::Phase::Marking;
        }
    }

    /// A job in a delay queue stands for the attempt that is on the wire: the event's message need not be held for it.
    pub(crate) fn stood_in(&mut self) {
        if let Some(work) = self.work.as_mut().filter(|work| work.hold == Hold::ForEvent) {
            work.hold = Hold::StoodIn;
        }
    }

    /// Only by mistake: the message in hand is acknowledged before what was committed is handed over.
    pub(crate) fn let_go(&mut self, hold: Hold) -> Hold {
        match (hold, &mut self.fan_out) {
            (Hold::ForEvent, Some(event)) => event.hold = Hold::Over,
            (Hold::ForEvent | Hold::StoodIn, _) => {}
            (Hold::Unacked | Hold::Over, _) => return Hold::Over,
        }
        hold
    }

    /// A first attempt is on the wire while the event's message is held.
    pub(crate) fn is_sending_for_event(&self) -> bool {
        let is_sending = |phase| matches!(phase, Phase::OnTheWire { .. });
        self.work.as_ref().is_some_and(|work| work.hold == Hold::ForEvent && is_sending(work.phase))
    }

    /// A first attempt goes on for which a job in a delay queue stands.
    pub(crate) fn is_stood_in(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.hold == Hold::StoodIn)
    }

    /// Nobody knows yet whether there is a stand-in.
    pub(crate) fn is_standing_in(&self) -> bool {
        self.fan_out.as_ref().is_some_and(|event| event.phase.is_standing_in())
    }

    /// A first attempt is in hand, on its way to be made at once.
    pub(crate) fn makes_first_attempt(&self) -> bool {
        self.work.as_ref().is_some_and(|work| matches!(work.hold, Hold::ForEvent | Hold::StoodIn))
    }

    /// The jobs in hand: what they ask for, or what is to be published in their stead. The first attempt is no job: the
    /// event's message stands for it, or its stand-in.
    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        let of_work = self.work.as_ref().and_then(|work| match (work.phase, work.hold) {
            (Phase::HandingOver { ticket, .. }, _) => Some(ticket),
            (Phase::Done { .. }, _) | (_, Hold::ForEvent | Hold::StoodIn) => None,
            _ => Some(work.message.body),
        });
        let of_event = self.fan_out.as_ref().and_then(|event| match event.phase {
            fan_out::Phase::HandingOver { ticket, .. } => Some(ticket),
            fan_out::Phase::StandingIn { .. } => Some(FIRST),
            _ => None,
        });
        let waiting = self.waiting.iter().filter(|(_, hold)| *hold != Hold::ForEvent);
        of_work.into_iter().chain(of_event).chain(waiting.map(|(message, _)| message.body))
    }

    /// A job is about to be published that the row knows of already.
    pub(crate) fn owes(&self) -> bool {
        let by_fan_out = self.fan_out.as_ref().is_some_and(|event| {
            matches!(event.phase, fan_out::Phase::HandingOver { .. }) || event.phase.is_standing_in()
        });
        let by_work = self
            .work
            .as_ref()
            .is_some_and(|work| matches!(work.phase, Phase::HandingOver { .. } | Phase::Writing { .. }));
        by_fan_out || by_work
    }

    /// The process dies; another takes its place.
    pub(crate) fn crash(&mut self, events: &mut Queue<Note>, jobs: &mut Queue<Ticket>) {
        let Self { fan_out, work, waiting } = std::mem::take(self);
        if let Some(event) = fan_out {
            event.crash(events);
        }
        for (message, hold) in waiting.into_iter().rev() {
            if hold == Hold::Unacked {
                jobs.requeue(message);
            }
        }
        if let Some(job) = work {
            job.crash(jobs);
        }
    }

    /// The channel of its jobs is lost; the jobs go on.
    pub(crate) fn lose_channel(&mut self, jobs: &mut Queue<Ticket>) {
        for (message, hold) in self.waiting.iter_mut().rev() {
            if *hold == Hold::Unacked {
                jobs.requeue(message.clone());
                *hold = Hold::Over;
            }
        }
        if let Some(job) = &mut self.work {
            job.lose_channel(jobs);
        }
    }

    /// The broker forgets what is in hand.
    pub(crate) fn is_forgotten(&mut self) {
        let holds = self.waiting.iter_mut().map(|(_, hold)| hold);
        let holds = holds.chain(self.work.iter_mut().map(|job| &mut job.hold));
        let holds = holds.chain(self.fan_out.iter_mut().map(|event| &mut event.hold));
        for hold in holds.filter(|hold| **hold == Hold::Unacked) {
            *hold = Hold::Over;
        }
    }

    /// Whether the loss of the channel of its jobs would matter.
    pub(crate) fn holds_jobs(&self) -> bool {
        let work = self.work.as_ref().map(|job| job.hold);
        work.into_iter().chain(self.waiting.iter().map(|(_, hold)| *hold)).any(|hold| hold == Hold::Unacked)
    }

    /// Whether the loss of the channel of its events would matter.
    pub(crate) fn holds_event(&self) -> bool {
        self.fan_out.as_ref().is_some_and(|event| event.hold == Hold::Unacked)
    }
}

//! The second stage, a dispatcher's fan-out: **see to the first attempt, mark the event, acknowledge**.
//!
//! A message that nobody had before and that is no copy has one holder. He makes the first attempt at once, as the third stage
//! would ([`crate::deliver`]), and writes the delivery when there is something to say of it; until then the stored event, and
//! the message that is held, stand for it. A request that takes long is not waited for: the delivery is written, a job
//! of its own, the *stand-in*, is put into a delay queue that is longer than any request, and the message is let go.
//!
//! Of any other message the delivery is written first, and its job handed over to the third stage. A copy waits before that:
//! by then the first has written what it has to.

use domain::protocol::{DeliveryStatus, Fence, Taken, Ticket};
use domain::retry::AttemptNumber;

use crate::broker::Message;
use crate::state::{Delayed, State};
use crate::work::{Answer, Hold, Job, Who};
use crate::{Mistake, Protocol};

/// The first attempt, as its first job asks for it.
pub(crate) const FIRST: Ticket = Ticket { attempt: AttemptNumber::FIRST, fence: Fence::FIRST };

/// What a fan-out message says besides its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Note {
    /// Nothing.
    None,
    /// It may be a copy, and has waited for the first.
    HasWaited,
}

/// How far a fan-out message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The first attempt is being made, or given to others.
    Attempting,
    /// The request takes long, and the delivery may be written or not: its answer was lost.
    WritingStandIn,
    /// The delivery is written, and says when its stand-in comes: that has to be published.
    StandingIn {
        /// An earlier try may have been taken and its confirm lost.
        tried: bool,
    },
    /// The first attempt is recorded or another message stands for it: the event has to be marked.
    Marking,
    /// It may be a copy: it has to be put where it waits.
    PuttingOff {
        /// An earlier try may have been taken and its confirm lost.
        tried: bool,
    },
    /// The delivery has to be written, and the event marked.
    Inserting {
        /// An earlier try may have been committed and its answer lost.
        tried: bool,
    },
    /// The delivery was there before, and whoever wrote it may not have come to do anything about it.
    Reissuing,
    /// It was there before and is attempted or over; whoever attempted it may not have come to hand over what follows.
    Looking,
    /// A job has to be published.
    HandingOver {
        /// The job.
        ticket: Ticket,
        /// Whether it has to finish what may be half done.
        taken: Taken,
        /// An earlier try may have been taken and its confirm lost.
        tried: bool,
    },
    /// All is durable.
    Done,
}

impl Phase {
    /// Nobody knows yet whether there is a stand-in.
    pub(crate) fn is_standing_in(self) -> bool {
        matches!(self, Self::WritingStandIn | Self::StandingIn { .. })
    }
}

/// What the fan-out stage does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Takes a message. If nobody had it before, its first attempt waits for its turn.
    Take,
    /// Takes one that nobody had before, and that has so many deliveries that they are spread over all dispatchers.
    TakeMany,
    /// The request takes long: writes the delivery, with when its stand-in comes.
    StandIn(Answer),
    /// Marks the event.
    Mark,
    /// Writes the delivery, and marks the event.
    Insert(Answer),
    /// Issues the job of a delivery that was never attempted anew.
    Reissue(Answer),
    /// Reads the row of a delivery that was attempted.
    Look,
    /// Publishes the job, the stand-in, or what is put off.
    HandOver(Answer),
    /// Acknowledges the message.
    Ack,
}

impl Protocol {
    pub(crate) fn fan_out_steps(&self, state: &State, who: Who, steps: &mut Vec<Step>) {
        let dispatcher = &state.dispatchers[who];
        let Some(job) = &dispatcher.fan_out else {
            if let Some(message) = state.fan_out.head() {
                steps.push(Step::Take);
                if self.is_first(message) {
                    steps.push(Step::TakeMany);
                }
            }
            return;
        };
        match job.phase {
            Phase::Attempting => {
                // Where somebody else has written the delivery there is nothing to stand for.
                if self.stand_ins && dispatcher.is_sending_for_event() && state.delivery.is_none() {
                    steps.extend(self.answers(state).map(Step::StandIn));
                }
            }
            Phase::WritingStandIn => steps.extend(self.answers(state).map(Step::StandIn)),
            Phase::Marking => steps.push(Step::Mark),
            Phase::Inserting { .. } => steps.extend(self.answers(state).map(Step::Insert)),
            Phase::Reissuing => steps.extend(self.answers(state).map(Step::Reissue)),
            Phase::Looking => steps.push(Step::Look),
            Phase::HandingOver { .. } | Phase::StandingIn { .. } | Phase::PuttingOff { .. } => {
                steps.extend(self.confirms(state).map(Step::HandOver));
            }
            Phase::Done => steps.push(Step::Ack),
        }
    }

    pub(crate) fn fan_out(&self, state: &mut State, who: Who, step: Step) -> Option<()> {
        if matches!(step, Step::Take | Step::TakeMany) {
            self.take(state, who, step == Step::TakeMany)?;
            return Some(());
        }
        let mut job = state.dispatchers[who].fan_out.take()?;
        let may_be_lost = match step {
            Step::StandIn(answer) | Step::Insert(answer) | Step::Reissue(answer) | Step::HandOver(answer) => {
                answer
            }
            Step::Take | Step::TakeMany | Step::Mark | Step::Look | Step::Ack => Answer::Received,
        };
        state.faults += u8::from(may_be_lost == Answer::Lost);
        let is_committed =
            matches!((step, may_be_lost), (Step::Insert(_) | Step::Reissue(_), Answer::Received));
        job.phase = match (step, job.phase) {
            (Step::StandIn(answer), before) => {
                // Of what an earlier try may have written nobody else is known to have the message.
                let is_ours = state.write_pending() || before == Phase::WritingStandIn;
                match answer {
                    Answer::Lost => Phase::WritingStandIn,
                    Answer::Received if is_ours => Phase::StandingIn { tried: false },
                    Answer::Received => Phase::Attempting,
                }
            }
            (Step::HandOver(answer), Phase::StandingIn { tried }) => {
                state.delayed.push(Delayed::stand_in(Message::fresh(FIRST).after_tries(tried)));
                if answer == Answer::Received {
                    state.dispatchers[who].stood_in();
                    Phase::Marking
                } else {
                    Phase::StandingIn { tried: true }
                }
            }
            (Step::Mark, Phase::Marking) => {
                state.mark_fanned_out();
                Phase::Done
            }
            (Step::HandOver(answer), Phase::PuttingOff { tried }) => {
                state.waiting_copies.push(Message::fresh(Note::HasWaited).after_tries(tried));
                published(answer, Phase::PuttingOff { tried: true })
            }
            (Step::Insert(answer), Phase::Inserting { tried }) => {
                let is_new = state.insert_delivery();
                match answer {
                    Answer::Lost => Phase::Inserting { tried: true },
                    Answer::Received => self.after_insert(is_new, tried, &job.message),
                }
            }
            (Step::Reissue(answer), _) => {
                let fence = self.reissue_unattempted(state);
                match answer {
                    Answer::Lost => Phase::Reissuing,
                    Answer::Received => self.after_reissue(fence),
                }
            }
            (Step::Look, Phase::Looking) => what_is_left(state),
            (Step::HandOver(answer), Phase::HandingOver { ticket, taken, tried }) => {
                let message = Message { taken, ..Message::fresh(ticket) };
                state.deliver.enter(message.after_tries(tried));
                published(answer, Phase::HandingOver { ticket, taken, tried: true })
            }
            (Step::Ack, Phase::Done) => return Some(()),
            _ => return None,
        };
        let lets_go = is_committed && self.makes(Mistake::PublishAfterAck)
            || job.phase.is_standing_in() && self.makes(Mistake::AcksBeforeStandIn);
        if lets_go {
            job.hold = Hold::Over;
        }
        state.dispatchers[who].fan_out = Some(job);
        Some(())
    }

    fn take(&self, state: &mut State, who: Who, many: bool) -> Option<()> {
        let message = state.fan_out.take()?;
        let is_first = self.is_first(&message) && !many;
        let must_wait = message.taken == Taken::First && message.may_be_copy && message.body == Note::None;
        let phase = match (is_first, must_wait) {
            (true, _) => Phase::Attempting,
            (false, true) if !self.makes(Mistake::CopiesDoNotWait) => Phase::PuttingOff { tried: false },
            (false, _) => Phase::Inserting { tried: false },
        };
        let hold =
            if is_first && self.makes(Mistake::AcksUnsettled) { Hold::Over } else { self.hold_when_taken() };
        state.dispatchers[who].fan_out = Some(Job { message, hold, phase });
        if is_first {
            state.dispatchers[who].claim(Message::fresh(FIRST), Hold::ForEvent);
            if self.makes(Mistake::MarksUnsettled) {
                state.mark_fanned_out();
            }
        }
        Some(())
    }

    /// Nobody had it before, nor a copy of it: no delivery is written.
    fn is_first(&self, message: &Message<Note>) -> bool {
        self.taken(message.taken) == Taken::First && !message.may_be_copy && message.body == Note::None
    }

    /// Where a delivery exists, a message that did not come back leaves it alone: whoever wrote it sees to it. One that came
    /// back may be what is left of whoever wrote it.
    fn after_insert(&self, is_new: bool, tried: bool, message: &Message<Note>) -> Phase {
        let doubts = message.body == Note::HasWaited && self.makes(Mistake::DoubtsCopies);
        let is_in_doubt = tried || self.taken(message.taken) == Taken::Again || doubts;
        match (is_new, is_in_doubt) {
            (true, _) => Phase::HandingOver { ticket: FIRST, taken: Taken::First, tried: false },
            (false, true) => Phase::Reissuing,
            (false, false) => Phase::Done,
        }
    }

    /// What was never attempted has a new fence now. What was attempted may be left between its record and what follows.
    fn after_reissue(&self, unattempted: Option<Fence>) -> Phase {
        match unattempted {
            Some(fence) => {
                let ticket = Ticket { attempt: AttemptNumber::FIRST, fence };
                Phase::HandingOver { ticket, taken: Taken::First, tried: false }
            }
            None if self.makes(Mistake::ForgetsAttempted) => Phase::Done,
            None => Phase::Looking,
        }
    }
}

/// Done, or published once more.
fn published(answer: Answer, again: Phase) -> Phase {
    match answer {
        Answer::Received => Phase::Done,
        Answer::Lost => again,
    }
}

/// An attempt of the delivery is recorded. Whether what follows exists, the third stage finds out, by a job that says that
/// it may be half done.
fn what_is_left(state: &State) -> Phase {
    match state.delivery {
        Some(delivery) if delivery.status == DeliveryStatus::Pending => Phase::HandingOver {
            ticket: Ticket { attempt: AttemptNumber::FIRST, fence: delivery.fence },
            taken: Taken::Again,
            tried: false,
        },
        _ => Phase::Done,
    }
}

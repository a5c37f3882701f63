//! The second stage, a dispatcher's fan-out: **write the deliveries, hand their jobs over, acknowledge**.

use domain::protocol::{Fence, Taken, Ticket};
use domain::retry::AttemptNumber;

use crate::Protocol;
use crate::broker::Message;
use crate::state::State;
use crate::work::{Answer, Job, Who};

/// How far a fan-out message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The delivery has to be written.
    Inserting {
        /// An earlier try may have been committed and its answer lost.
        tried: bool,
    },
    /// The delivery was there before, and whoever wrote it may not have come to hand its job over.
    Reissuing,
    /// The job has to be published.
    HandingOver {
        /// The job.
        ticket: Ticket,
        /// An earlier try may have been taken and its confirm lost.
        tried: bool,
    },
    /// All is durable.
    Done,
}

/// What the fan-out stage does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Takes a message.
    Take,
    /// Writes the delivery.
    Insert(Answer),
    /// Issues its job anew.
    Reissue(Answer),
    /// Publishes the job.
    HandOver(Answer),
    /// Acknowledges the message.
    Ack,
}

impl Phase {
    /// The job that is about to be published.
    pub(crate) fn owes(self) -> Option<Ticket> {
        match self {
            Self::HandingOver { ticket, .. } => Some(ticket),
            Self::Inserting { .. } | Self::Reissuing | Self::Done => None,
        }
    }
}

impl Protocol {
    pub(crate) fn fan_out_steps(&self, state: &State, who: Who, steps: &mut Vec<Step>) {
        let Some(job) = &state.fanners[who] else {
            if state.fan_out.has_message_at_head() {
                steps.push(Step::Take);
            }
            return;
        };
        match job.phase {
            Phase::Inserting { .. } => steps.extend(self.answers(state).map(Step::Insert)),
            Phase::Reissuing => steps.extend(self.answers(state).map(Step::Reissue)),
            Phase::HandingOver { .. } => steps.extend(self.confirms(state).map(Step::HandOver)),
            Phase::Done => steps.push(Step::Ack),
        }
    }

    pub(crate) fn fan_out(&self, state: &mut State, who: Who, step: Step) -> Option<()> {
        if step == Step::Take {
            let message = state.fan_out.take()?;
            let phase = Phase::Inserting { tried: false };
            state.fanners[who] = Some(Job { message, hold: self.hold_when_taken(), phase });
            return Some(());
        }
        let mut job = state.fanners[who].take()?;
        match (step, job.phase) {
            (Step::Insert(Answer::Lost), _) => {
                state.insert_delivery();
                job.phase = Phase::Inserting { tried: true };
                state.faults += 1;
            }
            (Step::Insert(Answer::Received), Phase::Inserting { tried }) => {
                let is_new = state.insert_delivery();
                // A *fresh* message for a delivery that exists is a copy: whoever wrote the row hands the job over. One that
                // came back may be what is left of whoever wrote the row.
                let is_in_doubt = tried || self.taken(job.message.taken) == Taken::Again;
                job.phase = match (is_new, is_in_doubt) {
                    (true, _) => first(Fence::FIRST),
                    (false, true) => Phase::Reissuing,
                    (false, false) => Phase::Done,
                };
                job.hold = self.hold_when_committed(job.hold);
            }
            (Step::Reissue(answer), _) => {
                let fence = self.reissue_unattempted(state);
                if answer == Answer::Received {
                    job.phase = fence.map_or(Phase::Done, first);
                }
                state.faults += u8::from(answer == Answer::Lost);
            }
            (Step::HandOver(answer), Phase::HandingOver { ticket, tried }) => {
                state.deliver.enter(Message::fresh(ticket).after_tries(tried));
                job.phase = match answer {
                    Answer::Received => Phase::Done,
                    Answer::Lost => Phase::HandingOver { ticket, tried: true },
                };
                state.faults += u8::from(answer == Answer::Lost);
            }
            (Step::Ack, Phase::Done) => return Some(()),
            _ => return None,
        }
        state.fanners[who] = Some(job);
        Some(())
    }
}

/// The first attempt's job has to be published.
fn first(fence: Fence) -> Phase {
    Phase::HandingOver { ticket: Ticket { attempt: AttemptNumber::FIRST, fence }, tried: false }
}

//! The first stage, event-ingest: **store, publish, acknowledge**. Of an event it publishes one message that is not marked,
//! which says that nobody else has it; any other says that it may be a copy.

use crate::broker::Message;
use crate::fan_out::Note;
use crate::rows::Stored;
use crate::state::State;
use crate::work::{Answer, Job, Who};
use crate::{Mistake, Protocol};

/// How far a publisher's message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// In memory, where it may be lost: the message is not acknowledged, it comes back.
    Storing,
    /// The event is stored; its fan-out message has to be published.
    Publishing {
        /// There may be another: somebody else stored the event, or an earlier try was taken and its confirm lost.
        may_be_copy: bool,
    },
    /// Stored, and its fan-out message confirmed: the publisher's message may be forgotten.
    Done,
}

/// What event-ingest does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Takes a message.
    Take,
    /// Stores the event.
    Store(Answer),
    /// Publishes it to the fan-out queue.
    Publish(Answer),
    /// Acknowledges the message.
    Ack,
}

impl Protocol {
    pub(crate) fn ingest_steps(&self, state: &State, who: Who, steps: &mut Vec<Step>) {
        let Some(job) = &state.ingesters[who] else {
            if state.ingest.has_message_at_head() {
                steps.push(Step::Take);
            }
            return;
        };
        match job.phase {
            Phase::Storing => steps.extend(self.answers(state).map(Step::Store)),
            Phase::Publishing { .. } => steps.extend(self.confirms(state).map(Step::Publish)),
            Phase::Done => steps.push(Step::Ack),
        }
    }

    pub(crate) fn ingest(&self, state: &mut State, who: Who, step: Step) -> Option<()> {
        if step == Step::Take {
            let message = state.ingest.take()?;
            state.ingesters[who] = Some(Job { message, hold: self.hold_when_taken(), phase: Phase::Storing });
            return Some(());
        }
        let mut job = state.ingesters[who].take()?;
        match (step, job.phase) {
            (Step::Store(answer), _) => {
                let stored = self.insert_event(state);
                if answer == Answer::Received {
                    job.phase = match stored {
                        Stored::New => Phase::Publishing { may_be_copy: false },
                        Stored::Before => Phase::Publishing { may_be_copy: true },
                        Stored::FannedOut => Phase::Done,
                    };
                    job.hold = self.hold_when_committed(job.hold);
                }
                state.faults += u8::from(answer == Answer::Lost);
            }
            (Step::Publish(answer), Phase::Publishing { may_be_copy }) => {
                let is_marked = may_be_copy && !self.makes(Mistake::TrustsCopies);
                state.fan_out.enter(Message::fresh(Note::None).after_tries(is_marked));
                job.phase = match answer {
                    Answer::Received => Phase::Done,
                    Answer::Lost => Phase::Publishing { may_be_copy: true },
                };
                state.faults += u8::from(answer == Answer::Lost);
            }
            (Step::Ack, Phase::Done) => return Some(()),
            _ => return None,
        }
        state.ingesters[who] = Some(job);
        Some(())
    }
}

//! The first stage, event-ingest: **store, publish, acknowledge**.

use crate::Protocol;
use crate::state::State;
use crate::work::{Answer, Job, Who};

/// How far a publisher's message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// In memory, where it may be lost: the message is not acknowledged, it comes back.
    Storing,
    /// The event is stored; its fan-out message has to be published.
    Publishing,
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
            Phase::Publishing => steps.extend(self.confirms(state).map(Step::Publish)),
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
        match step {
            Step::Store(answer) => {
                let must_publish = self.insert_event(state);
                if answer == Answer::Received {
                    job.phase = if must_publish { Phase::Publishing } else { Phase::Done };
                    job.hold = self.hold_when_committed(job.hold);
                }
                state.faults += u8::from(answer == Answer::Lost);
            }
            Step::Publish(answer) => {
                state.fan_out.publish(());
                if answer == Answer::Received {
                    job.phase = Phase::Done;
                }
                state.faults += u8::from(answer == Answer::Lost);
            }
            Step::Ack => return Some(()),
            Step::Take => return None,
        }
        state.ingesters[who] = Some(job);
        Some(())
    }
}

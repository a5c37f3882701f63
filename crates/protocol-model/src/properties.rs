//! What has to hold.

use domain::protocol::DeliveryStatus;
use domain::retry::Verdict;
use stateright::Property;

use crate::dispatcher::Dispatcher;
use crate::state::{Seen, State, Wrong};
use crate::{FaultKind, Protocol, Start};

/// The promise. It is checked where a path ends: `stateright` judges what happens *eventually* by the last state of each
/// path, and would take a path that goes in circles for one that goes on. So it is a statement about all paths only
/// together with [`crate::every_path_ends`]. A delivery that has ended stays so, hence no way into a state can hide another.
pub const ENDS: &str = "what is accepted is delivered, or fails after all attempts";

/// No request begins once the delivery is final.
pub const NO_POST_AFTER_END: &str = "no POST after a recorded success";

/// No attempt is made by a job that asks for an earlier one: it has not waited for its time.
pub const NOT_TOO_EARLY: &str = "an attempt is made only by a job that waited for it";

/// A webhook that is disabled gets nothing, from that instant on.
pub const NOT_WHILE_DISABLED: &str = "no POST to a disabled webhook";

/// The history is true: attempts 1, 2, …, no more than the schedule has, and the status is what they say.
pub const TRUE_HISTORY: &str = "each attempt is recorded once, in order, and the status follows from them";

/// Every POST beyond one an attempt is explained by a fault. A fault explains two: a process may be killed with the event's
/// message and the job that it was given besides, and both come back; or just before the reconciler, going by a probe that
/// had come out before, puts back what the broker gives back too.
pub const DUPLICATES_EXPLAINED: &str = "an attempt has one POST, and more only through faults";

/// The same over all attempts together, where delays are long. Where they are not, a duplicate may have a successor:
/// whoever is beaten to the record voids the job that follows, and that job may be on the wire already.
pub const DUPLICATES_END: &str = "a duplicate has no successor";

/// Of two of the same job the second waits until the first is over, where delays are long.
pub const COPIES_WAIT: &str = "a confirm that is lost costs no duplicate";

/// Work is not multiplied: there is exactly one message that would lead to an attempt, the event's until its delivery is
/// written, a job from then on; and after faults not many more. A lost channel gives two back at worst, a job and its copy that was just
/// parked in its stead.
pub const ONE_MESSAGE: &str = "what is pending has one message that counts, and more only through faults";

/// What merely waits is left alone, however long.
pub const ONLY_LOST_PUT_BACK: &str = "nothing is put back unless something went wrong";

impl Protocol {
    pub(crate) fn all_properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::eventually(ENDS, |_, state: &State| state.has_ended()),
            Property::always(NO_POST_AFTER_END, |_, state: &State| {
                !state.seen.wrong.contains(&Wrong::AfterEnd)
            }),
            Property::always(NOT_TOO_EARLY, |_, state: &State| !state.seen.wrong.contains(&Wrong::TooEarly)),
            Property::always(NOT_WHILE_DISABLED, |_, state: &State| {
                !state.seen.wrong.contains(&Wrong::WhileDisabled)
            }),
            Property::always(TRUE_HISTORY, Self::has_true_history),
            Property::always(DUPLICATES_EXPLAINED, |_, state: &State| {
                state.seen.posts.iter().all(|posts| *posts <= 1 + 2 * state.faults)
            }),
            Property::always(ONE_MESSAGE, |_, state: &State| {
                let is_pending = match (state.event, state.delivery) {
                    (Some(event), None) => !event.fanned_out,
                    (_, delivery) => delivery.is_some_and(|row| row.status == DeliveryStatus::Pending),
                };
                match state.faults {
                    0 if is_pending => state.valid_messages() == 1,
                    faults => state.valid_messages() <= 1 + 2 * usize::from(faults),
                }
            }),
            Property::always(ONLY_LOST_PUT_BACK, |_, state: &State| {
                state.seen.put_back == 0 || state.faults > 0
            }),
            // A check that cannot get anywhere would hold too.
            Property::sometimes(
                "a delivery succeeds at its last attempt",
                |protocol: &Self, state: &State| {
                    is(state, DeliveryStatus::Success) && state.seen.records.len() == protocol.attempts()
                },
            ),
            Property::sometimes("a delivery fails", |_, state: &State| is(state, DeliveryStatus::Failed)),
        ];
        if self.long_delays {
            properties.push(Property::always(DUPLICATES_END, |_, state: &State| {
                duplicates(&state.seen) <= 2 * usize::from(state.faults)
            }));
        }
        if self.only_loses_confirms() {
            properties.push(Property::always(COPIES_WAIT, |_, state: &State| duplicates(&state.seen) == 0));
        }
        if self.start != Start::Job {
            properties.push(Property::sometimes(
                "the first attempt is made while the event's message is held",
                |_, state: &State| state.dispatchers.iter().any(Dispatcher::is_sending_for_event),
            ));
        }
        if self.stand_ins {
            properties.push(Property::sometimes(
                "the event's message is let go while the request is on the wire",
                |_, state: &State| {
                    state.dispatchers.iter().any(|one| one.fan_out.is_none() && one.is_stood_in())
                },
            ));
        }
        if self.parks > 0 {
            properties.push(Property::sometimes("a parked delivery succeeds", |_, state: &State| {
                is(state, DeliveryStatus::Success) && state.parked > 0
            }));
        }
        if self.faults.at_most > 0 && !self.only_loses_confirms() {
            properties.extend(self.known_limits());
        }
        if self.faults.at_most > 0 && self.reconciles && !self.only_loses_confirms() {
            properties
                .push(Property::sometimes("what was lost and put back succeeds", |_, state: &State| {
                    is(state, DeliveryStatus::Success) && state.seen.put_back > 0
                }));
        }
        properties
    }

    /// What the protocol does not promise, and the checker shows to be possible.
    fn known_limits(&self) -> Vec<Property<Self>> {
        let mut limits = vec![Property::sometimes("a fault makes a duplicate", |_, state: &State| {
            state.faults == 1 && duplicates(&state.seen) > 0
        })];
        if self.reconciles && self.faults.kinds.contains(&FaultKind::Crash) {
            limits.push(Property::sometimes("a fault makes two duplicates", |_, state: &State| {
                state.faults == 1 && state.seen.posts.contains(&3)
            }));
        }
        if self.attempts() > 1 && !self.long_delays {
            limits.push(Property::sometimes("a duplicate has a successor", |_, state: &State| {
                state.faults == 1 && state.seen.posts.iter().filter(|posts| **posts > 1).count() > 1
            }));
        }
        limits
    }

    fn has_true_history(&self, state: &State) -> bool {
        let Some(delivery) = state.delivery else { return state.seen.records.is_empty() };
        let records = &state.seen.records;
        let in_order = records.iter().zip(1..).all(|((number, _), expected)| number.get() == expected);
        let succeeded = records.iter().any(|(_, verdict)| *verdict == Verdict::Delivered);
        let status = match records.last() {
            Some((_, Verdict::Delivered)) => DeliveryStatus::Success,
            _ if state.seen.abandoned || records.len() >= self.attempts() => DeliveryStatus::Failed,
            _ => DeliveryStatus::Pending,
        };
        in_order
            && records.len() <= self.attempts()
            && delivery.attempts as usize == records.len()
            && delivery.status == status
            && succeeded == (status == DeliveryStatus::Success)
    }

    /// Delays are long, and nothing else goes wrong.
    fn only_loses_confirms(&self) -> bool {
        self.long_delays && self.faults.kinds == [FaultKind::LostConfirm]
    }

    /// Attempts of the schedule.
    fn attempts(&self) -> usize {
        self.schedule.delays().len() + 1
    }
}

fn is(state: &State, status: DeliveryStatus) -> bool {
    state.delivery.is_some_and(|delivery| delivery.status == status)
}

fn duplicates(seen: &Seen) -> usize {
    seen.posts.iter().map(|posts| usize::from(posts.saturating_sub(1))).sum()
}

//! The reconciler: what has lost its message is put back, and what merely waits is left alone.
//!
//! A row says when its message is due (`queued_at`, `next_attempt_at`). Being late is not being lost, so a *probe* is put
//! into the queue, behind everything, once the row is late. When the probe has come out, what was before it has come out
//! too; and when everyone who had a message in hand then has had the time to finish, the row would say something else by
//! now. It does not: its message is lost.
//!
//! Time is not counted here. Where the protocol waits longer than anyone needs for what he has in hand, the model waits
//! until nobody has; and a process that is slower than that is a fault ([`FaultKind::Slow`]).

use domain::protocol::{DeliveryStatus, Ticket};

use crate::broker::Message;
use crate::dispatcher::Dispatcher;
use crate::fan_out::Note;
use crate::ingest;
use crate::state::{Delivery, State};
use crate::{FaultKind, Mistake, Protocol};

/// How much is known about a queue, in view of the time at which the row was last due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Progress {
    /// Nothing: no probe was put in since.
    #[default]
    Unknown,
    /// A probe is on its way through the queue.
    Probed,
    /// It has come out: nothing is left in the queue that was put in when the row was due.
    Passed,
    /// And whoever had taken a message by then has finished.
    Settled,
}

/// One of the two queues that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Watched {
    /// `webhooks.fanout`, for events that are not fanned out.
    FanOut,
    /// `webhooks.deliver`, for pending deliveries.
    Deliver,
}

/// How far the reconciler has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    /// Nothing in hand.
    #[default]
    Idle,
    /// An event's fan-out message has to be published.
    Requeueing,
    /// A job was issued anew and has to be published.
    Reissued(Ticket),
}

/// What happens about probes, and what the reconciler does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Something is late: a probe is put in.
    Probe(Watched),
    /// A consumer takes the probe and notes it.
    Pass(Watched),
    /// Time passes, and nobody is at work on what was taken before the probe.
    Settle(Watched),
    /// What is lost is looked for in the rows, and marked as on its way anew.
    PutBack(Watched),
    /// It is published.
    Publish,
}

impl Phase {
    /// The job that is about to be published.
    pub(crate) fn owes(self) -> Option<Ticket> {
        match self {
            Self::Reissued(ticket) => Some(ticket),
            Self::Idle | Self::Requeueing => None,
        }
    }
}

impl Protocol {
    pub(crate) fn reconcile_steps(&self, state: &State, steps: &mut Vec<Step>) {
        if !self.reconciles {
            return;
        }
        if state.reconciler != Phase::Idle {
            return steps.push(Step::Publish);
        }
        for watched in [Watched::FanOut, Watched::Deliver] {
            if !awaits(state, watched) {
                continue;
            }
            match progress(state, watched) {
                Progress::Unknown
                    if self.makes(Mistake::ProbesTooSoon)
                        || self.allows_time(state, is_late(state, watched)) =>
                {
                    steps.push(Step::Probe(watched));
                }
                Progress::Probed if has_probe_at_head(state, watched) => steps.push(Step::Pass(watched)),
                Progress::Passed if self.allows_time(state, has_settled(state, watched)) => {
                    steps.push(Step::Settle(watched));
                }
                _ => {}
            }
            if self.is_lost(state, watched) {
                steps.push(Step::PutBack(watched));
            }
        }
    }

    pub(crate) fn reconcile(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Probe(watched) => {
                let somebody_is_slow = !is_late(state, watched) && !self.makes(Mistake::ProbesTooSoon);
                state.faults += u8::from(somebody_is_slow);
                match watched {
                    Watched::FanOut => state.fan_out.put_probe(),
                    Watched::Deliver => state.deliver.put_probe(),
                }
                *progress_mut(state, watched) = Progress::Probed;
            }
            Step::Pass(watched) => {
                match watched {
                    Watched::FanOut => state.fan_out.remove_probe(),
                    Watched::Deliver => state.deliver.remove_probe(),
                }
                *progress_mut(state, watched) = Progress::Passed;
            }
            Step::Settle(watched) => {
                state.faults += u8::from(!has_settled(state, watched));
                *progress_mut(state, watched) = Progress::Settled;
            }
            Step::PutBack(Watched::FanOut) => {
                state.fan_out.remove_probe();
                state.fan_out_progress = Progress::Unknown;
                state.reconciler = Phase::Requeueing;
                state.seen.put_back += 1;
            }
            Step::PutBack(Watched::Deliver) => {
                state.reconciler = Phase::Reissued(self.reissue_overdue(state)?);
                state.seen.put_back += 1;
            }
            Step::Publish => match std::mem::take(&mut state.reconciler) {
                // Somebody may have had it before.
                Phase::Requeueing => state.fan_out.enter(Message::fresh(Note::None).come_back()),
                Phase::Reissued(ticket) => state.deliver.publish(ticket),
                Phase::Idle => return None,
            },
        }
        Some(())
    }

    fn is_lost(&self, state: &State, watched: Watched) -> bool {
        if self.makes(Mistake::NoQueueGuard) {
            return is_late(state, watched);
        }
        match progress(state, watched) {
            Progress::Settled => true,
            Progress::Passed => self.makes(Mistake::NoGrace),
            Progress::Unknown | Progress::Probed => false,
        }
    }

    /// The time passes that everyone needs for what he has in hand, or somebody is slower than that.
    fn allows_time(&self, state: &State, has_passed: bool) -> bool {
        has_passed || self.allows(state, FaultKind::Slow)
    }
}

/// A row says that a message should be on its way.
fn awaits(state: &State, watched: Watched) -> bool {
    match watched {
        Watched::FanOut => state.event.is_some_and(|event| !event.fanned_out),
        Watched::Deliver => state.delivery.is_some_and(|delivery| delivery.status == DeliveryStatus::Pending),
    }
}

/// The message should have been in its queue for some time: whoever made the row say so has published it, or died, and
/// its delay is over.
fn is_late(state: &State, watched: Watched) -> bool {
    match watched {
        Watched::FanOut => {
            let owes = |phase| matches!(phase, ingest::Phase::Publishing { .. });
            !state.ingesters.iter().flatten().any(|job| owes(job.phase))
        }
        Watched::Deliver => {
            let is_owed = state.dispatchers.iter().any(Dispatcher::owes);
            let is_delayed =
                |delivery: Delivery| state.delayed.iter().any(|job| delivery.is_awaiting(job.message.body));
            !is_owed && !state.delivery.is_some_and(is_delayed)
        }
    }
}

/// Nobody has a message in hand.
fn has_settled(state: &State, watched: Watched) -> bool {
    match watched {
        Watched::FanOut => state.dispatchers.iter().all(|dispatcher| dispatcher.fan_out.is_none()),
        Watched::Deliver => !state.is_delivering(),
    }
}

fn has_probe_at_head(state: &State, watched: Watched) -> bool {
    match watched {
        Watched::FanOut => state.fan_out.has_probe_at_head(),
        Watched::Deliver => state.deliver.has_probe_at_head(),
    }
}

fn progress(state: &State, watched: Watched) -> Progress {
    match watched {
        Watched::FanOut => state.fan_out_progress,
        Watched::Deliver => state.deliver_progress,
    }
}

fn progress_mut(state: &mut State, watched: Watched) -> &mut Progress {
    match watched {
        Watched::FanOut => &mut state.fan_out_progress,
        Watched::Deliver => &mut state.deliver_progress,
    }
}

//! What goes wrong, at any instant, as often as a check allows.

use crate::state::State;
use crate::work::{Answer, Hold, Who};
use crate::{Protocol, reconcile};

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// A process is killed. Another takes its place.
    Crash,
    /// A consumer loses its channel while it works: what it holds is given to another as well.
    LostChannel,
    /// A statement is committed, and its answer lost.
    LostAnswer,
    /// A publish is taken by the broker, and its confirm lost.
    LostConfirm,
    /// A process takes longer than the protocol thinks anyone can.
    Slow,
    /// The broker starts with an empty data folder. Once at most, and only once the event is stored: until then it is the
    /// broker alone that has it.
    Wipe,
}

impl FaultKind {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::Crash, Self::LostChannel, Self::LostAnswer, Self::LostConfirm, Self::Slow, Self::Wipe];
}

/// The faults that a check allows: of these kinds, so many together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// How many.
    pub at_most: u8,
    /// Which.
    pub kinds: &'static [FaultKind],
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self { at_most: 0, kinds: &[] };
}

/// A process that holds messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Process {
    /// A replica of event-ingest.
    Ingest(Who),
    /// A dispatcher's fan-out.
    FanOut(Who),
    /// A dispatcher's delivering.
    Deliver(Who),
}

/// A fault that is no part of another step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The process is killed.
    Crash(Process),
    /// The process loses its channel and works on.
    LoseChannel(Process),
    /// The reconciler's process is killed.
    CrashReconciler,
    /// The broker loses everything.
    Wipe,
}

impl Protocol {
    /// Whether one more fault of this kind may happen.
    pub(crate) fn allows(&self, state: &State, kind: FaultKind) -> bool {
        state.faults < self.faults.at_most && self.faults.kinds.contains(&kind)
    }

    /// How a statement may go.
    pub(crate) fn answers(&self, state: &State) -> impl Iterator<Item = Answer> + use<> {
        received_or_lost(self.allows(state, FaultKind::LostAnswer))
    }

    /// How a publish may go.
    pub(crate) fn confirms(&self, state: &State) -> impl Iterator<Item = Answer> + use<> {
        received_or_lost(self.allows(state, FaultKind::LostConfirm))
    }

    pub(crate) fn possible_faults(&self, state: &State, faults: &mut Vec<Fault>) {
        let mut of_process = |process, is_busy: bool, holds: bool| {
            if is_busy && self.allows(state, FaultKind::Crash) {
                faults.push(Fault::Crash(process));
            }
            if holds && self.allows(state, FaultKind::LostChannel) {
                faults.push(Fault::LoseChannel(process));
            }
        };
        for who in 0..2 {
            let hold = state.ingesters[who].as_ref().map(|job| job.hold);
            of_process(Process::Ingest(who), hold.is_some(), hold == Some(Hold::Unacked));
            let hold = state.fanners[who].as_ref().map(|job| job.hold);
            of_process(Process::FanOut(who), hold.is_some(), hold == Some(Hold::Unacked));
            let dispatcher = &state.dispatchers[who];
            of_process(Process::Deliver(who), dispatcher.work.is_some(), dispatcher.holds_any());
        }
        if state.reconciler != reconcile::Phase::Idle && self.allows(state, FaultKind::Crash) {
            faults.push(Fault::CrashReconciler);
        }
        if !state.wiped && state.event.is_some() && !state.has_ended() && self.allows(state, FaultKind::Wipe)
        {
            faults.push(Fault::Wipe);
        }
    }
}

/// What a fault does to everything.
pub(crate) fn suffer(state: &mut State, fault: Fault) -> Option<()> {
    state.faults += 1;
    match fault {
        Fault::Crash(Process::Ingest(who)) => state.ingesters[who].take()?.crash(&mut state.ingest),
        Fault::Crash(Process::FanOut(who)) => state.fanners[who].take()?.crash(&mut state.fan_out),
        Fault::Crash(Process::Deliver(who)) => state.dispatchers[who].crash(&mut state.deliver),
        Fault::LoseChannel(Process::Ingest(who)) => {
            state.ingesters[who].as_mut()?.lose_channel(&mut state.ingest);
        }
        Fault::LoseChannel(Process::FanOut(who)) => {
            state.fanners[who].as_mut()?.lose_channel(&mut state.fan_out);
        }
        Fault::LoseChannel(Process::Deliver(who)) => {
            state.dispatchers[who].lose_channel(&mut state.deliver);
        }
        Fault::CrashReconciler => state.reconciler = reconcile::Phase::Idle,
        Fault::Wipe => wipe(state),
    }
    Some(())
}

/// Every queue is empty, and every channel is gone. What is in hand is worked on, and comes back to nobody.
fn wipe(state: &mut State) {
    state.wiped = true;
    state.ingest.wipe();
    state.fan_out.wipe();
    state.deliver.wipe();
    state.delayed.clear();
    for job in state.ingesters.iter_mut().flatten() {
        job.hold = Hold::Over;
    }
    for job in state.fanners.iter_mut().flatten() {
        job.hold = Hold::Over;
    }
    for dispatcher in &mut state.dispatchers {
        dispatcher.work.iter_mut().for_each(|job| job.hold = Hold::Over);
        dispatcher.waiting.iter_mut().for_each(|(_, hold)| *hold = Hold::Over);
    }
    for progress in [&mut state.fan_out_progress, &mut state.deliver_progress] {
        if *progress == reconcile::Progress::Probed {
            *progress = reconcile::Progress::Unknown;
        }
    }
}

fn received_or_lost(may_be_lost: bool) -> impl Iterator<Item = Answer> {
    std::iter::once(Answer::Received).chain(may_be_lost.then_some(Answer::Lost))
}

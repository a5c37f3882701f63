//! What goes wrong, at any instant, as often as a check allows.

use crate::dispatcher::Dispatcher;
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
    /// A dispatcher, with both its stages.
    Dispatcher(Who),
}

/// A channel on which messages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Of a replica of event-ingest.
    Ingest(Who),
    /// Of a dispatcher's fan-out.
    FanOut(Who),
    /// Of a dispatcher's delivering.
    Deliver(Who),
}

/// A fault that is no part of another step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The process is killed.
    Crash(Process),
    /// A process loses this channel and works on.
    LoseChannel(Channel),
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
        let mut crash = |process, is_busy: bool| {
            if is_busy && self.allows(state, FaultKind::Crash) {
                faults.push(Fault::Crash(process));
            }
        };
        for who in 0..2 {
            crash(Process::Ingest(who), state.ingesters[who].is_some());
            crash(Process::Dispatcher(who), !state.dispatchers[who].is_idle());
        }
        let mut lose_channel = |channel, holds: bool| {
            if holds && self.allows(state, FaultKind::LostChannel) {
                faults.push(Fault::LoseChannel(channel));
            }
        };
        for who in 0..2 {
            let ingester = state.ingesters[who].as_ref();
            let dispatcher = &state.dispatchers[who];
            lose_channel(Channel::Ingest(who), ingester.is_some_and(|job| job.hold == Hold::Unacked));
            lose_channel(Channel::FanOut(who), dispatcher.holds_event());
            lose_channel(Channel::Deliver(who), dispatcher.holds_jobs());
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
        Fault::Crash(Process::Dispatcher(who)) => {
            state.dispatchers[who].crash(&mut state.fan_out, &mut state.deliver);
        }
        Fault::LoseChannel(Channel::Ingest(who)) => {
            state.ingesters[who].as_mut()?.lose_channel(&mut state.ingest);
        }
        Fault::LoseChannel(Channel::FanOut(who)) => {
            state.dispatchers[who].fan_out.as_mut()?.lose_channel(&mut state.fan_out);
        }
        Fault::LoseChannel(Channel::Deliver(who)) => {
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
    state.waiting_copies.clear();
    state.deliver.wipe();
    state.delayed.clear();
    for job in state.ingesters.iter_mut().flatten() {
        job.hold = Hold::Over;
    }
    state.dispatchers.iter_mut().for_each(Dispatcher::is_forgotten);
    for progress in [&mut state.fan_out_progress, &mut state.deliver_progress] {
        if *progress == reconcile::Progress::Probed {
            *progress = reconcile::Progress::Unknown;
        }
    }
}

fn received_or_lost(may_be_lost: bool) -> impl Iterator<Item = Answer> {
    std::iter::once(Answer::Received).chain(may_be_lost.then_some(Answer::Lost))
}

#![doc = include_str!("../README.md")]

pub mod broker;
pub mod deliver;
pub mod dispatcher;
pub mod fan_out;
pub mod faults;
pub mod ingest;
mod mistakes;
mod paths;
pub mod properties;
pub mod reconcile;
mod rows;
pub mod state;
pub mod work;

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::time::Duration;

use domain::protocol::{Fence, Ticket};
use domain::retry::{AttemptNumber, Schedule};
use stateright::{Model, Property};

use crate::fan_out::Note;
use crate::faults::suffer;
pub use crate::faults::{Fault, FaultKind, Faults};
pub use crate::mistakes::Mistake;
pub use crate::paths::every_path_ends;
use crate::state::{State, Why};
use crate::work::{Answer, Who};

/// The protocol, and how much of the world a check looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// Where a check begins.
    pub start: Start,
    /// When attempts are made.
    pub schedule: Schedule,
    /// What may go wrong.
    pub faults: Faults,
    /// Whether there is a reconciler.
    pub reconciles: bool,
    /// How often an attempt may be parked: its turn does not come, or it cannot be made, for no fault of the receiver.
    pub parks: u8,
    /// Whether a request may take so long that a job is made to stand for it.
    pub stand_ins: bool,
    /// How often the webhook may be disabled or enabled.
    pub switches: u8,
    /// Whether the delays are longer than anyone needs for what he has in hand, as they are by default: a job comes out
    /// of its delay queue only when nobody has another in hand, and where it was put off for another only when that one has
    /// been in hand; or somebody is slow.
    pub long_delays: bool,
    /// A rule left out.
    pub mistake: Option<Mistake>,
}

/// Where a check begins. Two faults on the whole way are more than can be looked at in seconds; on its halves they are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The publisher is about to publish.
    Event,
    /// The event is stored, its message in the fan-out queue.
    FanOut,
    /// The event is fanned out, the delivery's first job in its queue.
    Job,
}

/// One step of one process, or one fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The publisher publishes its event, again and again until the broker confirms it.
    Publish(Answer),
    /// A replica of event-ingest.
    Ingest(Who, ingest::Step),
    /// A dispatcher's fan-out.
    FanOut(Who, fan_out::Step),
    /// A delay queue gives a job back.
    Expire(usize),
    /// And a copy of the event's message.
    ExpireCopy(usize),
    /// A dispatcher's delivering.
    Deliver(Who, deliver::Step),
    /// The reconciler, and its probes.
    Reconcile(reconcile::Step),
    /// The webhook is disabled, or enabled again.
    Switch,
    /// Something goes wrong.
    Fault(Fault),
}

impl Protocol {
    /// As it is, with `attempts` attempts at most.
    pub fn with_attempts(attempts: usize) -> Self {
        let delays = vec![Duration::from_secs(60); attempts.saturating_sub(1)];
        let schedule = Schedule::new(delays);
        let start = Start::Event;
        Self {
            start,
            schedule,
            faults: Faults::NONE,
            reconciles: true,
            parks: 0,
            stand_ins: false,
            switches: 0,
            long_delays: false,
            mistake: None,
        }
    }

    /// From the fan-out message on.
    #[must_use]
    pub fn from_fan_out(self) -> Self {
        Self { start: Start::FanOut, ..self }
    }

    /// From the first job on.
    #[must_use]
    pub fn from_job(self) -> Self {
        Self { start: Start::Job, ..self }
    }

    /// With these faults.
    #[must_use]
    pub fn with_faults(self, at_most: u8, kinds: &'static [FaultKind]) -> Self {
        Self { faults: Faults { at_most, kinds }, ..self }
    }

    /// With attempts that have to wait for their turn, or cannot be made, so often.
    #[must_use]
    pub fn with_parks(self, parks: u8) -> Self {
        Self { parks, ..self }
    }

    /// With requests that take long.
    #[must_use]
    pub fn with_stand_ins(self) -> Self {
        Self { stand_ins: true, ..self }
    }

    /// With a webhook that is disabled and enabled, so often together.
    #[must_use]
    pub fn with_switches(self, switches: u8) -> Self {
        Self { switches, ..self }
    }

    /// With delays that are longer than anyone needs.
    #[must_use]
    pub fn with_long_delays(self) -> Self {
        Self { long_delays: true, ..self }
    }

    /// Without the reconciler.
    #[must_use]
    pub fn without_reconciler(self) -> Self {
        Self { reconciles: false, ..self }
    }

    /// With a rule left out.
    #[must_use]
    pub fn with_mistake(self, mistake: Mistake) -> Self {
        Self { mistake: Some(mistake), ..self }
    }

    fn allows_to_expire(&self, state: &State, which: usize) -> bool {
        !self.is_too_early(state, which) || self.allows(state, FaultKind::Slow)
    }

    /// A job comes out of its delay queue while someone has in hand what its delay is made for. A stand-in's is always
    /// longer than the request it stands for.
    fn is_too_early(&self, state: &State, which: usize) -> bool {
        let is_stand_in = state.delayed[which].why == Why::StandIn && !self.makes(Mistake::ShortStandIn);
        self.long_delays && !state.outlasts(which) || is_stand_in && state.makes_first_attempt()
    }

    /// A copy of the event's message comes out of its delay queue while another has one in hand.
    fn is_too_early_for_copies(&self, state: &State) -> bool {
        self.long_delays && !state.outlasts_event()
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State::default();
        if self.start != Start::Event {
            state.accepted = true;
            self.insert_event(&mut state);
        }
        match self.start {
            Start::Event => {}
            Start::FanOut => state.fan_out.publish(Note::None),
            Start::Job => {
                state.insert_delivery();
                state.deliver.publish(Ticket { attempt: AttemptNumber::FIRST, fence: Fence::FIRST });
            }
        }
        vec![state.normalised()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.accepted {
            actions.extend(self.confirms(state).map(Action::Publish));
        }
        for who in 0..2 {
            let mut steps = Vec::new();
            self.ingest_steps(state, who, &mut steps);
            actions.extend(steps.into_iter().map(|step| Action::Ingest(who, step)));
            let mut steps = Vec::new();
            self.fan_out_steps(state, who, &mut steps);
            actions.extend(steps.into_iter().map(|step| Action::FanOut(who, step)));
            let mut steps = Vec::new();
            self.deliver_steps(state, who, &mut steps);
            actions.extend(steps.into_iter().map(|step| Action::Deliver(who, step)));
        }
        let expiring = (0..state.delayed.len()).filter(|which| self.allows_to_expire(state, *which));
        actions.extend(expiring.map(Action::Expire));
        if !self.is_too_early_for_copies(state) || self.allows(state, FaultKind::Slow) {
            actions.extend((0..state.waiting_copies.len()).map(Action::ExpireCopy));
        }
        let mut steps = Vec::new();
        self.reconcile_steps(state, &mut steps);
        actions.extend(steps.into_iter().map(Action::Reconcile));
        if state.switched < self.switches {
            actions.push(Action::Switch);
        }
        let mut faults = Vec::new();
        self.possible_faults(state, &mut faults);
        actions.extend(faults.into_iter().map(Action::Fault));
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Publish(answer) => {
                state.ingest.publish(());
                state.accepted = answer == Answer::Received;
                state.faults += u8::from(answer == Answer::Lost);
            }
            Action::Ingest(who, step) => self.ingest(&mut state, who, step)?,
            Action::FanOut(who, step) => self.fan_out(&mut state, who, step)?,
            Action::Expire(which) => {
                state.faults += u8::from(self.is_too_early(&state, which));
                let message = state.delayed.remove(which).message;
                state.deliver.enter(message);
            }
            Action::ExpireCopy(which) => {
                state.faults += u8::from(self.is_too_early_for_copies(&state));
                let message = state.waiting_copies.remove(which);
                state.fan_out.enter(message);
            }
            Action::Deliver(who, step) => self.deliver(&mut state, who, step)?,
            Action::Reconcile(step) => self.reconcile(&mut state, step)?,
            Action::Switch => state.switched += 1,
            Action::Fault(fault) => suffer(&mut state, fault)?,
        }
        Some(state.normalised())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        self.all_properties()
    }
}

/// Two that differ have the same one hardly ever.
fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

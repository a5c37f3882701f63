//! The third stage, a dispatcher's delivering: **look, send, record, hand over, acknowledge**.

use domain::protocol::{Decision, Fence, Taken, Ticket, decide};
use domain::retry::{AttemptNumber, NextStep, Verdict, next_step};

use crate::broker::{Message, Queue};
use crate::state::{Delayed, State, Wrong};
use crate::work::{Answer, Hold, Job, Who};
use crate::{Mistake, Protocol};

/// A dispatcher's jobs of this delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Dispatcher {
    /// The job that holds the claim to the delivery.
    pub work: Option<Job<Ticket, Phase>>,
    /// Jobs that wait for the claim (`dispatcher::claims`): copies, and what came back from a channel that was lost.
    pub waiting: Vec<(Message<Ticket>, Hold)>,
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waits for its webhook's turn.
    Waiting,
    /// Only by mistake: decided, and waits for its turn.
    Decided(Decision),
    /// The request is on the wire, or answered and the attempt to be recorded.
    OnTheWire {
        /// The attempt.
        number: AttemptNumber,
        /// What the receiver answers.
        verdict: Verdict,
        /// Only by mistake: what follows is handed over already.
        handed_over: bool,
    },
    /// The attempt was recorded already, by another or by an earlier try.
    Beaten {
        /// The attempt.
        number: AttemptNumber,
    },
    /// An attempt is recorded, and nobody knows whether what follows was handed over.
    Reissuing {
        /// That attempt.
        recorded: AttemptNumber,
        /// The row's fence as it was seen.
        seen: Fence,
        /// An earlier try may have been committed and its answer lost.
        tried: bool,
    },
    /// The webhook takes no events: the delivery is to be ended.
    Abandoning,
    /// A job has to be published.
    HandingOver {
        /// The job.
        ticket: Ticket,
        /// Where to.
        way: Way,
        /// It follows from the attempt of the job in hand.
        follows: bool,
        /// An earlier try may have been taken and its confirm lost.
        tried: bool,
    },
    /// All is durable.
    Done {
        /// What follows from the attempt of the job in hand was handed over: copies that wait have nothing left to do.
        handed_over: bool,
    },
}

/// Where a job is published to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// To the deliver queue.
    Now,
    /// To a retry queue.
    Delayed,
    /// To the park queue, with whether it came back.
    Parked(Taken),
}

/// What the delivering stage does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Takes a message. A process works on one job of a delivery at a time; others wait.
    Take,
    /// The turn is long in coming: notes when the job comes back, and gives it up for now.
    Defer,
    /// It is this job's turn: reads the row and begins what it says. If that is a request, it will be answered so.
    Look(Verdict),
    /// Only by mistake: reads the row before its turn.
    LookTooEarly,
    /// Records the attempt.
    Record(Answer),
    /// Reads the row again, having been beaten to the record.
    LookAgain,
    /// Issues the job that follows anew.
    Reissue(Answer),
    /// Ends the delivery.
    Abandon,
    /// Publishes a job.
    HandOver(Answer),
    /// Acknowledges the message, and frees the claim.
    Ack,
}

impl Dispatcher {
    /// The jobs in hand: what they ask for, or what is to be published in their stead.
    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        let of_work = self.work.as_ref().and_then(|job| match job.phase {
            Phase::HandingOver { ticket, .. } => Some(ticket),
            Phase::Done { .. } => None,
            _ => Some(job.message.body),
        });
        of_work.into_iter().chain(self.waiting.iter().map(|(message, _)| message.body))
    }

    /// A job was committed that is not published yet.
    pub(crate) fn owes(&self) -> bool {
        self.work.as_ref().is_some_and(|job| matches!(job.phase, Phase::HandingOver { .. }))
    }

    /// The process dies; another takes its place.
    pub(crate) fn crash(&mut self, queue: &mut Queue<Ticket>) {
        let Self { work, waiting } = std::mem::take(self);
        for (message, hold) in waiting.into_iter().rev() {
            if hold == Hold::Unacked {
                queue.requeue(message);
            }
        }
        if let Some(job) = work {
            job.crash(queue);
        }
    }

    /// The channel is lost; the jobs go on.
    pub(crate) fn lose_channel(&mut self, queue: &mut Queue<Ticket>) {
        for (message, hold) in self.waiting.iter_mut().rev() {
            if *hold == Hold::Unacked {
                queue.requeue(message.clone());
                *hold = Hold::Over;
            }
        }
        if let Some(job) = &mut self.work {
            job.lose_channel(queue);
        }
    }

    /// Whether a lost channel would matter.
    pub(crate) fn holds_any(&self) -> bool {
        let work = self.work.as_ref().map(|job| job.hold);
        work.into_iter().chain(self.waiting.iter().map(|(_, hold)| *hold)).any(|hold| hold == Hold::Unacked)
    }

    /// The job in hand is done with. The next one that waits has its go, unless what it asks for was handed over just now
    /// (`Claims::claim`).
    fn free_claim(&mut self, attempt: AttemptNumber, handed_over: bool) {
        self.waiting.retain(|(message, _)| !(handed_over && message.body.attempt <= attempt));
        if !self.waiting.is_empty() {
            let (message, hold) = self.waiting.remove(0);
            self.work = Some(Job { message, hold, phase: Phase::Waiting });
        }
    }
}

impl Protocol {
    pub(crate) fn deliver_steps(&self, state: &State, who: Who, steps: &mut Vec<Step>) {
        let dispatcher = &state.dispatchers[who];
        if state.deliver.has_message_at_head() {
            steps.push(Step::Take);
        }
        let Some(job) = &dispatcher.work else { return };
        match job.phase {
            // The other may be on the wire of another dispatcher.
            Phase::Waiting if self.must_wait(&job.message) => steps.push(Step::Defer),
            Phase::Waiting if self.makes(Mistake::ChecksBeforeTheTurn) => steps.push(Step::LookTooEarly),
            Phase::Waiting => {
                if state.parked < self.parks {
                    steps.push(Step::Defer);
                }
                looks(self.decide(state, &job.message), steps);
            }
            Phase::Decided(decision) => looks(decision, steps),
            Phase::OnTheWire { number, verdict, handed_over } => {
                let follows = matches!(self.next_step(number, verdict), NextStep::Retry { .. });
                if self.makes(Mistake::HandOverBeforeRecord) && follows && !handed_over {
                    steps.extend(self.confirms(state).map(Step::HandOver));
                } else {
                    steps.extend(self.answers(state).map(Step::Record));
                }
            }
            Phase::Beaten { .. } => steps.push(Step::LookAgain),
            Phase::Reissuing { .. } => steps.extend(self.answers(state).map(Step::Reissue)),
            Phase::Abandoning => steps.push(Step::Abandon),
            Phase::HandingOver { .. } => steps.extend(self.confirms(state).map(Step::HandOver)),
            Phase::Done { .. } => steps.push(Step::Ack),
        }
    }

    pub(crate) fn deliver(&self, state: &mut State, who: Who, step: Step) -> Option<()> {
        if step == Step::Take {
            let message = state.deliver.take()?;
            let hold = self.hold_when_taken();
            let dispatcher = &mut state.dispatchers[who];
            if dispatcher.work.is_some() {
                dispatcher.waiting.push((message, hold));
            } else {
                dispatcher.work = Some(Job { message, hold, phase: Phase::Waiting });
            }
            return Some(());
        }
        let mut job = state.dispatchers[who].work.take()?;
        let ticket = job.message.body;
        job.phase = match (step, job.phase) {
            (Step::Defer, _) => {
                state.parked += u8::from(!self.must_wait(&job.message));
                // Parked, it is a fresh message: that it came back goes along. One that cannot be put off may be half done.
                match self.taken(job.message.taken) {
                    taken if state.defer(ticket) => hand_over(ticket, Way::Parked(taken), false),
                    Taken::First => Phase::Done { handed_over: false },
                    Taken::Again => Phase::Beaten { number: ticket.attempt },
                }
            }
            (Step::LookTooEarly, _) => Phase::Decided(self.decide(state, &job.message)),
            (Step::Look(verdict), Phase::Decided(decision)) => begin(state, ticket, decision, verdict),
            (Step::Look(verdict), _) => {
                let decision = self.decide(state, &job.message);
                begin(state, ticket, decision, verdict)
            }
            (Step::Record(answer), Phase::OnTheWire { number, verdict, handed_over }) => {
                let next = self.next_step(number, verdict);
                let recorded = self.record(state, number, verdict, next);
                match (answer, recorded, next) {
                    (Answer::Lost, ..) => {
                        state.faults += 1;
                        job.phase
                    }
                    (_, None, _) => Phase::Beaten { number },
                    (_, Some(fence), NextStep::Retry { attempt, .. }) if !handed_over => {
                        let fence = if self.makes(Mistake::KeepsJobsFence) { ticket.fence } else { fence };
                        let ticket = Ticket { attempt, fence };
                        hand_over(ticket, Way::Delayed, true)
                    }
                    _ => Phase::Done { handed_over: false },
                }
            }
            (Step::LookAgain, Phase::Beaten { number }) => self.after_another(state, number, ticket),
            (Step::Reissue(answer), Phase::Reissuing { recorded, seen, tried }) => {
                let reissued = self.reissue_recorded(state, recorded, seen, tried);
                match (answer, reissued) {
                    (Answer::Lost, _) => {
                        state.faults += 1;
                        Phase::Reissuing { recorded, seen, tried: true }
                    }
                    (_, None) => Phase::Done { handed_over: false },
                    (_, Some(fence)) => {
                        let ticket = Ticket { attempt: recorded.next(), fence };
                        let delay = self.schedule.delay_after(recorded);
                        let way = if delay.is_some() { Way::Delayed } else { Way::Now };
                        hand_over(ticket, way, true)
                    }
                }
            }
            (Step::Abandon, Phase::Abandoning) => {
                state.abandon();
                Phase::Done { handed_over: false }
            }
            (Step::HandOver(answer), Phase::OnTheWire { number, verdict, .. }) => {
                let next = Ticket { attempt: number.next(), fence: ticket.fence };
                state.delayed.push(Delayed::retry(Message::fresh(next)));
                state.faults += u8::from(answer == Answer::Lost);
                Phase::OnTheWire { number, verdict, handed_over: answer == Answer::Received }
            }
            (Step::HandOver(answer), Phase::HandingOver { ticket, way, follows, tried }) => {
                let message = Message::fresh(ticket).after_tries(tried);
                match way {
                    Way::Now => state.deliver.enter(message),
                    Way::Delayed => state.delayed.push(Delayed::retry(message)),
                    Way::Parked(taken) => state.delayed.push(Delayed::parked(Message { taken, ..message })),
                }
                if answer == Answer::Lost {
                    state.faults += 1;
                    Phase::HandingOver { ticket, way, follows, tried: true }
                } else {
                    Phase::Done { handed_over: follows }
                }
            }
            (Step::Ack, Phase::Done { handed_over }) => {
                state.dispatchers[who].free_claim(ticket.attempt, handed_over);
                return Some(());
            }
            _ => return None,
        };
        if matches!(job.phase, Phase::HandingOver { .. }) {
            job.hold = self.hold_when_committed(job.hold);
        }
        state.dispatchers[who].work = Some(job);
        Some(())
    }

    /// A job that may be a copy is parked before it is looked at: by then the first is over.
    fn must_wait(&self, message: &Message<Ticket>) -> bool {
        message.may_be_copy && !self.makes(Mistake::CopiesDoNotWait)
    }

    fn decide(&self, state: &State, message: &Message<Ticket>) -> Decision {
        if self.makes(Mistake::NoCheck) {
            return Decision::Attempt { number: message.body.attempt, revision: 0 };
        }
        decide(message.body, self.taken(message.taken), state.row().as_ref())
    }

    /// Two had the job, or one twice, and this one came second: the first may be unable to go on, and this message may be
    /// the one that is left. So it is judged as one that came back.
    fn after_another(&self, state: &State, number: AttemptNumber, ticket: Ticket) -> Phase {
        let ticket = Ticket { attempt: number, ..ticket };
        match (decide(ticket, Taken::Again, state.row().as_ref()), state.delivery) {
            (Decision::HandOver { recorded }, Some(delivery)) if !self.makes(Mistake::LeavesItToAnother) => {
                Phase::Reissuing { recorded, seen: delivery.fence, tried: false }
            }
            _ => Phase::Done { handed_over: false },
        }
    }

    pub(crate) fn next_step(&self, number: AttemptNumber, verdict: Verdict) -> NextStep {
        next_step(number, verdict, &self.schedule)
    }
}

/// A job has to be published, for the first time.
fn hand_over(ticket: Ticket, way: Way, follows: bool) -> Phase {
    Phase::HandingOver { ticket, way, follows, tried: false }
}

/// Only where a request follows does it matter what the receiver answers.
fn looks(decision: Decision, steps: &mut Vec<Step>) {
    steps.push(Step::Look(Verdict::Delivered));
    if matches!(decision, Decision::Attempt { .. }) {
        steps.push(Step::Look(Verdict::NotDelivered));
    }
}

/// Does what was decided. The request begins with the look at the row: between the two there is nothing to wait for.
fn begin(state: &mut State, ticket: Ticket, decision: Decision, verdict: Verdict) -> Phase {
    match decision {
        Decision::Attempt { number, .. } => {
            let after_end = state.has_ended().then_some(Wrong::AfterEnd);
            let too_early = (number > ticket.attempt).then_some(Wrong::TooEarly);
            let while_disabled = (!state.is_enabled()).then_some(Wrong::WhileDisabled);
            state.seen.post(number, [after_end, too_early, while_disabled].into_iter().flatten());
            Phase::OnTheWire { number, verdict, handed_over: false }
        }
        Decision::HandOver { recorded } => {
            let seen = state.delivery.map_or(Fence::FIRST, |delivery| delivery.fence);
            Phase::Reissuing { recorded, seen, tried: false }
        }
        Decision::Abandon(_) => Phase::Abandoning,
        Decision::Nothing => Phase::Done { handed_over: false },
    }
}

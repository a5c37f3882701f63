//! The third stage, a dispatcher's delivering: **look, send, record, hand over, acknowledge**. Of a job, or of the first
//! attempt that is made while the fan-out stage holds the event's message.

use domain::protocol::{Decision, Fence, Taken, Ticket, decide};
use domain::retry::{AttemptNumber, NextStep, Verdict, next_step};

use crate::broker::Message;
use crate::state::{Delayed, State, Wrong};
use crate::work::{Answer, Hold, Job, Who};
use crate::{Mistake, Protocol};

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
        /// What comes of it.
        outcome: Outcome,
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
    /// The first attempt is given up for now, and the delivery may be written or not: its answer was lost.
    Writing {
        /// Where its job is to be published.
        way: Way,
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

/// What comes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The receiver answers, or does not.
    Sent(Verdict),
    /// It cannot be sent, for no fault of the receiver. That may take long to find out.
    NotSent,
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

/// A first attempt is parked as nobody had it before.
const PARKED: Way = Way::Parked(Taken::First);

/// What the delivering stage does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Takes a message. A process works on one job of a delivery at a time; others wait.
    Take,
    /// The turn is long in coming: notes when the job comes back, and gives it up for now.
    Defer,
    /// The first attempt does not get its turn, or cannot be made: writes the delivery that has no row yet, for a job to be
    /// published there.
    Write(Way, Answer),
    /// It is this job's turn: reads the row and begins what it says. If that is a request, this comes of it.
    Look(Outcome),
    /// Only by mistake: reads the row before its turn.
    LookTooEarly,
    /// Records the attempt.
    Record(Answer),
    /// Nothing was sent: notes when the job comes back, unless one stands for it already.
    PutOff,
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
                let may_park = state.parked < self.parks;
                match job.hold {
                    Hold::ForEvent => {
                        self.writes(state, Way::Now, steps);
                        if may_park {
                            self.writes(state, PARKED, steps);
                        }
                    }
                    _ if may_park => steps.push(Step::Defer),
                    _ => {}
                }
                self.looks(state, self.decide(state, job), steps);
            }
            Phase::Decided(decision) => self.looks(state, decision, steps),
            // Whether there is a stand-in is not known before its confirm is.
            Phase::OnTheWire { outcome: Outcome::NotSent, .. } if dispatcher.is_standing_in() => {}
            Phase::OnTheWire { outcome: Outcome::NotSent, .. } if job.hold == Hold::ForEvent => {
                self.writes(state, PARKED, steps);
            }
            Phase::OnTheWire { outcome: Outcome::NotSent, .. } => steps.push(Step::PutOff),
            Phase::Writing { way } => self.writes(state, way, steps),
            Phase::OnTheWire { number, outcome: Outcome::Sent(verdict), handed_over } => {
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
            state.dispatchers[who].claim(message, hold);
            return Some(());
        }
        let mut job = state.dispatchers[who].work.take()?;
        let ticket = job.message.body;
        job.phase = match (step, job.phase) {
            (Step::Defer, _) => {
                state.parked += u8::from(!self.must_wait(&job.message));
                self.park(state, &job)
            }
            (Step::PutOff, _) => {
                state.parked += 1;
                if job.hold == Hold::StoodIn && !self.makes(Mistake::ParksBesideStandIn) {
                    Phase::Done { handed_over: false }
                } else {
                    self.park(state, &job)
                }
            }
            (Step::Write(way, answer), before) => {
                let tried = matches!(before, Phase::Writing { .. });
                state.parked += u8::from(way == PARKED && !tried);
                // Of what an earlier try may have written nobody else is known to have the message.
                let is_ours = state.write_pending() || tried;
                match answer {
                    Answer::Lost => {
                        state.faults += 1;
                        Phase::Writing { way }
                    }
                    Answer::Received if is_ours => hand_over(ticket, way, false),
                    Answer::Received => Phase::Done { handed_over: false },
                }
            }
            (Step::LookTooEarly, _) => Phase::Decided(self.decide(state, &job)),
            (Step::Look(outcome), Phase::Decided(decision)) => begin(state, ticket, decision, outcome),
            (Step::Look(outcome), _) => {
                let decision = self.decide(state, &job);
                begin(state, ticket, decision, outcome)
            }
            (
                Step::Record(answer),
                Phase::OnTheWire { number, outcome: Outcome::Sent(verdict), handed_over },
            ) => {
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
            (Step::HandOver(answer), Phase::OnTheWire { number, outcome, .. }) => {
                let next = Ticket { attempt: number.next(), fence: ticket.fence };
                state.delayed.push(Delayed::retry(Message::fresh(next)));
                state.faults += u8::from(answer == Answer::Lost);
                Phase::OnTheWire { number, outcome, handed_over: answer == Answer::Received }
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
                let dispatcher = &mut state.dispatchers[who];
                dispatcher.settle(job.hold);
                dispatcher.free_claim(ticket.attempt, handed_over);
                return Some(());
            }
            _ => return None,
        };
        if matches!(job.phase, Phase::HandingOver { .. }) && self.makes(Mistake::PublishAfterAck) {
            job.hold = state.dispatchers[who].let_go(job.hold);
        }
        state.dispatchers[who].work = Some(job);
        Some(())
    }

    /// A job that may be a copy is parked before it is looked at: by then the first is over.
    fn must_wait(&self, message: &Message<Ticket>) -> bool {
        message.may_be_copy && !self.makes(Mistake::CopiesDoNotWait)
    }

    /// Parked, it is a fresh message: that it came back goes along. One that cannot be put off may be half done.
    fn park(&self, state: &mut State, job: &Job<Ticket, Phase>) -> Phase {
        let ticket = job.message.body;
        match self.taken(job.message.taken) {
            taken if state.defer(ticket) => hand_over(ticket, Way::Parked(taken), false),
            Taken::First => Phase::Done { handed_over: false },
            Taken::Again => Phase::Beaten { number: ticket.attempt },
        }
    }

    fn decide(&self, state: &State, job: &Job<Ticket, Phase>) -> Decision {
        let ticket = job.message.body;
        let is_first = job.hold == Hold::ForEvent;
        let attempt = Decision::Attempt { number: ticket.attempt, revision: 0 };
        if self.makes(Mistake::NoCheck) || is_first && self.makes(Mistake::NoLookAfterWait) {
            return attempt;
        }
        match state.row() {
            // Whoever wrote a row where there was none goes on with it.
            Some(_) if is_first => Decision::Nothing,
            None if is_first && state.is_enabled() => attempt,
            row => decide(ticket, self.taken(job.message.taken), row.as_ref()),
        }
    }

    fn writes(&self, state: &State, way: Way, steps: &mut Vec<Step>) {
        steps.extend(self.answers(state).map(|answer| Step::Write(way, answer)));
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

    /// Only where a request follows does it matter what comes of it.
    fn looks(&self, state: &State, decision: Decision, steps: &mut Vec<Step>) {
        steps.push(Step::Look(Outcome::Sent(Verdict::Delivered)));
        if matches!(decision, Decision::Attempt { .. }) {
            steps.push(Step::Look(Outcome::Sent(Verdict::NotDelivered)));
            if state.parked < self.parks {
                steps.push(Step::Look(Outcome::NotSent));
            }
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

/// Does what was decided. The request begins with the look at the row: between the two there is nothing to wait for.
fn begin(state: &mut State, ticket: Ticket, decision: Decision, outcome: Outcome) -> Phase {
    match decision {
        Decision::Attempt { number, .. } => {
            if outcome == Outcome::NotSent {
                return Phase::OnTheWire { number, outcome, handed_over: false };
            }
            let after_end = state.is_final().then_some(Wrong::AfterEnd);
            let too_early = (number > ticket.attempt).then_some(Wrong::TooEarly);
            let while_disabled = (!state.is_enabled()).then_some(Wrong::WhileDisabled);
            state.seen.post(number, [after_end, too_early, while_disabled].into_iter().flatten());
            Phase::OnTheWire { number, outcome, handed_over: false }
        }
        Decision::HandOver { recorded } => {
            let seen = state.delivery.map_or(Fence::FIRST, |delivery| delivery.fence);
            Phase::Reissuing { recorded, seen, tried: false }
        }
        Decision::Abandon(_) => Phase::Abandoning,
        Decision::Nothing => {
            state.note_unwanted();
            Phase::Done { handed_over: false }
        }
    }
}

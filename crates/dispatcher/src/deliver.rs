//! One job, from its queue to its acknowledgement.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backends::Chain;
use broker::{Confirmed, Consumer, Delivery, Received};
use bytes::Bytes;
use domain::Timestamp;
use domain::protocol::{DELETED, DISABLED, Decision, Fence, Taken, Ticket, decide};
use domain::redaction::Redactor;
use domain::retry::{AttemptNumber, NextStep, Schedule, Verdict, next_step};
use egress::{AttemptError, Client, Outcome};
use isolation::{Isolation, MAY_TAKE, Stopping, Work};
use metrics::{counter, gauge, histogram};
use service::Clock;
use store::{AttemptRecord, AttemptResult, Deferral, Reissue};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info};
use wire::DeliveryJob;
use wire::rejected::UNUSABLE;

use crate::claims::Claims;
use crate::journal::{Journal, JournalError};
use crate::lanes::{Lanes, Turn};
use crate::outbox::Outbox;
use crate::reconcile::Probes;
use crate::request;
use crate::targets::{NoTarget, Target, Targets};
use crate::told::Told;

/// The reason recorded where the event was dropped before its delivery was made.
const NO_BODY: &str = "the event is no longer kept";

/// The reason recorded where nothing can be done with a job; more is told to operators.
const UNDELIVERABLE: &str = "this delivery cannot be made; the platform's operators can see why";

/// The reason recorded where a job made its dispatchers fail; more is told to operators.
const POISONOUS: &str = "this delivery made the platform's dispatchers fail again and again; it was given up";

/// The stage that makes attempts.
pub(crate) struct DeliverStage {
    pub(crate) journal: Journal,
    pub(crate) outbox: Outbox,
    pub(crate) probes: Probes,
    pub(crate) claims: Claims,
    pub(crate) lanes: Lanes,
    pub(crate) targets: Targets,
    /// What keeps attempts from being made, and was told to operators.
    pub(crate) told: Told,
    pub(crate) client: Client,
    pub(crate) schedule: Schedule,
    /// Longest wait for the webhook's other requests before a job is parked.
    pub(crate) max_wait: Duration,
    /// Longest wait for what all webhooks share before a job is parked.
    pub(crate) max_wait_for_all: Duration,
    pub(crate) isolation: Isolation,
    pub(crate) clock: Clock,
    pub(crate) stopping: CancellationToken,
}

/// Why a job was not worked off.
enum NotDone {
    /// Nothing can be done with it, now or later.
    SetAside(String),
    /// The process is going down.
    Stopping,
}

impl From<JournalError> for NotDone {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Refused(refusal) => Self::SetAside(Chain(&*refusal).to_string()),
            JournalError::Stopped(_) => Self::Stopping,
        }
    }
}

/// What working a job off gave: whatever it asked for is committed and confirmed.
enum Worked {
    /// The next attempt's job was handed over.
    HandedOver(Confirmed),
    /// Anything else.
    Over(Confirmed),
}

/// What waiting for a turn gave.
enum Wait {
    Turn(Turn),
    TooLong,
    Stopping,
}

/// An attempt that was made.
struct Made {
    started_at: Timestamp,
    duration: Duration,
    outcome: Outcome,
}

impl DeliverStage {
    /// Takes jobs until `stopping`, each in a task of its own; the consumer's prefetch bounds them.
    pub(crate) async fn run(self: Arc<Self>, mut consumer: Consumer, tasks: TaskTracker) {
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.stopping.cancelled() => break,
                delivery = consumer.next() => delivery,
            };
            let Some(delivery) = delivery else { break };
            tasks.spawn(self.clone().take(delivery));
        }
        consumer.cancel().await;
    }

    async fn take(self: Arc<Self>, delivery: Delivery) {
        let Delivery { received, acker } = delivery;
        match self.isolation.work_off(&*self, std::slice::from_ref(&received)).await {
            Ok(proof) => acker.ack(proof),
            Err(Stopping) => acker.requeue(),
        }
    }

    /// When this returns a proof, whatever the job asked for is committed and confirmed.
    async fn do_job(&self, received: &Received) -> Result<Confirmed, NotDone> {
        let job = DeliveryJob::decode(received.body.clone())
            .map_err(|error| NotDone::SetAside(error.to_string()))?;
        let taken = if received.redelivered { Taken::Again } else { Taken::First };
        let Some(claim) = self.claims.claim(job.delivery, job.ticket.attempt).await else {
            return Ok(Confirmed::nothing_to_publish());
        };
        if received.may_be_copy {
            // The other may be on the wire of another dispatcher: looked at later, the row will tell.
            return self.without_turn(job, taken).await;
        }
        let attempt = job.ticket.attempt;
        match self.wait_for_turn(&job).await {
            Wait::Turn(turn) => match self.with_turn(job, taken, turn).await? {
                Worked::HandedOver(proof) => {
                    claim.handed_over(attempt);
                    Ok(proof)
                }
                Worked::Over(proof) => Ok(proof),
            },
            Wait::TooLong => self.without_turn(job, taken).await,
            Wait::Stopping => Err(NotDone::Stopping),
        }
    }

    /// What all share is waited for much longer than the webhook's other requests: parked, a job would come back behind
    /// those that came later. But not for ever: nobody may hold a message longer than a lost one is waited for. While
    /// the database is away nothing moves: a job that was parked would only come back.
    async fn wait_for_turn(&self, job: &DeliveryJob) -> Wait {
        let mut place = pin!(self.lanes.place(job.webhook, job.bytes_to_read()));
        let place = loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Wait::Stopping,
                place = &mut place => break place,
                () = sleep(self.max_wait) => {}
            }
            if self.journal.is_available() {
                return Wait::TooLong;
            }
        };
        let mut turn = pin!(place.turn());
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Wait::Stopping,
                turn = &mut turn => return Wait::Turn(turn),
                () = sleep(self.max_wait_for_all) => {}
            }
            if self.journal.is_available() {
                return Wait::TooLong;
            }
        }
    }

    async fn with_turn(&self, mut job: DeliveryJob, taken: Taken, turn: Turn) -> Result<Worked, NotDone> {
        let mut loaded = None;
        loop {
            let state = self.journal.check(job.delivery, job.body.is_none()).await?;
            let (number, revision) = match decide(job.ticket, taken, state.as_ref().map(|state| &state.row)) {
                Decision::Attempt { number, revision } => (number, revision),
                Decision::HandOver { recorded } => {
                    let seen = state.map_or(job.ticket.fence, |state| state.row.fence);
                    return self.hand_over(&job, recorded, seen).await;
                }
                Decision::Abandon(reason) => return self.abandon(&job, reason).await,
                Decision::Nothing => {
                    debug!(delivery.id = %job.delivery, attempt = job.ticket.attempt.get(), "nothing left to do");
                    return Ok(Worked::Over(Confirmed::nothing_to_publish()));
                }
            };
            let known = loaded.take().or_else(|| self.targets.remembered(job.webhook));
            let Some(target) = known.filter(|target| target.is_as_of(revision)) else {
                match self.targets.load(job.webhook, revision, &self.journal).await {
                    // That may have taken long, and the row is to be looked at right before the request.
                    Ok(target) => loaded = Some(target),
                    Err(NoTarget::Gone) => return self.abandon(&job, DELETED).await,
                    Err(NoTarget::Secret(reason)) => {
                        counter!("attempts_put_off_total", "why" => "secret").increment(1);
                        if self.told.is_news_about(job.webhook) {
                            error!(webhook.id = %job.webhook, %reason, "cannot sign for this webhook; its deliveries wait");
                        }
                        drop(turn);
                        return Ok(Worked::Over(self.without_turn(job, taken).await?));
                    }
                    Err(NoTarget::Journal(error)) => return Err(error.into()),
                }
                continue;
            };
            if !target.active {
                return self.abandon(&job, DISABLED).await;
            }
            let Some(body) = job.body.clone().or(state.and_then(|state| state.body)) else {
                return self.abandon(&job, NO_BODY).await;
            };
            job.ticket.attempt = number;
            return self.attempt(&job, taken, &target, body, turn).await;
        }
    }

    async fn abandon(&self, job: &DeliveryJob, reason: &'static str) -> Result<Worked, NotDone> {
        self.journal.abandon(job.delivery, reason).await?;
        info!(delivery.id = %job.delivery, webhook.id = %job.webhook, reason, "delivery abandoned");
        counter!("deliveries_total", "status" => "abandoned").increment(1);
        Ok(Worked::Over(Confirmed::nothing_to_publish()))
    }

    /// What follows from an attempt that is recorded already. Its job may exist, and is issued anew: `seen` is the
    /// row's fence.
    async fn hand_over(
        &self,
        job: &DeliveryJob,
        recorded: AttemptNumber,
        seen: Fence,
    ) -> Result<Worked, NotDone> {
        let delay = self.schedule.delay_after(recorded);
        let due = self.clock.now() + delay.unwrap_or_default();
        let reissue = Reissue { delivery: job.delivery, recorded, fence: seen, due };
        let Some(fence) = self.journal.reissue(reissue).await? else {
            return Ok(Worked::Over(Confirmed::nothing_to_publish()));
        };
        let next = DeliveryJob { ticket: Ticket { attempt: recorded.next(), fence }, ..job.clone() };
        Ok(Worked::HandedOver(match delay {
            Some(delay) => self.outbox.retry(&next, delay).await,
            // The schedule became shorter since: the last attempt is made now.
            None => self.outbox.deliver([next]).await,
        }))
    }

    /// Gives a job's place in the prefetch window back. A job that cannot be put off is void, or its attempt is recorded:
    /// then no turn is needed for what is left to do, if its message came back and may be half done.
    async fn without_turn(&self, job: DeliveryJob, taken: Taken) -> Result<Confirmed, NotDone> {
        if let Some(parked) = self.park(&job, taken).await? {
            return Ok(parked);
        }
        match taken {
            Taken::First => Ok(Confirmed::nothing_to_publish()),
            Taken::Again => match self.after_another(&job).await? {
                Worked::HandedOver(proof) | Worked::Over(proof) => Ok(proof),
            },
        }
    }

    /// Parks a job; `None` if it cannot be put off. Parked, it is a fresh message: that it came back goes along.
    async fn park(&self, job: &DeliveryJob, taken: Taken) -> Result<Option<Confirmed>, NotDone> {
        let until = self.clock.now() + self.outbox.park_delay();
        let deferral = Deferral { delivery: job.delivery, ticket: job.ticket, until };
        Ok(if self.journal.defer(deferral).await? { Some(self.outbox.park(job, taken).await) } else { None })
    }

    async fn attempt(
        &self,
        job: &DeliveryJob,
        taken: Taken,
        target: &Target,
        body: Bytes,
        turn: Turn,
    ) -> Result<Worked, NotDone> {
        let made = self.send(job, target, body).await?;
        drop(turn);

        if let Outcome::Failed(error) = &made.outcome
            && error.is_ours()
        {
            return self.put_off(job, taken, error).await;
        }
        let verdict = verdict(&made.outcome);
        let next = next_step(job.ticket.attempt, verdict, &self.schedule);
        let error = describe_failure(&made.outcome);
        let record = self.record(job, &target.redactor, made, next, error.clone());
        let recorded = self.journal.record(record).await?;
        let Some(fence) = recorded else { return self.after_another(job).await };
        Ok(match next {
            NextStep::Succeed => {
                counter!("deliveries_total", "status" => "success").increment(1);
                Worked::Over(Confirmed::nothing_to_publish())
            }
            NextStep::Retry { attempt, delay } => {
                let next = DeliveryJob { ticket: Ticket { attempt, fence }, ..job.clone() };
                Worked::HandedOver(self.outbox.retry(&next, delay).await)
            }
            NextStep::Fail => {
                counter!("deliveries_total", "status" => "failed").increment(1);
                Worked::Over(self.outbox.dead(job, &error.unwrap_or_default()).await)
            }
        })
    }

    /// Nothing was sent, and not because of the receiver: that takes none of its attempts. It is made when it can be.
    async fn put_off(
        &self,
        job: &DeliveryJob,
        taken: Taken,
        error: &AttemptError,
    ) -> Result<Worked, NotDone> {
        let why = failure_label(error);
        counter!("attempts_put_off_total", "why" => why).increment(1);
        if self.told.is_news(why) {
            error!(why, %error, "attempts cannot be made; their deliveries wait");
        }
        Ok(Worked::Over(self.without_turn(job.clone(), taken).await?))
    }

    /// This attempt is recorded already: by another dispatcher, both had the job because a channel was lost, or by an
    /// earlier try whose answer was lost. The other may be unable to hand over what follows, and this message may be the
    /// one that is left.
    async fn after_another(&self, job: &DeliveryJob) -> Result<Worked, NotDone> {
        debug!(delivery.id = %job.delivery, "this attempt is recorded already");
        let state = self.journal.check(job.delivery, false).await?;
        match (decide(job.ticket, Taken::Again, state.as_ref().map(|state| &state.row)), state) {
            (Decision::HandOver { recorded }, Some(state)) => {
                self.hand_over(job, recorded, state.row.fence).await
            }
            _ => Ok(Worked::Over(Confirmed::nothing_to_publish())),
        }
    }

    /// Ends a delivery whose job is about to be set aside, unless another job stands for it.
    async fn end(&self, received: &Received, reason: &'static str) -> Result<(), Stopping> {
        let Ok(job) = DeliveryJob::decode(received.body.clone()) else { return Ok(()) };
        let ending = async {
            let state = self.journal.check(job.delivery, false).await?;
            if decide(job.ticket, Taken::Again, state.as_ref().map(|state| &state.row)) == Decision::Nothing {
                return Ok(());
            }
            self.abandon(&job, reason).await.map(drop)
        };
        match ending.await {
            Err(NotDone::Stopping) => Err(Stopping),
            // It stays pending, and its job in the rejected queue: an operator can put it back.
            Err(NotDone::SetAside(refusal)) => {
                error!(delivery.id = %job.delivery, refusal, "a delivery that is set aside cannot be ended");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn send(&self, job: &DeliveryJob, target: &Target, body: Bytes) -> Result<Made, NotDone> {
        let started_at = self.clock.now();
        let headers = request::headers(job, job.ticket.attempt, &body, &target.signer, started_at)
            .map_err(|error| NotDone::SetAside(format!("a header cannot be written: {error}")))?;
        let made = match &target.uri {
            Ok(uri) => {
                gauge!("requests_in_flight").increment(1);
                let attempt = self.client.post(uri.clone(), headers, body).await;
                gauge!("requests_in_flight").decrement(1);
                Made { started_at, duration: attempt.duration, outcome: attempt.outcome }
            }
            Err(reason) => {
                let outcome = Outcome::Failed(AttemptError::Url(reason.clone()));
                Made { started_at, duration: Duration::ZERO, outcome }
            }
        };
        let outcome = outcome_label(&made.outcome);
        counter!("delivery_attempts_total", "outcome" => outcome).increment(1);
        histogram!("delivery_attempt_seconds").record(made.duration);
        debug!(
            delivery.id = %job.delivery,
            webhook.id = %job.webhook,
            attempt = job.ticket.attempt.get(),
            outcome,
            duration_ms = u64::try_from(made.duration.as_millis()).unwrap_or(u64::MAX),
            "attempt made"
        );
        Ok(made)
    }

    fn record(
        &self,
        job: &DeliveryJob,
        redactor: &Redactor,
        made: Made,
        next: NextStep,
        error: Option<String>,
    ) -> AttemptRecord {
        let (response_status, response_body) = match made.outcome {
            Outcome::Responded(response) => {
                // What is not UTF-8 is written with more bytes than it had.
                let body = String::from_utf8_lossy(&response.body);
                let body = &body[..body.floor_char_boundary(response.body.len())];
                // A receiver that sends its secret back must not have it kept in the clear.
                (Some(response.status), Some(redactor.redact(body).into_owned()))
            }
            Outcome::Failed(_) => (None, None),
        };
        let result = match next {
            NextStep::Succeed => AttemptResult::Success,
            NextStep::Retry { delay, .. } => AttemptResult::Retry { at: self.clock.now() + delay },
            NextStep::Fail => AttemptResult::Failed,
        };
        AttemptRecord {
            delivery: job.delivery,
            attempt: job.ticket.attempt,
            started_at: made.started_at,
            duration: made.duration,
            response_status,
            response_body: response_body.filter(|body| !body.is_empty()),
            error,
            result,
        }
    }
}

impl Work for DeliverStage {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, Stopping> {
        let mut proof = Confirmed::nothing_to_publish();
        for received in messages {
            if self.probes.take(received).await {
                continue;
            }
            let done = match self.do_job(received).await {
                Ok(done) => done,
                Err(NotDone::Stopping) => return Err(Stopping),
                Err(NotDone::SetAside(reason)) => {
                    self.end(received, UNDELIVERABLE).await?;
                    let message = received.forward_to(self.isolation.queue());
                    self.isolation.set_aside(message, UNUSABLE, &reason).await?
                }
            };
            proof = proof.and(done);
        }
        Ok(proof)
    }

    async fn isolating(&self, received: &Received) -> Result<(), Stopping> {
        let Ok(job) = DeliveryJob::decode(received.body.clone()) else { return Ok(()) };
        let until = self.clock.now() + MAY_TAKE;
        let deferral = Deferral { delivery: job.delivery, ticket: job.ticket, until };
        match self.journal.defer(deferral).await {
            Err(JournalError::Stopped(_)) => Err(Stopping),
            // Whether it counts is decided when it is worked off.
            Ok(_) | Err(JournalError::Refused(_)) => Ok(()),
        }
    }

    async fn give_up(&self, received: &Received, _reason: &str) -> Result<(), Stopping> {
        self.end(received, POISONOUS).await
    }
}

fn verdict(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Responded(response) => Verdict::of_status(response.status),
        Outcome::Failed(_) => Verdict::NotDelivered,
    }
}

/// Why there was no success, in words for the developer.
fn describe_failure(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Responded(response) => match (Verdict::of_status(response.status), response.status) {
            (Verdict::Delivered, _) => None,
            (_, 300..400) => {
                Some(format!("redirect: status {} is not followed; 2xx is expected", response.status))
            }
            (_, status) => Some(format!("status {status}: 2xx is expected")),
        },
        Outcome::Failed(error) => Some(error.to_string()),
    }
}

fn outcome_label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Responded(response) if Verdict::of_status(response.status) == Verdict::Delivered => {
            "success"
        }
        Outcome::Responded(_) => "status",
        Outcome::Failed(error) => failure_label(error),
    }
}

fn failure_label(error: &AttemptError) -> &'static str {
    match error {
        AttemptError::Timeout(_) | AttemptError::ConnectTimeout(_) => "timeout",
        AttemptError::Dns(_) => "dns",
        AttemptError::Blocked(_) | AttemptError::Url(_) => "blocked",
        AttemptError::Connect(_) => "connect",
        AttemptError::Tls(_) => "tls",
        AttemptError::Protocol(_) => "protocol",
        AttemptError::Proxy(_) => "proxy",
        AttemptError::NoTurn => "no_turn",
        AttemptError::NameServers(_) => "name_servers",
        AttemptError::Exhausted(_) => "exhausted",
    }
}

//! Attempts: from the turn to the record, and what follows from it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backends::Chain;
use broker::Confirmed;
use bytes::Bytes;
use domain::protocol::{Decision, Fence, Taken, Ticket, decide};
use domain::redaction::Redactor;
use domain::retry::{AttemptNumber, NextStep, Schedule, next_step};
use domain::{Timestamp, WebhookId};
use egress::{AttemptError, Client, Outcome};
use metrics::{counter, gauge, histogram};
use service::Clock;
use store::{AttemptRecord, AttemptResult, FirstAttempt, NewDelivery, PendingDelivery, Reissue};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};
use wire::DeliveryJob;

use crate::claims::Claims;
use crate::gathering::Gathering;
use crate::journal::{Journal, JournalError};
use crate::lanes::{Congestion, Lanes, Turn};
use crate::outbox::Outbox;
use crate::outcome::{describe_failure, ended, failure_label, outcome_label, verdict};
use crate::request;
use crate::targets::{NoTarget, Target, Targets};
use crate::told::Told;

/// The reason recorded where nothing can be done with a job; more is told to operators.
pub(crate) const UNDELIVERABLE: &str = "this delivery cannot be made; the platform's operators can see why";

/// What both ways of making attempts share: jobs, and events whose first attempts are made at once.
pub(crate) struct Attempts {
    pub(crate) journal: Journal,
    pub(crate) outbox: Outbox,
    pub(crate) claims: Claims,
    pub(crate) lanes: Lanes,
    /// Where jobs meet that are to be parked.
    pub(crate) parking: Gathering,
    pub(crate) targets: Targets,
    /// What keeps attempts from being made, and was told to operators.
    pub(crate) told: Told,
    pub(crate) client: Client,
    pub(crate) schedule: Schedule,
    pub(crate) clock: Clock,
    pub(crate) stopping: CancellationToken,
}

/// Why something was not worked off.
#[derive(Debug)]
pub(crate) enum NotDone {
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

/// What working on a delivery gave: whatever was to be done is committed and confirmed.
#[derive(Debug)]
pub(crate) enum Worked {
    /// The next attempt's job was handed over.
    HandedOver(Confirmed),
    /// Anything else.
    Over(Confirmed),
}

/// What waiting for a turn gave.
#[derive(Debug)]
pub(crate) enum Wait {
    Turn(Turn),
    /// The webhook's other requests took too long: the job is to be parked, on this rung of the ladder.
    WebhookBusy {
        park: usize,
    },
    /// What all webhooks share was taken too long.
    DispatcherBusy,
    Stopping,
}

/// A delivery that had no row when it was decided to make it.
#[derive(Debug)]
pub(crate) struct Unwritten {
    pub(crate) delivery: NewDelivery,
    pub(crate) created_at: Timestamp,
    /// Whether it is the only delivery of its event, which is marked with it.
    ends_event: bool,
    /// Whether another message is made to stand for it, and it has a row by now, or is about to get one.
    stood_in: AtomicBool,
    /// Whether it is written.
    written: AtomicBool,
}

impl Unwritten {
    /// A delivery that was decided on then.
    pub(crate) fn new(delivery: NewDelivery, created_at: Timestamp, ends_event: bool) -> Self {
        let (stood_in, written) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { delivery, created_at, ends_event, stood_in, written }
    }

    /// Whether its event is marked: it was written with the only delivery.
    pub(crate) fn has_ended_event(&self) -> bool {
        self.ends_event && self.written.load(Ordering::Relaxed)
    }

    /// Notes that another message is made to stand for it.
    pub(crate) fn stand_in(&self) {
        self.stood_in.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_standing_in(&self) -> bool {
        self.stood_in.load(Ordering::Relaxed)
    }
}

/// An attempt that was made.
struct Made {
    started_at: Timestamp,
    duration: Duration,
    outcome: Outcome,
}

impl Attempts {
    /// Waits for the webhook's other requests as long as is of use, and for what all share as long as `patience` is. Parked
    /// for the sake of what all share, a job would come back behind those that came later. But nobody may hold a message longer than a lost one is waited for. While
    /// the database is away nothing moves: a job that was parked would only come back.
    pub(crate) async fn wait_for_turn(
        &self,
        webhook: WebhookId,
        bytes_to_read: usize,
        patience: Duration,
    ) -> Wait {
        let Congestion { mut max_wait, park } = self.lanes.congestion(webhook);
        if self.stopping.is_cancelled() {
            return Wait::Stopping;
        }
        let mut place = pin!(self.lanes.place(webhook, bytes_to_read));
        let place = loop {
            tokio::select! {
                biased;
                place = &mut place => break place,
                () = self.stopping.cancelled() => return Wait::Stopping,
                () = sleep(max_wait) => {}
            }
            if self.journal.is_available() {
                return Wait::WebhookBusy { park };
            }
            max_wait = patience;
        };
        let mut turn = pin!(place.turn());
        loop {
            tokio::select! {
                biased;
                turn = &mut turn => return Wait::Turn(turn),
                () = self.stopping.cancelled() => return Wait::Stopping,
                () = sleep(patience) => {}
            }
            if self.journal.is_available() {
                return Wait::DispatcherBusy;
            }
        }
    }

    /// The target of a webhook as of `revision` or later.
    pub(crate) async fn load_target(
        &self,
        webhook: WebhookId,
        revision: i64,
    ) -> Result<LoadedTarget, NotDone> {
        match self.targets.load(webhook, revision, &self.journal).await {
            Ok(target) => Ok(LoadedTarget::Ready(target)),
            Err(NoTarget::Gone) => Ok(LoadedTarget::Gone),
            Err(NoTarget::Secret(reason)) => {
                counter!("attempts_put_off_total", "why" => "secret").increment(1);
                if self.told.is_news_about(webhook) {
                    error!(webhook.id = %webhook, %reason, "cannot sign for this webhook; its deliveries wait");
                }
                Ok(LoadedTarget::Unreadable)
            }
            Err(NoTarget::Journal(error)) => Err(error.into()),
        }
    }

    pub(crate) async fn abandon(&self, job: &DeliveryJob, reason: &'static str) -> Result<Worked, NotDone> {
        self.journal.abandon(job.delivery, reason).await?;
        info!(delivery.id = %job.delivery, webhook.id = %job.webhook, reason, "delivery abandoned");
        counter!("deliveries_total", "status" => "abandoned").increment(1);
        Ok(Worked::Over(Confirmed::nothing_to_publish()))
    }

    /// What follows from an attempt that is recorded already. Its job may exist, and is issued anew: `seen` is the
    /// row's fence.
    pub(crate) async fn hand_over(
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

    /// Makes the attempt that the job names, records it, and hands over what follows. `unwritten` is the delivery if it has
    /// no row yet. `None`: nothing was sent, and not because of the receiver.
    pub(crate) async fn attempt(
        &self,
        job: &DeliveryJob,
        target: &Target,
        body: Bytes,
        turn: Turn,
        unwritten: Option<&Unwritten>,
    ) -> Result<Option<Worked>, NotDone> {
        let made = self.send(job, target, body).await?;
        turn.ended(ended(&made.outcome, made.duration));

        if let Outcome::Failed(error) = &made.outcome
            && error.is_ours()
        {
            self.note_put_off(error);
            return Ok(None);
        }
        let verdict = verdict(&made.outcome);
        let next = next_step(job.ticket.attempt, verdict, &self.schedule);
        let error = describe_failure(&made.outcome);
        let record = self.record(job, &target.redactor, made, next, error.clone());
        let recorded = self.write(record, unwritten).await?;
        let Some(fence) = recorded else { return self.after_another(job).await.map(Some) };
        Ok(Some(match next {
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
        }))
    }

    /// Writes an attempt down. Returns the fence of the job that follows; `None` if the attempt was recorded already.
    async fn write(
        &self,
        record: AttemptRecord,
        unwritten: Option<&Unwritten>,
    ) -> Result<Option<Fence>, NotDone> {
        if let Some(unwritten) = unwritten {
            let Unwritten { delivery, created_at, ends_event, .. } = *unwritten;
            let first = FirstAttempt { delivery, created_at, made: record.clone(), ends_event };
            let is_new = self.journal.settle(first).await?;
            unwritten.written.store(true, Ordering::Relaxed);
            if is_new {
                return Ok(Some(Fence::FIRST));
            }
        }
        Ok(self.journal.record(record).await?)
    }

    /// Writes a delivery that a message is about to stand for, due in `delay`; `false` if it was written already: then
    /// somebody goes on with it.
    pub(crate) async fn write_pending(
        &self,
        unwritten: &Unwritten,
        delay: Duration,
    ) -> Result<bool, NotDone> {
        let due = self.clock.now() + delay;
        let Unwritten { delivery, created_at, ends_event, .. } = *unwritten;
        let pending = PendingDelivery { delivery, created_at, due, ends_event };
        let is_new = self.journal.write_pending(pending).await?;
        unwritten.written.store(true, Ordering::Relaxed);
        Ok(is_new)
    }

    fn note_put_off(&self, error: &AttemptError) {
        let why = failure_label(error);
        counter!("attempts_put_off_total", "why" => why).increment(1);
        if self.told.is_news(why) {
            error!(why, %error, "attempts cannot be made; their deliveries wait");
        }
    }

    /// This attempt is recorded already: by another dispatcher, both had the job because a channel was lost, or by an
    /// earlier try whose answer was lost. The other may be unable to hand over what follows, and this message may be the
    /// one that is left.
    pub(crate) async fn after_another(&self, job: &DeliveryJob) -> Result<Worked, NotDone> {
        debug!(delivery.id = %job.delivery, "this attempt is recorded already");
        let state = self.journal.check(job.delivery, false).await?;
        match (decide(job.ticket, Taken::Again, state.as_ref().map(|state| &state.row)), state) {
            (Decision::HandOver { recorded }, Some(state)) => {
                self.hand_over(job, recorded, state.row.fence).await
            }
            _ => Ok(Worked::Over(Confirmed::nothing_to_publish())),
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

/// What loading a webhook's target gave.
pub(crate) enum LoadedTarget {
    /// It can be sent to.
    Ready(Arc<Target>),
    /// The webhook was deleted.
    Gone,
    /// Its secret cannot be read, and operators were told.
    Unreadable,
}

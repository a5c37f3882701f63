//! One job, from its queue to its acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use broker::{Confirmed, Consumer, Delivery, Received};
use domain::protocol::{DELETED, DISABLED, Decision, Taken, decide};
use isolation::{Isolation, MAY_TAKE, Stopping, Work};
use store::Deferral;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};
use wire::DeliveryJob;
use wire::rejected::UNUSABLE;

use crate::attempts::{Attempts, LoadedTarget, NotDone, UNDELIVERABLE, Wait, Worked};
use crate::journal::JournalError;
use crate::lanes::Turn;
use crate::reconcile::Probes;

/// The reason recorded where the event was dropped before its delivery was made.
const NO_BODY: &str = "the event is no longer kept";

/// The reason recorded where a job made its dispatchers fail; more is told to operators.
const POISONOUS: &str = "this delivery made the platform's dispatchers fail again and again; it was given up";

/// The stage that works jobs off.
pub(crate) struct DeliverStage {
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) probes: Probes,
    pub(crate) isolation: Isolation,
    /// Longest wait for what all webhooks share before a job is parked.
    pub(crate) patience: Duration,
}

impl DeliverStage {
    /// Takes jobs until `stopping`, each in a task of its own; the consumer's prefetch bounds them.
    pub(crate) async fn run(self: Arc<Self>, mut consumer: Consumer, tasks: TaskTracker) {
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.attempts.stopping.cancelled() => break,
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
        let mut job = DeliveryJob::decode(received.body.clone())
            .map_err(|error| NotDone::SetAside(error.to_string()))?;
        let taken = if received.redelivered { Taken::Again } else { Taken::First };
        let Some(claim) = self.attempts.claims.claim(job.delivery, job.ticket.attempt).await else {
            return Ok(Confirmed::nothing_to_publish());
        };
        if received.may_be_copy {
            // The other may be on the wire of another dispatcher: looked at later, the row will tell.
            return self.without_turn(job, taken, 0).await;
        }
        let attempt = job.ticket.attempt;
        match self.attempts.wait_for_turn(job.webhook, job.bytes_to_read(), self.patience).await {
            Wait::Turn(turn) => match self.with_turn(&mut job, taken, turn).await? {
                Some(Worked::HandedOver(proof)) => {
                    claim.handed_over(attempt);
                    Ok(proof)
                }
                Some(Worked::Over(proof)) => Ok(proof),
                None => self.without_turn(job, taken, 0).await,
            },
            Wait::WebhookBusy { park } => self.without_turn(job, taken, park).await,
            Wait::DispatcherBusy => self.without_turn(job, taken, 0).await,
            Wait::Stopping => Err(NotDone::Stopping),
        }
    }

    /// `None`: nothing was sent, and not because of the receiver. That takes none of its attempts; the attempt is made when
    /// it can be.
    async fn with_turn(
        &self,
        job: &mut DeliveryJob,
        taken: Taken,
        turn: Turn,
    ) -> Result<Option<Worked>, NotDone> {
        let mut loaded = None;
        loop {
            let state = self.attempts.journal.check(job.delivery, job.body.is_none()).await?;
            let (number, revision) = match decide(job.ticket, taken, state.as_ref().map(|state| &state.row)) {
                Decision::Attempt { number, revision } => (number, revision),
                Decision::HandOver { recorded } => {
                    let seen = state.map_or(job.ticket.fence, |state| state.row.fence);
                    return self.attempts.hand_over(job, recorded, seen).await.map(Some);
                }
                Decision::Abandon(reason) => return self.attempts.abandon(job, reason).await.map(Some),
                Decision::Nothing => {
                    debug!(delivery.id = %job.delivery, attempt = job.ticket.attempt.get(), "nothing left to do");
                    return Ok(Some(Worked::Over(Confirmed::nothing_to_publish())));
                }
            };
            let known = loaded.take().or_else(|| self.attempts.targets.remembered(job.webhook));
            let Some(target) = known.filter(|target| target.is_as_of(revision)) else {
                match self.attempts.load_target(job.webhook, revision).await? {
                    // That may have taken long, and the row is to be looked at right before the request.
                    LoadedTarget::Ready(target) => loaded = Some(target),
                    LoadedTarget::Gone => return self.attempts.abandon(job, DELETED).await.map(Some),
                    LoadedTarget::Unreadable => return Ok(None),
                }
                continue;
            };
            if !target.active {
                return self.attempts.abandon(job, DISABLED).await.map(Some);
            }
            let Some(body) = job.body.clone().or(state.and_then(|state| state.body)) else {
                return self.attempts.abandon(job, NO_BODY).await.map(Some);
            };
            job.ticket.attempt = number;
            return self.attempts.attempt(job, &target, body, turn, None).await;
        }
    }

    /// Gives a job's place in the prefetch window back. A job that cannot be put off is void, or its attempt is recorded:
    /// then no turn is needed for what is left to do, if its message came back and may be half done.
    async fn without_turn(&self, job: DeliveryJob, taken: Taken, rung: usize) -> Result<Confirmed, NotDone> {
        if let Some(parked) = self.park(&job, taken, rung).await? {
            return Ok(parked);
        }
        match taken {
            Taken::First => Ok(Confirmed::nothing_to_publish()),
            Taken::Again => match self.attempts.after_another(&job).await? {
                Worked::HandedOver(proof) | Worked::Over(proof) => Ok(proof),
            },
        }
    }

    /// Parks a job; `None` if it cannot be put off. Parked, it is a fresh message: that it came back goes along.
    async fn park(&self, job: &DeliveryJob, taken: Taken, rung: usize) -> Result<Option<Confirmed>, NotDone> {
        let Attempts { clock, journal, outbox, parking, .. } = &*self.attempts;
        parking.departure().await;
        let until = clock.now() + outbox.delay(rung);
        let deferral = Deferral { delivery: job.delivery, ticket: job.ticket, until };
        Ok(if journal.defer(deferral).await? { Some(outbox.park_for(job, taken, rung).await) } else { None })
    }

    /// Ends a delivery whose job is about to be set aside, unless another job stands for it.
    async fn end(&self, received: &Received, reason: &'static str) -> Result<(), Stopping> {
        let Ok(job) = DeliveryJob::decode(received.body.clone()) else { return Ok(()) };
        let ending = async {
            let state = self.attempts.journal.check(job.delivery, false).await?;
            if decide(job.ticket, Taken::Again, state.as_ref().map(|state| &state.row)) == Decision::Nothing {
                return Ok(());
            }
            self.attempts.abandon(&job, reason).await.map(drop)
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
        let until = self.attempts.clock.now() + MAY_TAKE;
        let deferral = Deferral { delivery: job.delivery, ticket: job.ticket, until };
        match self.attempts.journal.defer(deferral).await {
            Err(JournalError::Stopped(_)) => Err(Stopping),
            // Whether it counts is decided when it is worked off.
            Ok(_) | Err(JournalError::Refused(_)) => Ok(()),
        }
    }

    async fn give_up(&self, received: &Received, _reason: &str) -> Result<(), Stopping> {
        self.end(received, POISONOUS).await
    }
}

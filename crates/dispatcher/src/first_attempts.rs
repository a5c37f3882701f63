//! First attempts, made by the dispatcher that fans the event out: without a message for each.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use broker::{Confirmed, Held};
use bytes::Bytes;
use domain::Timestamp;
use domain::protocol::{LOOK_HOLDS, Taken};
use futures_util::FutureExt as _;
use isolation::{Isolation, Stopping};
use store::Unwritten as Found;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{debug, error};
use wire::rejected::UNUSABLE;
use wire::{DeliveryJob, PROTOBUF};

use crate::attempts::{Attempts, LoadedTarget, NotDone, UNDELIVERABLE, Unwritten, Wait, Worked};

/// By how much clocks of different machines may differ.
const MARGIN: Duration = Duration::from_secs(1);

/// Makes first attempts, each in a task of its own.
pub(crate) struct FirstAttempts {
    pub(crate) attempts: Arc<Attempts>,
    /// Where the job of a delivery goes that cannot be made.
    pub(crate) isolation: Isolation,
    /// Longest time that an event's message is held for one of its deliveries.
    pub(crate) hold: Duration,
    pub(crate) room: Room,
    pub(crate) tasks: TaskTracker,
}

/// Bounds the deliveries that are worked on at once.
pub(crate) struct Room {
    free: Arc<Semaphore>,
    size: usize,
}

impl Room {
    /// For so many deliveries, one at least.
    pub(crate) fn new(size: usize) -> Self {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(size)), size }
    }

    /// The most that can be taken at once.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Waits for room for so many deliveries, first come, first served; `None` if there is none by then.
    pub(crate) async fn take(&self, deliveries: usize, until: Instant) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(deliveries.min(self.size)).unwrap_or(u32::MAX);
        timeout_at(until, self.free.clone().acquire_many_owned(permits)).await.ok()?.ok()
    }
}

/// A delivery that has no row yet: its event's message stands for it.
pub(crate) struct First {
    /// As a message would say it.
    pub(crate) job: DeliveryJob,
    pub(crate) body: Bytes,
    pub(crate) unwritten: Unwritten,
    pub(crate) look: Look,
    /// When the event was accepted.
    pub(crate) accepted_at: Timestamp,
    /// Tells whether the event's message is still this dispatcher's.
    pub(crate) held: Option<Held>,
}

impl First {
    fn settled(&self, proof: Result<Confirmed, Stopping>) -> Settled {
        Settled { proof, has_ended_event: self.unwritten.has_ended_event() }
    }
}

/// What was seen of a webhook, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) revision: i64,
    pub(crate) at: Instant,
}

/// What became of a first attempt.
pub(crate) struct Settled {
    /// For its event's message: what was to be done is committed and confirmed, or another message stands for it.
    pub(crate) proof: Result<Confirmed, Stopping>,
    /// Whether its event is marked as fanned out with it.
    pub(crate) has_ended_event: bool,
}

/// What a panic said.
pub(crate) type Panic = Box<dyn Any + Send>;

/// Who waits for a first attempt.
type Tell = oneshot::Sender<Result<Settled, Panic>>;

/// A first attempt on its way.
pub(crate) struct UnderWay(oneshot::Receiver<Result<Settled, Panic>>);

impl UnderWay {
    /// Waits until the event's message need not be held for this delivery any more: what became of it is committed and
    /// confirmed, or another message stands for it.
    ///
    /// # Errors
    /// The attempt panicked.
    pub(crate) async fn settled(self) -> Result<Settled, Panic> {
        self.0.await.unwrap_or(Ok(Settled { proof: Err(Stopping), has_ended_event: false }))
    }
}

impl FirstAttempts {
    /// Starts a first attempt, which keeps its room until it is over.
    pub(crate) fn start(self: &Arc<Self>, first: First, room: OwnedSemaphorePermit) -> UnderWay {
        let (tell, settled) = oneshot::channel();
        let this = self.clone();
        self.tasks.spawn(async move {
            let mut tell = Some(tell);
            let made = AssertUnwindSafe(this.make(&first, &mut tell)).catch_unwind().await;
            drop(room);
            if let Some(tell) = tell {
                let _ = tell.send(made.map(|proof| first.settled(proof)));
            }
        });
        UnderWay(settled)
    }

    async fn make(&self, first: &First, tell: &mut Option<Tell>) -> Result<Confirmed, Stopping> {
        let Some(claim) = self.attempts.claims.claim(first.job.delivery, first.job.ticket.attempt).await
        else {
            return Ok(Confirmed::nothing_to_publish());
        };
        match self.work(first, tell).await {
            Ok(Worked::HandedOver(proof)) => {
                claim.handed_over(first.job.ticket.attempt);
                Ok(proof)
            }
            Ok(Worked::Over(proof)) => Ok(proof),
            Err(NotDone::SetAside(reason)) => self.set_aside(first, &reason).await,
            Err(NotDone::Stopping) => Err(Stopping),
        }
    }

    /// Until the row is written, and what follows is handed over. Tells earlier if a message stands in for the delivery.
    async fn work(&self, first: &First, tell: &mut Option<Tell>) -> Result<Worked, NotDone> {
        let job = &first.job;
        let turn = match self.attempts.wait_for_turn(job.webhook, job.bytes_to_read(), self.hold).await {
            Wait::Turn(turn) => turn,
            Wait::WebhookBusy { park } => return self.park(first, park).await,
            // Others of the same message may be on the wire: it is not given back for this one.
            Wait::DispatcherBusy | Wait::Stopping => return self.hand_over(first).await,
        };
        let mut look = Some(first.look);
        let mut loaded = None;
        let target = loop {
            let fresh =
                look.take().filter(|look| look.at.elapsed() < LOOK_HOLDS && self.nobody_else_has(first));
            let revision = match fresh {
                Some(look) => look.revision,
                None => match self.look_again(first).await? {
                    Some(revision) => revision,
                    None => return Ok(Worked::Over(Confirmed::nothing_to_publish())),
                },
            };
            let known = loaded.take().or_else(|| self.attempts.targets.remembered(first.job.webhook));
            if let Some(target) = known.filter(|target| target.is_as_of(revision)) {
                break target;
            }
            match self.attempts.load_target(first.job.webhook, revision).await? {
                // That may have taken long, and the webhook is to be looked at right before the request.
                LoadedTarget::Ready(target) => loaded = Some(target),
                LoadedTarget::Gone => return Ok(Worked::Over(Confirmed::nothing_to_publish())),
                LoadedTarget::Unreadable => {
                    drop(turn);
                    return self.park(first, 0).await;
                }
            }
        };
        if !target.active {
            return Ok(Worked::Over(Confirmed::nothing_to_publish()));
        }
        let body = first.body.clone();
        let (made, not_stood_in) = {
            let attempt = self.attempts.attempt(&first.job, &target, body, turn, Some(&first.unwritten));
            let (mut attempt, mut standing_in) = (pin!(attempt), pin!(self.stand_in_when_late(first)));
            tokio::select! {
                biased;
                made = &mut attempt => {
                    // Half of it would leave a row that no message stands for.
                    let is_standing_in = first.unwritten.is_standing_in();
                    let stood_in = if is_standing_in { standing_in.await.err() } else { None };
                    (made, stood_in)
                }
                stood_in = &mut standing_in => {
                    let failed = match stood_in {
                        Ok(proof) => {
                            if let Some(proof) = proof && let Some(tell) = tell.take() {
                                let _ = tell.send(Ok(first.settled(Ok(proof))));
                            }
                            None
                        }
                        Err(failed) => Some(failed),
                    };
                    (attempt.await, failed)
                }
            }
        };
        match (made, not_stood_in) {
            (Ok(Some(worked)), _) => Ok(worked),
            (Ok(None), None) => self.park(first, 0).await,
            // Nothing was sent, and nothing stands for it.
            (Ok(None), Some(failed)) | (Err(failed), _) => Err(failed),
        }
    }

    /// Whether nobody else can have written the delivery: copies of its event's message have not waited long enough, and the
    /// message itself was not given to another.
    fn nobody_else_has(&self, first: &First) -> bool {
        let age = self.attempts.clock.now() - first.accepted_at;
        // What is on the wire longer than `hold` has a row.
        let copies_wait = self.attempts.outbox.delay(0).saturating_sub(self.hold + MARGIN);
        let is_young = age.to_std().is_ok_and(|age| age < copies_wait);
        is_young && !first.held.as_ref().is_some_and(Held::is_lost)
    }

    /// The webhook's revision now; `None` if there is nothing to be done any more.
    async fn look_again(&self, first: &First) -> Result<Option<i64>, NotDone> {
        let delivery = first.job.delivery;
        Ok(match self.attempts.journal.look_again(delivery, first.job.webhook).await? {
            Found::Wanted { revision } => Some(revision),
            Found::Unwanted => None,
            Found::Written => {
                debug!(delivery.id = %delivery, "somebody else goes on with it");
                None
            }
        })
    }

    /// Makes a job that comes back later. Not an attempt.
    async fn park(&self, first: &First, rung: usize) -> Result<Worked, NotDone> {
        self.attempts.parking.departure().await;
        let delay = self.attempts.outbox.delay(rung);
        Ok(Worked::Over(if self.write_pending(first, delay).await? {
            self.attempts.outbox.park_for(&first.job, Taken::First, rung).await
        } else {
            Confirmed::nothing_to_publish()
        }))
    }

    /// Makes a job for whoever has a hand free.
    async fn hand_over(&self, first: &First) -> Result<Worked, NotDone> {
        Ok(Worked::Over(if self.write_pending(first, Duration::ZERO).await? {
            self.attempts.outbox.deliver([first.job.clone()]).await
        } else {
            Confirmed::nothing_to_publish()
        }))
    }

    /// Waits for as long as an event's message is held; then makes a job that comes back when the request under way is surely
    /// over, and finds it recorded, or not, if this process ended. `None`: the attempt is recorded just now.
    async fn stand_in_when_late(&self, first: &First) -> Result<Option<Confirmed>, NotDone> {
        sleep(self.hold).await;
        first.unwritten.stand_in();
        let delay = self.attempts.outbox.stand_in_delay();
        if !self.attempts.write_pending(&first.unwritten, delay).await? {
            return Ok(None);
        }
        Ok(Some(self.attempts.outbox.stand_in(&first.job).await))
    }

    /// Writes the delivery, which a message is about to stand for; `false` if one does already.
    async fn write_pending(&self, first: &First, delay: Duration) -> Result<bool, NotDone> {
        let is_standing_in = first.unwritten.is_standing_in();
        Ok(!is_standing_in && self.attempts.write_pending(&first.unwritten, delay).await?)
    }

    /// Nothing can be done with it, now or later: its job goes to where operators look.
    async fn set_aside(&self, first: &First, reason: &str) -> Result<Confirmed, Stopping> {
        match self.write_pending(first, Duration::ZERO).await {
            // Whoever has written it, or stands in for it, goes on with it.
            Ok(false) => {}
            Ok(true) => match self.attempts.abandon(&first.job, UNDELIVERABLE).await {
                Err(NotDone::Stopping) => return Err(Stopping),
                Err(NotDone::SetAside(refusal)) => error!(
                    delivery.id = %first.job.delivery,
                    refusal,
                    "a delivery that is set aside cannot be ended"
                ),
                Ok(_) => {}
            },
            Err(NotDone::Stopping) => return Err(Stopping),
            Err(NotDone::SetAside(refusal)) => {
                error!(delivery.id = %first.job.delivery, refusal, "a delivery that is set aside cannot be written");
            }
        }
        let message =
            broker::Message::to_queue(self.isolation.queue(), first.job.encode()).content_type(PROTOBUF);
        self.isolation.set_aside(message, UNUSABLE, reason).await
    }
}

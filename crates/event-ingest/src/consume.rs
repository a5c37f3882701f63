//! Events that come over AMQP.

use std::sync::Arc;

use broker::{Batch, Confirmed, Consumer, Received};
use bytes::Bytes;
use domain::event::{AcceptedEvent, NotAccepted, Rejection};
use domain::id::NoRandomness;
use futures_util::future::{try_join, try_join_all};
use isolation::{Isolation, Work};
use metrics::histogram;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;
use wire::FanOut;
use wire::rejected::UNUSABLE;

use crate::bursts::Bursts;
use crate::counted::{Outcome, Source};
use crate::decode::{Decoded, Decoder};
use crate::pipeline::{Pipeline, Receipt, StatementBounds, to_store, to_store_moved};
use crate::reject::RejectedQueue;
use crate::retry::{Retry, Stopping};
use crate::turns::Turns;

/// Batches with more bytes are checked as blocking work: other tasks must not wait on this thread for a long check.
const BLOCKING_BYTES: usize = 32 * 1024;

/// Takes events from a queue, batch by batch. What came meanwhile is the next batch: with more at once they are smaller, and a
/// statement and a message cost more than what they carry.
pub(crate) struct Consumption<W> {
    pub(crate) work: Arc<W>,
    pub(crate) isolation: Isolation,
    pub(crate) bounds: StatementBounds,
    pub(crate) rank: Rank,
    pub(crate) turns: Turns,
}

/// Which of the two queues it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// What was published: goes first.
    First,
    /// What was moved out of its way.
    Bulk,
}

impl<W: Work> Consumption<W> {
    /// Works messages off until `stopping`, then finishes what is under way.
    pub(crate) async fn run(self, mut consumer: Consumer, stopping: CancellationToken) {
        loop {
            let batch = tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                batch = consumer.next_batch(self.bounds.events, self.bounds.bytes) => batch,
            };
            let Some(batch) = batch else { break };
            match self.work_off(&batch).await {
                Ok(proof) => batch.ack(proof),
                // An acknowledgement covers every batch before it, so none may follow.
                Err(Stopping) => return,
            }
        }
        consumer.cancel().await;
    }

    async fn work_off(&self, batch: &Batch) -> Result<Confirmed, Stopping> {
        let messages = batch.messages();
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most some thousand messages")]
        histogram!("ingest_batch_events").record(messages.len() as f64);
        match self.rank {
            Rank::First => {
                let _going = self.turns.go_first();
                Ok(self.isolation.work_off(&*self.work, messages).await?)
            }
            Rank::Bulk => {
                self.turns.wait().await;
                Ok(self.isolation.work_off(&*self.work, messages).await?)
            }
        }
    }
}

/// Stores what is acceptable, and sets the rest aside.
pub(crate) struct Storing {
    pub(crate) pipeline: Pipeline,
    pub(crate) decoder: Decoder,
    pub(crate) rejected: RejectedQueue,
    pub(crate) retry: Retry,
}

impl Storing {
    /// When this returns, every event is committed and handed over, and every other message is in the rejected queue.
    async fn store_or_reject(&self, checked: Vec<(&Received, Checked)>) -> Result<Confirmed, Stopping> {
        let (mut accepted, mut messages, mut rejections) = (Vec::new(), Vec::new(), Vec::new());
        for (message, checked) in checked {
            match checked {
                Ok(event) => {
                    accepted.push(to_store(event));
                    messages.push(message);
                }
                Err(rejection) => rejections.push((message, rejection)),
            }
        }
        let (rejected, (receipts, taken)) =
            try_join(self.reject(&rejections), self.pipeline.take(&accepted)).await?;

        let refused: Vec<_> = messages.into_iter().zip(receipts).filter_map(refusal).collect();
        let refused = self.reject(&refused).await?;
        Ok(taken.and(rejected).and(refused))
    }

    /// Checks every message, in order.
    async fn check<'a>(&self, messages: &'a [Received]) -> Result<Vec<(&'a Received, Checked)>, Stopping> {
        let bytes: usize = messages.iter().map(|message| message.body.len()).sum();
        let check = |message| Ok((message, sorted(self.decoder.decode(message))?));
        let check_all = || messages.iter().map(check).collect();
        let checked = self.retry.until_answered(|| {
            std::future::ready(if bytes > BLOCKING_BYTES { block_in_place(check_all) } else { check_all() })
        });
        checked.await?.map_err(|NoRandomness| Stopping)
    }

    async fn reject(&self, rejections: &[(&Received, Rejection)]) -> Result<Confirmed, Stopping> {
        let moving = rejections.iter().map(|(message, rejection)| self.rejected.put(message, rejection));
        let confirmed = try_join_all(moving).await?;
        Ok(confirmed.into_iter().fold(Confirmed::nothing_to_publish(), Confirmed::and))
    }
}

impl Work for Storing {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, isolation::Stopping> {
        let checked = self.check(messages).await?;
        Ok(self.store_or_reject(checked).await?)
    }
}

/// Moves events that come in bursts out of the way, and stores the others.
pub(crate) struct Sorting {
    pub(crate) storing: Arc<Storing>,
    pub(crate) bursts: Bursts,
}

impl Work for Sorting {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, isolation::Stopping> {
        let checked = self.storing.check(messages).await?;
        let mut is_in_burst =
            self.bursts.among(checked.iter().filter_map(|(_, checked)| checked.as_ref().ok())).into_iter();
        let (mut in_bursts, mut others) = (Vec::new(), Vec::with_capacity(checked.len()));
        for (message, checked) in checked {
            match checked {
                Ok(event) if is_in_burst.next().unwrap_or(false) => in_bursts.push(event),
                checked => others.push((message, checked)),
            }
        }
        let (moved, stored) =
            try_join(self.bursts.put(in_bursts), self.storing.store_or_reject(others)).await?;
        Ok(moved.and(stored))
    }
}

/// Stores events that were checked and moved.
pub(crate) struct StoringMoved {
    pub(crate) pipeline: Pipeline,
    pub(crate) rejected: RejectedQueue,
    pub(crate) isolation: Isolation,
}

impl Work for StoringMoved {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, isolation::Stopping> {
        let (mut events, mut proof) = (Vec::new(), Confirmed::nothing_to_publish());
        for message in messages {
            match FanOut::decode(message.body.clone()) {
                Ok(group) => events.extend(group.events.into_iter().map(to_store_moved)),
                Err(error) => {
                    let moving = message.forward_to(self.isolation.queue());
                    proof = proof.and(self.isolation.set_aside(moving, UNUSABLE, &error.to_string()).await?);
                }
            }
        }
        let (receipts, taken) = self.pipeline.take(&events).await?;
        let refused: Vec<_> = events.iter().zip(receipts).filter_map(refusal).collect();
        let moving = refused.iter().map(|(event, rejection)| self.rejected.put_event(event, rejection));
        let refused = try_join_all(moving).await?;
        Ok(refused.into_iter().fold(proof.and(taken), Confirmed::and))
    }

    fn parts(&self, message: &Received) -> Vec<Bytes> {
        let events = FanOut::decode(message.body.clone()).map(|group| group.events).unwrap_or_default();
        events.into_iter().map(|event| FanOut { events: vec![event] }.encode()).collect()
    }
}

/// A message that may be stored, or that has to be set aside.
type Checked = Result<AcceptedEvent, Rejection>;

fn sorted(decoded: Decoded) -> Result<Checked, NoRandomness> {
    match decoded {
        Ok(event) => Ok(Ok(event)),
        Err(NotAccepted::Rejected(rejection)) => Ok(Err(rejection)),
        Err(NotAccepted::NoRandomness(error)) => Err(error),
    }
}

/// Counts what became of an event; what the database refused has still to be set aside.
fn refusal<T>((of, receipt): (T, Receipt)) -> Option<(T, Rejection)> {
    match receipt {
        Receipt::Stored(_) => Source::Amqp.count(Outcome::Accepted),
        Receipt::Duplicate(_) => Source::Amqp.count(Outcome::Duplicate),
        Receipt::Refused(rejection) => return Some((of, rejection)),
    }
    None
}

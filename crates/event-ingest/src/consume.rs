//! Events that come over AMQP.

use std::sync::Arc;

use broker::{Batch, Confirmed, Consumer, Received};
use domain::event::{AcceptedEvent, NotAccepted, Rejection};
use domain::id::NoRandomness;
use futures_util::StreamExt as _;
use futures_util::future::{try_join, try_join_all};
use futures_util::stream::FuturesOrdered;
use isolation::{Isolation, Work};
use metrics::histogram;
use tokio::task::{JoinError, JoinHandle, block_in_place};
use tokio_util::sync::CancellationToken;

use crate::counted::{Outcome, Source};
use crate::decode::{Decoded, Decoder};
use crate::pipeline::{Pipeline, Receipt, StatementBounds};
use crate::reject::RejectedQueue;
use crate::retry::{Retry, Stopping};

/// Batches under way at once. What came meanwhile is the next one: with more at once they are smaller, and a statement and a
/// message cost more than what they carry.
const MAX_BATCHES: usize = 1;

/// Batches with more bytes are checked as blocking work: other tasks must not wait on this thread for a long check.
const BLOCKING_BYTES: usize = 32 * 1024;

/// The stage that takes events from the broker.
pub(crate) struct Consumption {
    pub(crate) pipeline: Pipeline,
    pub(crate) decoder: Decoder,
    pub(crate) rejected: RejectedQueue,
    pub(crate) isolation: Isolation,
    pub(crate) retry: Retry,
    pub(crate) bounds: StatementBounds,
}

/// A batch that everything is done for, or that was given up.
type Done = Result<(Batch, Confirmed), Stopping>;

impl Consumption {
    /// Works messages off until `stopping`, then finishes what is under way.
    ///
    /// # Errors
    /// A batch's task panicked, which working messages off does not. Its messages are not acknowledged, nor are those
    /// after it.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut consumer: Consumer,
        stopping: CancellationToken,
    ) -> Result<(), JoinError> {
        let mut batches: FuturesOrdered<JoinHandle<Done>> = FuturesOrdered::new();
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                Some(done) = batches.next(), if !batches.is_empty() => {
                    if !acknowledge(done?) {
                        return Ok(());
                    }
                }
                batch = consumer.next_batch(self.bounds.events, self.bounds.bytes),
                    if batches.len() < MAX_BATCHES =>
                {
                    let Some(batch) = batch else { break };
                    batches.push_back(tokio::spawn(self.clone().work_off_batch(batch)));
                }
            }
        }
        consumer.cancel().await;
        while let Some(done) = batches.next().await {
            if !acknowledge(done?) {
                break;
            }
        }
        Ok(())
    }

    async fn work_off_batch(self: Arc<Self>, batch: Batch) -> Done {
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most some thousand messages")]
        histogram!("ingest_batch_events").record(batch.messages().len() as f64);
        let proof = self.isolation.work_off(&*self, batch.messages()).await?;
        Ok((batch, proof))
    }

    /// When this returns, every event is committed and handed over, and every other message is in the rejected queue.
    async fn store_or_reject(&self, messages: &[Received]) -> Result<Confirmed, Stopping> {
        let (mut accepted, mut places, mut rejections) = (Vec::new(), Vec::new(), Vec::new());
        for (place, checked) in self.decode(messages).await?.into_iter().enumerate() {
            match checked {
                Ok(event) => {
                    accepted.push(event);
                    places.push(place);
                }
                Err(rejection) => rejections.push((place, rejection)),
            }
        }
        let (rejected, (receipts, taken)) =
            try_join(self.reject(messages, &rejections), self.pipeline.take(accepted)).await?;

        let refused: Vec<_> = places.into_iter().zip(receipts).filter_map(refusal).collect();
        let refused = self.reject(messages, &refused).await?;
        Ok(taken.and(rejected).and(refused))
    }

    /// Checks every message, in order.
    async fn decode(&self, messages: &[Received]) -> Result<Vec<Checked>, Stopping> {
        let bytes: usize = messages.iter().map(|message| message.body.len()).sum();
        let check_all = || messages.iter().map(|message| sorted(self.decoder.decode(message))).collect();
        let checked = self.retry.until_answered(|| {
            std::future::ready(if bytes > BLOCKING_BYTES { block_in_place(check_all) } else { check_all() })
        });
        checked.await?.map_err(|NoRandomness| Stopping)
    }

    async fn reject(
        &self,
        messages: &[Received],
        rejections: &[(usize, Rejection)],
    ) -> Result<Confirmed, Stopping> {
        let moving =
            rejections.iter().map(|(place, rejection)| self.rejected.put(&messages[*place], rejection));
        let confirmed = try_join_all(moving).await?;
        Ok(confirmed.into_iter().fold(Confirmed::nothing_to_publish(), Confirmed::and))
    }
}

impl Work for Consumption {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, isolation::Stopping> {
        Ok(self.store_or_reject(messages).await?)
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
fn refusal((place, receipt): (usize, Receipt)) -> Option<(usize, Rejection)> {
    match receipt {
        Receipt::Stored(_) => Source::Amqp.count(Outcome::Accepted),
        Receipt::Duplicate(_) => Source::Amqp.count(Outcome::Duplicate),
        Receipt::Refused(rejection) => return Some((place, rejection)),
    }
    None
}

/// Acknowledges a batch. Says `false` if it was given up: an acknowledgement covers every batch before it, so none
/// may follow.
fn acknowledge(done: Done) -> bool {
    match done {
        Ok((batch, proof)) => {
            batch.ack(proof);
            true
        }
        Err(Stopping) => false,
    }
}

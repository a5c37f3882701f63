//! Events that come over AMQP.

use std::pin::pin;
use std::sync::Arc;

use broker::{Batch, Confirmed, Consumer};
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use isolation::{Isolation, Work};
use metrics::histogram;
use tokio_util::sync::CancellationToken;

use crate::bursts::Bursts;
use crate::pipeline::StatementBounds;
use crate::plenty::Plenty;
use crate::retry::Stopping;
use crate::turns::{Pace, Turns};

/// Batches on their way at once of a consumer while events are moved: that is mostly waiting for the broker.
const MOVING_AT_ONCE: usize = 4;

/// Messages of a batch while events are moved: an event that goes first is stored when all of its batch are checked.
const MOVING_TOGETHER: usize = 250;

/// Takes events from a queue, batch by batch. What came meanwhile is the next batch: with more at once they are smaller, and a
/// statement and a message cost more than what they carry. Only while events are moved the next batch of a consumer does not wait.
pub(crate) struct Consumption<W> {
    pub(crate) work: Arc<W>,
    pub(crate) isolation: Isolation,
    pub(crate) bounds: StatementBounds,
    pub(crate) rank: Rank,
}

/// Which of the two queues it is.
pub(crate) enum Rank {
    /// What was published: goes first, and what comes in bursts out of the way.
    First(Turns, Arc<Bursts>),
    /// What was moved.
    Bulk(Pace),
}

impl Rank {
    /// Batches on their way at once.
    fn at_once(&self) -> usize {
        match self {
            Self::First(_, bursts) if bursts.are_going() => MOVING_AT_ONCE,
            Self::First(..) | Self::Bulk(_) => 1,
        }
    }

    /// Messages of a batch, of so many.
    fn at_most(&self, messages: usize) -> usize {
        match self {
            Self::First(_, bursts) if bursts.are_going() => messages.min(MOVING_TOGETHER),
            Self::First(..) | Self::Bulk(_) => messages,
        }
    }
}

impl<W: Work> Consumption<W> {
    /// Works messages off until `stopping`, then finishes what is under way.
    pub(crate) async fn run(&self, mut consumer: Consumer, stopping: CancellationToken) {
        let (mut under_way, mut has_given_up) = (FuturesOrdered::new(), false);
        loop {
            let batch = tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                Some(worked_off) = under_way.next() => {
                    acknowledge(worked_off, &mut has_given_up);
                    if has_given_up {
                        break;
                    }
                    continue;
                }
                batch = consumer.next_batch(self.rank.at_most(self.bounds.events), self.bounds.bytes),
                    if under_way.len() < self.rank.at_once() => batch,
            };
            let Some(batch) = batch else { break };
            under_way.push_back(self.work_off(batch));
        }
        while let Some(worked_off) = under_way.next().await {
            acknowledge(worked_off, &mut has_given_up);
        }
        if !has_given_up {
            consumer.cancel().await;
        }
    }

    /// Works messages off beside another consumer while there are many small ones; until `stopping`. What a consumer may have
    /// taken is what it works off before it hears of its confirms again: a batch that is larger costs less, and the next one
    /// is there while this one waits for the database or the broker.
    pub(crate) async fn run_in_plenty(
        &self,
        plenty: &Plenty,
        open: impl Fn() -> Consumer,
        stopping: CancellationToken,
    ) {
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                () = plenty.begun() => {}
            }
            let over = stopping.child_token();
            let mut running = pin!(self.run(open(), over.clone()));
            tokio::select! {
                () = &mut running => {}
                () = plenty.over() => {
                    over.cancel();
                    running.await;
                }
            }
        }
    }

    async fn work_off(&self, batch: Batch) -> (Batch, Result<Confirmed, Stopping>) {
        let messages = batch.messages();
        #[expect(clippy::cast_precision_loss, reason = "a batch has at most some thousand messages")]
        histogram!("ingest_batch_events").record(messages.len() as f64);
        let _going = match &self.rank {
            Rank::First(turns, _) => Some(turns.go_first(messages.len())),
            Rank::Bulk(pace) => {
                pace.wait().await;
                None
            }
        };
        let worked_off = self.isolation.work_off(&*self.work, messages).await;
        (batch, worked_off.map_err(Into::into))
    }
}

/// Acknowledges a batch that was worked off, and whether one before it was not: an acknowledgement covers every batch before it.
fn acknowledge((batch, worked_off): (Batch, Result<Confirmed, Stopping>), has_given_up: &mut bool) {
    match worked_off {
        Ok(proof) if *has_given_up => batch.ack_alone(proof),
        Ok(proof) => batch.ack(proof),
        Err(Stopping) => *has_given_up = true,
    }
}

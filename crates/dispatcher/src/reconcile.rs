//! What has lost its message is found in the database and put back, without an operator.
//!
//! The broker can lose everything, a process can die where the one message about a delivery was its to hand over: the
//! database still knows what should have been looked at by now. But late is not lost: the queue may merely be long. So
//! probes travel through the queues with everything else, and tell how far each has been worked off
//! ([`mod@wire::probe`]); only what stood before one that came out long ago is put back. Of a queue of several shards the
//! one counts that is farthest behind: nobody need know in which a message was.

use std::sync::Arc;
use std::time::Duration;

use backends::{PutBack, PutBackError};
use broker::{Publisher, Received};
use domain::Timestamp;
use metrics::counter;
use service::Clock;
use store::{Lost, LostEvents, RecoverySession, Store};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wire::{Names, probe, read_probe};

/// Looks for what was lost, one dispatcher at a time.
pub(crate) struct Reconciler {
    pub(crate) session: RecoverySession,
    pub(crate) publisher: Publisher,
    pub(crate) names: Arc<Names>,
    pub(crate) clock: Clock,
    /// The time between two looks.
    pub(crate) interval: Duration,
    /// Longer than anyone holds a message that was taken off its queue.
    pub(crate) holding: Duration,
    /// Longer than it takes from the moment a message is due until it is in its queue.
    pub(crate) entering: Duration,
}

impl Reconciler {
    /// Looks again and again until `stopping`. One log line when it does not work, and one when it works again.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let mut works = true;
        loop {
            let looked = tokio::select! {
                () = stopping.cancelled() => return,
                looked = self.look() => looked,
            };
            match &looked {
                Err(error) if works => warn!(%error, "lost messages cannot be looked for; trying again"),
                Ok(()) if !works => info!("lost messages are looked for again"),
                _ => {}
            }
            works = looked.is_ok();
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(self.interval) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), PutBackError> {
        if !self.session.lead().await? {
            return Ok(());
        }
        // Of the database, not of this machine: whoever leads, it is the same clock.
        let now = self.session.now().await?;
        let fan_out: Vec<_> = self.names.all_shards().map(|shard| shard.fan_out_queue()).collect();
        let deliver: Vec<_> = self.names.all_shards().map(|shard| shard.deliver_queue()).collect();
        let probes = fan_out.iter().chain(&deliver).map(|queue| probe(queue, now));
        // Not confirmed, it is not gone on: what would be put back would not be taken either.
        let _ = self.publisher.publish_all(probes).await?;

        let events = self.put_back_events(&fan_out).await;
        let deliveries = self.put_back_deliveries(&deliver).await;
        events.and(deliveries)
    }

    async fn put_back_events(&mut self, queues: &[String]) -> Result<(), PutBackError> {
        let Some(lost) = self.lost(queues).await? else { return Ok(()) };
        let mut told = Told { what: "event", count: 0 };
        while told.more(self.put_back().events(lost, LostEvents::Overdue).await?) {}
        Ok(())
    }

    async fn put_back_deliveries(&mut self, queues: &[String]) -> Result<(), PutBackError> {
        let Some(lost) = self.lost(queues).await? else { return Ok(()) };
        let mut told = Told { what: "delivery", count: 0 };
        while told.more(self.put_back().deliveries(lost).await?) {}
        Ok(())
    }

    /// What can only be lost, in whichever of these queues it was: it was due so long before a probe went into the queue that
    /// it stood before the probe, and the probe came out so long ago that whoever took it from there has done with it. `None`
    /// as long as no probe has.
    async fn lost(&mut self, queues: &[String]) -> Result<Option<Lost>, PutBackError> {
        let mut worked_off = Vec::with_capacity(queues.len());
        for queue in queues {
            worked_off.push(self.session.worked_off(queue, self.holding).await?);
        }
        let put_at = earliest(worked_off);
        Ok(put_at.map(|put_at| Lost { since: None, before: put_at - self.entering }))
    }

    fn put_back(&mut self) -> PutBack<'_> {
        PutBack {
            session: &mut self.session,
            publisher: &self.publisher,
            names: &self.names,
            clock: &self.clock,
        }
    }
}

/// Until when all queues are worked off: until when the one is that is farthest behind. `None` as long as that is not known of
/// one of them.
fn earliest(worked_off: impl IntoIterator<Item = Option<Timestamp>>) -> Option<Timestamp> {
    // `None` is less than any time.
    worked_off.into_iter().min().flatten()
}

/// Tells once, at the end of a look, how much was put back in it.
struct Told {
    what: &'static str,
    count: u64,
}

impl Told {
    /// Counts what was put back; `false` when there was nothing more.
    fn more(&mut self, count: usize) -> bool {
        self.count += count as u64;
        counter!("recovered_total", "what" => self.what).increment(count as u64);
        count > 0
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if self.count > 0 {
            warn!(what = self.what, count = self.count, "put back what had lost its message");
        }
    }
}

/// Takes the probes out of the queues.
#[derive(Debug, Clone)]
pub(crate) struct Probes {
    store: Store,
}

impl Probes {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Notes how far the message's queue has come, if the message is a probe; then nothing else is to be done with it. One that
    /// cannot be noted is forgotten: the next one follows.
    pub(crate) async fn take(&self, received: &Received) -> bool {
        let Some(at) = read_probe(received) else { return false };
        // Probes are published to their queue and to no exchange, and keep its name where they are isolated.
        let queue = &received.routing_key;
        if let Err(error) = self.store.record_progress(queue, at).await {
            debug!(queue, %error, "the queue's progress was not noted");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_counts_as_lost_before_every_queue_is_worked_off() {
        let at = |seconds: i64| Timestamp::from_timestamp_millis(seconds * 1000);
        assert_eq!(earliest([at(7)]), at(7));
        assert_eq!(earliest([at(7), at(5), at(9)]), at(5));
        assert_eq!(earliest([at(7), None, at(9)]), None);
    }
}

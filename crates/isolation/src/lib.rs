#![doc = include_str!("../README.md")]

mod alone;
mod envelope;
mod evidence;
mod together;
mod work;

use std::sync::Arc;
use std::time::Duration;

use broker::{Backoff, Confirmed, Message, Publisher, Received};
use futures_util::future::try_join_all;
use metrics::counter;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use wire::Names;
use wire::names::SOURCE_QUEUE_HEADER;
use wire::rejected::rejected;

pub use crate::work::{Stopping, Work};

use crate::evidence::Evidence;
use crate::work::caught;

/// How late a message may be because it was isolated: whoever looks for lost messages waits so long. Kubernetes starts
/// a container that ends again and again every five minutes.
pub const MAY_TAKE: Duration = Duration::from_secs(30 * 60);

/// Returns after which a message is suspected: it is isolated.
const SUSPECTED_AFTER: u64 = 5;

/// Failures in isolation after which a message is set aside: more than another message causes by
/// [`SUSPECTED_AFTER`] ends of the process.
const SET_ASIDE_AFTER: u64 = SUSPECTED_AFTER + 1;

/// Where a stage's troublesome messages go. Clones share it.
#[derive(Debug, Clone)]
pub struct Isolation {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    publisher: Publisher,
    names: Names,
    queue: String,
    isolated_queue: String,
    evidence: Evidence,
    stopping: CancellationToken,
}

impl Isolation {
    /// For the stage that consumes `queue`. `stopping` says that the process goes down.
    pub fn new(publisher: Publisher, names: Names, queue: String, stopping: CancellationToken) -> Self {
        let isolated_queue = names.isolated_queue(&queue);
        let evidence = Evidence::default();
        Self { shared: Arc::new(Shared { publisher, names, queue, isolated_queue, evidence, stopping }) }
    }

    /// The stage's queue.
    pub fn queue(&self) -> &str {
        &self.shared.queue
    }

    /// The isolated queue: its consumer has a prefetch of 1 and goes to [`Isolation::run`].
    pub fn isolated_queue(&self) -> &str {
        &self.shared.isolated_queue
    }

    /// Sets a message of the stage's queue aside: `code` says why to programs and in the metric, `reason` to people.
    ///
    /// # Errors
    /// The process is stopping and the broker does not confirm.
    pub async fn set_aside(
        &self,
        message: Message,
        code: &'static str,
        reason: &str,
    ) -> Result<Confirmed, Stopping> {
        let Shared { names, queue, .. } = &*self.shared;
        error!(queue, code, reason, "message set aside");
        counter!("messages_set_aside_total", "queue" => queue.clone(), "reason" => code).increment(1);
        self.publish(rejected(message, names, code, reason).header(SOURCE_QUEUE_HEADER, queue)).await
    }

    /// Moves a message to the end of the isolated queue, with `failures` to its account.
    async fn isolate<W: Work>(
        &self,
        work: &W,
        received: &Received,
        failures: u64,
        look: Look,
    ) -> Result<Confirmed, Stopping> {
        let mut bodies = Vec::new();
        // What looks into a message may be what it makes fail.
        if look == Look::Into {
            bodies = caught(async { work.parts(received) }).await.unwrap_or_default();
            if let Ok(noted) = caught(work.isolating(received)).await {
                noted?;
            }
        }
        if bodies.is_empty() {
            bodies.push(received.body.clone());
        }
        let Shared { queue, isolated_queue, .. } = &*self.shared;
        warn!(queue, returns = received.delivery_count, failures, parts = bodies.len(), "message isolated");
        counter!("messages_isolated_total", "queue" => queue.clone()).increment(1);
        let parts = bodies.into_iter().map(|body| envelope::close(received, body, isolated_queue, failures));
        let confirmed = try_join_all(parts.map(|part| self.publish(part))).await?;
        Ok(confirmed.into_iter().fold(Confirmed::nothing_to_publish(), Confirmed::and))
    }

    /// Publishes until it is confirmed; one log line when that becomes difficult.
    async fn publish(&self, message: Message) -> Result<Confirmed, Stopping> {
        let mut backoff = Backoff::default();
        let mut told = false;
        loop {
            match self.shared.publisher.publish(message.clone()).await {
                Ok(confirmed) => return Ok(confirmed),
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!(%error, routing_key = message.routing_key, "not published; trying again");
                    }
                }
            }
            tokio::select! {
                () = self.shared.stopping.cancelled() => return Err(Stopping),
                () = backoff.wait() => {}
            }
        }
    }
}

/// Whether a message is looked into when it is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Into what it consists of, to move the parts, and into what it stands for.
    Into,
    /// Not any more.
    Away,
}

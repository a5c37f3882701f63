//! The isolated queue: one message at a time.

use std::sync::Arc;

use broker::{Acker, Confirmed, Consumer, Delivery, Received};
use bytes::Bytes;
use futures_util::FutureExt as _;
use tracing::info;
use wire::names::ROUTING_KEY_HEADER;
use wire::rejected::POISON;

use crate::work::{Panicked, Stopping, Work, caught};
use crate::{Isolation, Look, SET_ASIDE_AFTER, envelope};

/// The message that was worked off last. If it comes again, its channel was lost and not its process.
#[derive(Debug, Default)]
struct Survived(Option<Bytes>);

impl Isolation {
    /// Works the isolated queue off until the process stops. The consumer's prefetch has to be 1.
    pub async fn run<W: Work>(self, work: Arc<W>, mut consumer: Consumer) {
        let mut survived = Survived::default();
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.shared.stopping.cancelled() => break,
                delivery = consumer.next() => delivery,
            };
            let Some(Delivery { received, acker }) = delivery else { break };
            let (received, failures) = envelope::open(received);
            match self.work_off_alone(&*work, &received, failures, &mut survived).await {
                Ok(proof) => acker.ack(proof),
                Err(Stopping) => self.keep(&*work, &received, failures, acker).await,
            }
        }
        // It may have come in the last instant.
        if let Some(Some(Delivery { received, acker })) = consumer.next().now_or_never() {
            let (received, failures) = envelope::open(received);
            self.keep(&*work, &received, failures, acker).await;
        }
        consumer.cancel().await;
    }

    /// Leaves a message in the queue without the blame: given back, it would have come back.
    async fn keep<W: Work>(&self, work: &W, received: &Received, failures: u64, acker: Acker) {
        match self.isolate(work, received, failures, Look::Away).await {
            Ok(proof) => acker.ack(proof),
            Err(Stopping) => acker.requeue(),
        }
    }

    async fn work_off_alone<W: Work>(
        &self,
        work: &W,
        received: &Received,
        failures: u64,
        survived: &mut Survived,
    ) -> Result<Confirmed, Stopping> {
        let returns = if survived.is(received) { 0 } else { received.delivery_count };
        if returns > 0 {
            let reason = "the process ended while it was at work";
            return self.failed(work, received, failures.saturating_add(returns), reason).await;
        }
        if failures > 0 {
            info!(queue = self.shared.queue, failures, "isolated message waits until another gets through");
            tokio::select! {
                () = self.shared.stopping.cancelled() => return Err(Stopping),
                () = self.shared.evidence.that_it_works() => {}
            }
        }
        match caught(work.work_off(std::slice::from_ref(received))).await {
            Ok(done) => {
                let proof = done?;
                self.shared.evidence.got_through();
                survived.0 = Some(received.body.clone());
                info!(queue = self.shared.queue, failures, "isolated message worked off");
                Ok(proof)
            }
            Err(Panicked(panic)) => {
                self.shared.evidence.failed();
                self.failed(work, received, failures + 1, &format!("it panicked: {panic}")).await
            }
        }
    }

    /// Decides about a message that failed once more.
    async fn failed<W: Work>(
        &self,
        work: &W,
        received: &Received,
        failures: u64,
        reason: &str,
    ) -> Result<Confirmed, Stopping> {
        if failures < SET_ASIDE_AFTER {
            let look = if failures == 1 { Look::Into } else { Look::Away };
            return self.isolate(work, received, failures, look).await;
        }
        let reason = format!(
            "failed {failures} times while nothing else was worked off with it; the last time {reason}"
        );
        // If this is what ended the process, it is not tried a second time.
        if failures == SET_ASIDE_AFTER
            && let Ok(given_up) = caught(work.give_up(received, &reason)).await
        {
            given_up?;
        }
        let mut message = received.forward_to(self.isolated_queue());
        if !received.exchange.is_empty() {
            message = message.header(ROUTING_KEY_HEADER, &received.routing_key);
        }
        self.set_aside(message, POISON, &reason).await
    }
}

impl Survived {
    fn is(&self, received: &Received) -> bool {
        self.0.as_ref() == Some(&received.body)
    }
}

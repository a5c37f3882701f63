//! Requests on the wire: bounded per webhook, so that one receiver cannot hurt another, and per dispatcher.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::WebhookId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bounds, and who is within them. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Lanes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    all: Arc<Semaphore>,
    per_webhook: usize,
    /// Only webhooks that somebody uses or waits for.
    lanes: Mutex<HashMap<WebhookId, Arc<Semaphore>>>,
}

/// The right to have one request to a webhook on the wire.
#[derive(Debug)]
pub(crate) struct Turn {
    _of_webhook: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
    // Dropped last: it looks whether the lane is still used.
    _lane: LaneUse,
}

#[derive(Debug)]
struct LaneUse {
    webhook: WebhookId,
    shared: Arc<Shared>,
}

impl Lanes {
    /// Bounds of requests on the wire in all and for one webhook; each at least 1.
    pub(crate) fn new(all: usize, per_webhook: usize) -> Self {
        let shared = Shared {
            all: Arc::new(Semaphore::new(all.max(1))),
            per_webhook: per_webhook.max(1),
            lanes: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits for a turn; first come, first served within a webhook. The place among all requests is taken last,
    /// so that those who wait for their webhook hold none.
    ///
    /// Cancel safe: dropping the future gives up the place in the line.
    pub(crate) async fn turn(&self, webhook: WebhookId) -> Turn {
        let lane_use = LaneUse { webhook, shared: self.shared.clone() };
        let of_webhook = acquire(self.shared.lane(webhook)).await;
        let of_all = acquire(self.shared.all.clone()).await;
        Turn { _of_webhook: of_webhook, _of_all: of_all, _lane: lane_use }
    }

    /// Webhooks with a lane.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shared.lock().len()
    }
}

#[expect(clippy::expect_used, reason = "nobody closes these semaphores")]
async fn acquire(semaphore: Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore.acquire_owned().await.expect("the semaphore is never closed")
}

impl Shared {
    fn lane(&self, webhook: WebhookId) -> Arc<Semaphore> {
        self.lock().entry(webhook).or_insert_with(|| Arc::new(Semaphore::new(self.per_webhook))).clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WebhookId, Arc<Semaphore>>> {
        // Entries are added and removed whole.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LaneUse {
    fn drop(&mut self) {
        let mut lanes = self.shared.lock();
        // Whoever holds a permit or waits for one holds the semaphore.
        if lanes.get(&self.webhook).is_some_and(|lane| Arc::strong_count(lane) == 1) {
            lanes.remove(&self.webhook);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;

    fn webhook(n: u128) -> WebhookId {
        WebhookId::from_uuid(Uuid::from_u128(n))
    }

    async fn has_to_wait(lanes: &Lanes, n: u128) -> bool {
        timeout(Duration::from_millis(20), lanes.turn(webhook(n))).await.is_err()
    }

    #[tokio::test]
    async fn a_full_webhook_waits_and_another_does_not() {
        let lanes = Lanes::new(10, 2);
        let held = (lanes.turn(webhook(1)).await, lanes.turn(webhook(1)).await);
        assert!(has_to_wait(&lanes, 1).await);
        let other = lanes.turn(webhook(2)).await;
        drop(held);
        let again = lanes.turn(webhook(1)).await;
        drop((other, again));
        assert_eq!(lanes.len(), 0, "lanes that nobody uses are forgotten");
    }

    #[tokio::test]
    async fn all_requests_together_are_bounded() {
        let lanes = Lanes::new(2, 2);
        let first = lanes.turn(webhook(1)).await;
        let _second = lanes.turn(webhook(2)).await;
        assert!(has_to_wait(&lanes, 3).await);
        drop(first);
        let _third = lanes.turn(webhook(3)).await;
    }

    #[tokio::test]
    async fn those_who_wait_for_their_webhook_take_no_place_of_others() {
        let lanes = Lanes::new(2, 1);
        let _held = lanes.turn(webhook(1)).await;
        let mut waiting = Box::pin(lanes.turn(webhook(1)));
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        let _other = lanes.turn(webhook(2)).await;
    }
}

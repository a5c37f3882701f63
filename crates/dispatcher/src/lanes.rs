//! Requests on the wire, and the bodies read for them: bounded per webhook, so that one receiver cannot hurt another, and
//! per dispatcher.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::WebhookId;
use domain::limits::MAX_MESSAGE_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much may be on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Requests in all.
    pub(crate) requests: usize,
    /// Requests to one webhook.
    pub(crate) requests_per_webhook: usize,
    /// Bytes of the bodies that are read for requests: those that do not travel with their job. One webhook's part of
    /// them is as its part of the requests, but never less than the largest body.
    pub(crate) memory: usize,
}

/// The bounds, and who is within them. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Lanes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests: Arc<Semaphore>,
    memory: Memory,
    bounds: Bounds,
    /// Only webhooks that somebody uses or waits for.
    lanes: Mutex<HashMap<WebhookId, Arc<Lane>>>,
}

/// What one webhook may use.
#[derive(Debug)]
struct Lane {
    requests: Arc<Semaphore>,
    memory: Memory,
}

/// A place among the requests of one webhook.
#[derive(Debug)]
pub(crate) struct Place {
    bytes: usize,
    permits: [OwnedSemaphorePermit; 2],
    // Dropped last: it looks whether the lane is still used.
    lane: LaneUse,
}

/// The right to have one request to a webhook on the wire, and its body in memory.
#[derive(Debug)]
pub(crate) struct Turn {
    _permits: [OwnedSemaphorePermit; 4],
    // Dropped last: it looks whether the lane is still used.
    _lane: LaneUse,
}

#[derive(Debug)]
struct LaneUse {
    webhook: WebhookId,
    /// `None` only while it is dropped.
    lane: Option<Arc<Lane>>,
    shared: Arc<Shared>,
}

impl Lanes {
    /// Nobody is on the wire. Each bound is taken as 1 at least.
    pub(crate) fn new(bounds: Bounds) -> Self {
        let shared = Shared {
            requests: Arc::new(Semaphore::new(bounds.requests.max(1))),
            memory: Memory::new(bounds.memory),
            bounds,
            lanes: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits for a place with a body of which `bytes` have to be read, 0 if it is there; first come, first served within a
    /// webhook. What is scarcer is waited for with less in hand: who waits for their webhook's part of the memory holds
    /// none of its requests, and who waits for their webhook holds nothing of what all share. The order is the same for
    /// everybody, and what is held is on its way to the end of a request, so that nobody waits for ever.
    ///
    /// Cancel safe: dropping the future gives up the place in the line.
    pub(crate) async fn place(&self, webhook: WebhookId, bytes: usize) -> Place {
        let lane = self.shared.lane(webhook);
        let (requests, memory) = (lane.requests.clone(), lane.memory.clone());
        let lane_use = LaneUse { webhook, lane: Some(lane), shared: self.shared.clone() };
        let memory_of_webhook = memory.take(bytes).await;
        let request_of_webhook = acquire(requests, 1).await;
        Place { bytes, permits: [memory_of_webhook, request_of_webhook], lane: lane_use }
    }

    /// Webhooks with a lane.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shared.lock().len()
    }
}

impl Place {
    /// Waits for what all share, first come, first served among all webhooks.
    ///
    /// Cancel safe: dropping the future gives up the place too.
    pub(crate) async fn turn(self) -> Turn {
        let Self { bytes, permits: [memory_of_webhook, request_of_webhook], lane } = self;
        let memory_of_all = lane.shared.memory.take(bytes).await;
        let request_of_all = acquire(lane.shared.requests.clone(), 1).await;
        let permits = [memory_of_webhook, request_of_webhook, memory_of_all, request_of_all];
        Turn { _permits: permits, _lane: lane }
    }
}

/// Memory for bodies, counted in KiB because a permit counts to 2^32. Clones share it.
#[derive(Debug, Clone)]
struct Memory {
    free: Arc<Semaphore>,
    kib: u32,
}

impl Memory {
    fn new(bytes: usize) -> Self {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).max(1);
        Self { free: Arc::new(Semaphore::new(kib as usize)), kib }
    }

    /// Waits for memory. A body that is larger than all of it gets all of it, and passes alone.
    async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        acquire(self.free.clone(), kib.min(self.kib)).await
    }
}

#[expect(clippy::expect_used, reason = "nobody closes these semaphores")]
async fn acquire(semaphore: Arc<Semaphore>, permits: u32) -> OwnedSemaphorePermit {
    semaphore.acquire_many_owned(permits).await.expect("the semaphore is never closed")
}

impl Bounds {
    /// What one webhook may use of the memory.
    fn memory_per_webhook(self) -> usize {
        let part = self.memory.saturating_mul(self.requests_per_webhook) / self.requests.max(1);
        part.max(MAX_MESSAGE_BYTES)
    }
}

impl Shared {
    fn lane(&self, webhook: WebhookId) -> Arc<Lane> {
        let new = || {
            Arc::new(Lane {
                requests: Arc::new(Semaphore::new(self.bounds.requests_per_webhook.max(1))),
                memory: Memory::new(self.bounds.memory_per_webhook()),
            })
        };
        self.lock().entry(webhook).or_insert_with(new).clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WebhookId, Arc<Lane>>> {
        // Entries are added and removed whole.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LaneUse {
    fn drop(&mut self) {
        let mut lanes = self.shared.lock();
        // Within the lock, or two that end together would each see the other's.
        drop(self.lane.take());
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

    const LARGEST: usize = MAX_MESSAGE_BYTES;

    impl Lanes {
        async fn turn(&self, webhook: WebhookId, bytes: usize) -> Turn {
            self.place(webhook, bytes).await.turn().await
        }
    }

    fn webhook(n: u128) -> WebhookId {
        WebhookId::from_uuid(Uuid::from_u128(n))
    }

    fn lanes(requests: usize, requests_per_webhook: usize) -> Lanes {
        Lanes::new(Bounds { requests, requests_per_webhook, memory: 0 })
    }

    async fn has_to_wait(lanes: &Lanes, n: u128, bytes: usize) -> bool {
        timeout(Duration::from_millis(20), lanes.turn(webhook(n), bytes)).await.is_err()
    }

    #[tokio::test]
    async fn a_full_webhook_waits_and_another_does_not() {
        let lanes = lanes(10, 2);
        let held = (lanes.turn(webhook(1), 0).await, lanes.turn(webhook(1), 0).await);
        assert!(has_to_wait(&lanes, 1, 0).await);
        let other = lanes.turn(webhook(2), 0).await;
        drop(held);
        let again = lanes.turn(webhook(1), 0).await;
        drop((other, again));
        assert_eq!(lanes.len(), 0, "lanes that nobody uses are forgotten");
    }

    #[tokio::test]
    async fn all_requests_together_are_bounded() {
        let lanes = lanes(2, 2);
        let first = lanes.turn(webhook(1), 0).await;
        let _second = lanes.turn(webhook(2), 0).await;
        assert!(has_to_wait(&lanes, 3, 0).await);
        drop(first);
        let _third = lanes.turn(webhook(3), 0).await;
    }

    #[tokio::test]
    async fn those_who_wait_for_their_webhook_take_no_place_of_others() {
        let lanes = lanes(2, 1);
        let _held = lanes.turn(webhook(1), 0).await;
        let mut waiting = Box::pin(lanes.turn(webhook(1), 0));
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
        let _other = lanes.turn(webhook(2), 0).await;
    }

    #[tokio::test]
    async fn bodies_to_be_read_wait_for_memory_and_nothing_waits_for_them() {
        let lanes = Lanes::new(Bounds { requests: 3, requests_per_webhook: 3, memory: 2 * LARGEST });
        let first = lanes.turn(webhook(1), LARGEST).await;
        let second = lanes.turn(webhook(2), LARGEST).await;
        let mut waiting = Box::pin(lanes.turn(webhook(3), LARGEST));
        assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err(), "all memory is used");
        assert!(!has_to_wait(&lanes, 3, 0).await, "small ones of the same webhook pass");
        assert!(!has_to_wait(&lanes, 4, 0).await, "small ones of another webhook pass");
        drop(first);
        let third = waiting.await;
        drop((second, third));
        assert_eq!(lanes.len(), 0);
    }

    #[tokio::test]
    async fn the_bodies_of_one_webhook_leave_memory_to_others_and_requests_to_their_webhook() {
        let lanes = Lanes::new(Bounds { requests: 16, requests_per_webhook: 4, memory: 8 * LARGEST });
        let _held = lanes.turn(webhook(1), LARGEST).await;
        let _more = lanes.turn(webhook(1), LARGEST / 2).await;
        let mut waiting = Box::pin(lanes.turn(webhook(1), LARGEST));
        assert!(
            timeout(Duration::from_millis(20), &mut waiting).await.is_err(),
            "a fourth of the memory is theirs"
        );
        let mut more: Vec<_> = (0..9).map(|_| Box::pin(lanes.turn(webhook(1), LARGEST))).collect();
        for waiting in &mut more {
            assert!(timeout(Duration::from_millis(5), waiting).await.is_err());
        }
        assert!(
            !has_to_wait(&lanes, 1, 0).await,
            "who waits for memory holds none of their webhook's requests"
        );
        assert!(!has_to_wait(&lanes, 2, LARGEST).await);
    }

    #[tokio::test]
    async fn a_body_larger_than_all_memory_passes_alone() {
        let lanes = Lanes::new(Bounds { requests: 9, requests_per_webhook: 9, memory: LARGEST / 2 });
        let first = lanes.turn(webhook(1), LARGEST).await;
        assert!(has_to_wait(&lanes, 2, 1).await);
        drop(first);
        let _small = lanes.turn(webhook(2), 1).await;
        assert!(has_to_wait(&lanes, 1, LARGEST).await, "it would not be alone");
    }
}

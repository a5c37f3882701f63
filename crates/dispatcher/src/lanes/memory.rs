//! Memory for the bodies that are read for requests.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory for bodies, counted in KiB because a permit counts to 2^32. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    free: Arc<Semaphore>,
    kib: u32,
}

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).max(1);
        Self { free: Arc::new(Semaphore::new(kib as usize)), kib }
    }

    /// Memory, if there is some and nobody waits for it.
    pub(super) fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_many_owned(self.permits(bytes)).ok()
    }

    /// Waits for memory. A body that is larger than all of it gets all of it, and passes alone.
    pub(super) async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        acquire(self.free.clone(), self.permits(bytes)).await
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.kib)
    }
}

/// Waits for so many permits, first come, first served.
#[expect(clippy::expect_used, reason = "nobody closes these semaphores")]
pub(super) async fn acquire(semaphore: Arc<Semaphore>, permits: u32) -> OwnedSemaphorePermit {
    semaphore.acquire_many_owned(permits).await.expect("the semaphore is never closed")
}

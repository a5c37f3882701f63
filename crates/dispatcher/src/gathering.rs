//! What is put off goes together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// A meeting place of jobs that are about to be parked for seconds: a little later they are written with one statement,
/// published in one go, and come back together. One at a time, each costs the broker and the database as much as a
/// dozen do together, and the webhook that they are put off for takes that from the others.
#[derive(Debug)]
pub(crate) struct Gathering {
    began: Instant,
    /// The time from one departure to the next.
    every: Duration,
    /// So many do not wait for it. Each holds a message meanwhile, and may hold what came with it: whoever waits for company
    /// must not keep the consumer from taking more.
    enough: usize,
    waiting: AtomicUsize,
    departure: Notify,
}

/// One of those who wait.
struct Waiting<'a>(&'a Gathering);

impl Gathering {
    /// A departure every so often; at once if `every` is nothing, or once `enough` are there.
    pub(crate) fn new(every: Duration, enough: usize) -> Self {
        let (waiting, departure) = (AtomicUsize::new(0), Notify::new());
        Self { began: Instant::now(), every, enough, waiting, departure }
    }

    /// Waits for the next departure.
    ///
    /// Cancel safe: whoever does not wait any more is not counted.
    pub(crate) async fn departure(&self) {
        if self.every.is_zero() {
            return;
        }
        let departure = self.departure.notified();
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(self);
        if before + 1 >= self.enough {
            self.departure.notify_waiters();
            return;
        }
        tokio::select! {
            () = departure => {}
            () = sleep_until(self.next()) => {}
        }
    }

    fn next(&self) -> Instant {
        let now = Instant::now();
        let since_last = (now - self.began).as_nanos() % self.every.as_nanos();
        now + self.every - Duration::from_nanos(since_last.try_into().unwrap_or(0))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    const EVERY: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn who_comes_meanwhile_goes_with_the_first() {
        let gathering = Arc::new(Gathering::new(EVERY, 10));
        let at = |after: u64| {
            let gathering = gathering.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                gathering.departure().await;
                gathering.began.elapsed().as_millis()
            }
        };
        assert_eq!(join_all([5, 30, 99, 101, 150].map(at)).await, [100, 100, 100, 200, 200]);
    }

    #[tokio::test(start_paused = true)]
    async fn enough_of_them_do_not_wait() {
        let gathering = Gathering::new(EVERY, 3);
        join_all((0..3).map(|_| gathering.departure())).await;
        assert_eq!(gathering.began.elapsed(), Duration::ZERO);
        // Those are gone.
        gathering.departure().await;
        assert_eq!(gathering.began.elapsed(), EVERY);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_wait_any_more_is_not_counted() {
        let gathering = Gathering::new(EVERY, 2);
        assert_eq!(gathering.departure().now_or_never(), None);
        gathering.departure().await;
        assert_eq!(gathering.began.elapsed(), EVERY);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_nobody_waits() {
        let gathering = Gathering::new(Duration::ZERO, 2);
        gathering.departure().await;
        assert_eq!(gathering.began.elapsed(), Duration::ZERO);
    }
}

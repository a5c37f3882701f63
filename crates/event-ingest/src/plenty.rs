//! Whether many small messages are waiting: then more of them are taken ahead.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// There are many no more when they were few for so long.
const CALM: Duration = Duration::from_secs(10);

/// The largest body of a small message: a thousand of them may be in memory without anybody noticing.
const SMALL: usize = 16 * 1024;

/// After a message that was not small, none counts as small for so long: what a consumer had taken when it ends comes back, and a
/// message that comes back often is suspected.
const WARY: Duration = Duration::from_secs(60);

/// Knows by the batches that were taken.
pub(crate) struct Plenty {
    /// So many in a batch are many.
    many: usize,
    seen: watch::Sender<Seen>,
}

/// What batches were like.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// When there was the last one of many messages.
    many_at: Option<Instant>,
    /// When there was the last one with a message that was not small.
    large_at: Option<Instant>,
}

impl Seen {
    /// Until when there are many small messages, if nothing else comes; nothing if there are not.
    fn many_small_ones_until(self) -> Option<Instant> {
        let now = Instant::now();
        let is_wary = self.large_at.is_some_and(|at| now < at + WARY);
        self.many_at.map(|at| at + CALM).filter(|until| now < *until && !is_wary)
    }
}

impl Plenty {
    /// For a consumer that takes so many messages ahead: where half of them come together, it is the consumer for which
    /// others wait.
    pub(crate) fn beyond(prefetch: u16) -> Self {
        Self { many: usize::from(prefetch / 2).max(1), seen: watch::Sender::default() }
    }

    /// Notes a batch of so many messages, the largest of so many bytes. One of a burst is of many, however many it has: they
    /// are taken faster than they come together.
    pub(crate) fn note(&self, messages: usize, largest: usize, is_of_burst: bool) {
        let is_of_many = is_of_burst || messages >= self.many;
        if is_of_many || largest > SMALL {
            let now = Some(Instant::now());
            self.seen.send_modify(|seen| {
                seen.many_at = if is_of_many { now } else { seen.many_at };
                seen.large_at = if largest > SMALL { now } else { seen.large_at };
            });
        }
    }

    /// Waits until there are many small messages.
    pub(crate) async fn begun(&self) {
        let _ = self.seen.subscribe().wait_for(|seen| seen.many_small_ones_until().is_some()).await;
    }

    /// Waits until there were few for [`CALM`], or messages are not small.
    pub(crate) async fn over(&self) {
        let mut seen = self.seen.subscribe();
        loop {
            let Some(until) = seen.borrow_and_update().many_small_ones_until() else { return };
            let _ = timeout_at(until, seen.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_small_messages_are_over_when_few_come_or_a_large_one_does() {
        let plenty = Plenty::beyond(300);
        let begun = async || tokio::time::timeout(CALM / 2, plenty.begun()).await.is_ok();
        assert!(!begun().await);
        plenty.note(149, SMALL, false);
        assert!(!begun().await);
        plenty.note(150, SMALL, false);
        assert!(begun().await);

        let start = Instant::now();
        let goes_on = async {
            tokio::time::sleep(CALM / 2).await;
            plenty.note(3, 1, true);
            plenty.note(149, 1, false);
        };
        tokio::join!(plenty.over(), goes_on);
        assert_eq!(start.elapsed(), CALM * 3 / 2);
        assert!(!begun().await);

        let start = Instant::now();
        plenty.note(1000, 1, false);
        let grows = async {
            plenty.note(1, SMALL + 1, false);
            plenty.note(1000, 1, true);
        };
        tokio::join!(plenty.over(), grows);
        assert!(start.elapsed().is_zero(), "they are not small any more");
        assert!(!begun().await, "and soon again there may be large ones");
        tokio::time::sleep(WARY).await;
        plenty.note(1000, 1, false);
        assert!(begun().await);
    }

    #[tokio::test(start_paused = true)]
    async fn where_one_is_taken_ahead_one_is_many() {
        let plenty = Plenty::beyond(1);
        plenty.note(1, 1, false);
        plenty.begun().await;
    }
}

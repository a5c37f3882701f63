//! Whether many small messages are waiting: then more of them are taken ahead.

use std::time::Duration;

use service::settings::Ingest;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// There are many no more when they were few for so long.
const CALM: Duration = Duration::from_secs(10);

/// The largest body of a small message: a thousand of them may be in memory without anybody noticing.
const SMALL: usize = 16 * 1024;

/// After a message that was not small, none counts as small for so long: what a consumer had taken when it ends comes back, and a
/// message that comes back often is suspected.
const WARY: Duration = Duration::from_secs(60);

/// Two consumers have smaller batches than one had: what is many for one to begin with is so for both while they have a quarter of
/// it, or the second would end and begin again and again.
const OF_TWO: usize = 4;

/// Knows by the batches that were taken.
pub(crate) struct Plenty {
    /// So many in a batch are many, while one consumer takes them.
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
    /// Many are half of what the first consumer takes ahead, or what a batch may have of the largest of the small.
    pub(crate) fn new(settings: &Ingest) -> Self {
        let most = (settings.batch_events as usize).min(settings.batch_bytes.0 / SMALL);
        let many = usize::from(settings.prefetch / 2).min(most).max(1);
        Self { many, seen: watch::Sender::default() }
    }

    /// Notes a batch of so many messages, the largest of so many bytes. While events are moved there are many, however small
    /// the batches are: moving is quick.
    pub(crate) fn note(&self, messages: usize, largest: usize, has_bursts: bool) {
        let has_begun = self.seen.borrow().many_small_ones_until().is_some();
        let many = if has_begun { self.many.div_ceil(OF_TWO) } else { self.many };
        let is_of_many = has_bursts || messages >= many;
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

    /// 64 messages are many, while there are many 16.
    fn plenty() -> Plenty {
        Plenty::new(&service::Settings::default().ingest)
    }

    #[tokio::test(start_paused = true)]
    async fn many_small_messages_are_over_when_few_come_or_a_large_one_does() {
        let plenty = plenty();
        let begun = async || tokio::time::timeout(CALM / 2, plenty.begun()).await.is_ok();
        assert!(!begun().await);
        plenty.note(63, SMALL, false);
        assert!(!begun().await);
        plenty.note(64, SMALL, false);
        assert!(begun().await);

        let start = Instant::now();
        let goes_on = async {
            tokio::time::sleep(CALM / 2).await;
            plenty.note(3, 1, true);
            plenty.note(15, 1, false);
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
    async fn what_two_consumers_share_is_not_over_because_their_batches_are_smaller() {
        let plenty = plenty();
        plenty.note(64, 1, false);
        for _ in 0..10 {
            let over = tokio::time::timeout(CALM / 2, plenty.over());
            assert!(over.await.is_err());
            plenty.note(16, 1, false);
        }
        plenty.over().await;
        plenty.note(63, 1, false);
        assert!(tokio::time::timeout(CALM, plenty.begun()).await.is_err(), "that is little for one");
    }

    #[test]
    fn many_are_never_more_than_a_batch_may_have() {
        let many = |change: fn(&mut Ingest)| {
            let mut settings = service::Settings::default().ingest;
            change(&mut settings);
            Plenty::new(&settings).many
        };
        assert_eq!(many(|_| {}), 64);
        assert_eq!(many(|settings| settings.prefetch = 60), 30);
        assert_eq!(many(|settings| settings.batch_events = 20), 20);
        assert_eq!(many(|settings| settings.prefetch = 1), 1);
        assert_eq!(many(|settings| settings.batch_bytes.0 = 1024), 1);
    }
}

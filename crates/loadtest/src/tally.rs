//! Who was received when, and how often.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;

/// How often the receipts are counted while waiting: they carry their own times.
const INTERVAL: Duration = Duration::from_millis(20);

/// Without a receipt for this long, what is missing is lost.
const STALL: Duration = Duration::from_secs(30);

/// One entry for every request that the whole run expects.
pub(crate) struct Tally {
    epoch: Instant,
    sent: Vec<AtomicU64>,
    received: Vec<AtomicU64>,
    times: Vec<AtomicU32>,
    /// Requests that are none of ours, or whose signature is wrong.
    invalid: AtomicU64,
}

/// What became of a phase's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Counts {
    /// Sent.
    pub(crate) expected: usize,
    /// Received at least once.
    pub(crate) received: usize,
    /// Never received.
    pub(crate) missing: usize,
    /// Receipts beyond the first.
    pub(crate) duplicates: u64,
}

impl Tally {
    pub(crate) fn new(entries: usize) -> Self {
        Self {
            epoch: Instant::now(),
            sent: (0..entries).map(|_| AtomicU64::new(0)).collect(),
            received: (0..entries).map(|_| AtomicU64::new(0)).collect(),
            times: (0..entries).map(|_| AtomicU32::new(0)).collect(),
            invalid: AtomicU64::new(0),
        }
    }

    /// Nanoseconds since the run began; never 0, which means "not yet".
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    pub(crate) fn note_sent(&self, index: usize) {
        self.sent[index].store(self.now(), Ordering::Relaxed);
    }

    /// Notes a request; `false` if there is no such entry.
    pub(crate) fn note_received(&self, index: usize) -> bool {
        let (Some(received), Some(times)) = (self.received.get(index), self.times.get(index)) else {
            return false;
        };
        if times.fetch_add(1, Ordering::Relaxed) == 0 {
            received.store(self.now(), Ordering::Release);
        }
        true
    }

    pub(crate) fn note_invalid(&self) {
        self.invalid.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn invalid(&self) -> u64 {
        self.invalid.load(Ordering::Relaxed)
    }

    pub(crate) fn counts(&self, entries: Range<usize>) -> Counts {
        let expected = entries.len();
        let times = self.times[entries].iter().map(|times| times.load(Ordering::Relaxed));
        let (mut received, mut duplicates) = (0, 0);
        for times in times {
            received += usize::from(times > 0);
            duplicates += u64::from(times.saturating_sub(1));
        }
        Counts { expected, received, missing: expected - received, duplicates }
    }

    /// Waits until everything was received once, or nothing more comes, for at most `limit`.
    pub(crate) async fn wait(&self, entries: Range<usize>, limit: Duration) -> Counts {
        let start = Instant::now();
        let (mut last, mut progress) = (self.counts(entries.clone()), Instant::now());
        loop {
            let counts = self.counts(entries.clone());
            if counts.received > last.received {
                (last, progress) = (counts, Instant::now());
            }
            if counts.missing == 0 || progress.elapsed() > STALL || start.elapsed() > limit {
                return counts;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// The time from the first send to the last receipt.
    pub(crate) fn span(&self, entries: Range<usize>) -> anyhow::Result<Duration> {
        let times = |of: &[AtomicU64]| -> Vec<u64> {
            of[entries.clone()].iter().map(|at| at.load(Ordering::Acquire)).filter(|at| *at > 0).collect()
        };
        let first = times(&self.sent).into_iter().min();
        let last = times(&self.received).into_iter().max();
        let (Some(first), Some(last)) = (first, last) else { anyhow::bail!("nothing was received") };
        ensure!(last > first, "the last receipt was before the first send");
        Ok(Duration::from_nanos(last - first))
    }

    /// The time from send to receipt of every entry that was received.
    pub(crate) fn latencies(&self, entries: Range<usize>) -> Vec<Duration> {
        let pairs = self.sent[entries.clone()].iter().zip(&self.received[entries]);
        let pairs =
            pairs.map(|(sent, received)| (sent.load(Ordering::Acquire), received.load(Ordering::Acquire)));
        pairs
            .filter(|(sent, received)| *sent > 0 && *received > 0)
            .map(|(sent, received)| Duration::from_nanos(received.saturating_sub(sent)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_duplicate_receipts_are_counted() {
        let tally = Tally::new(4);
        for index in [0, 1, 1, 1] {
            tally.note_sent(index);
            assert!(tally.note_received(index));
        }
        assert!(!tally.note_received(4));
        let counts = tally.counts(0..3);
        assert_eq!(counts, Counts { expected: 3, received: 2, missing: 1, duplicates: 2 });
        assert_eq!(tally.latencies(0..4).len(), 2);
    }
}

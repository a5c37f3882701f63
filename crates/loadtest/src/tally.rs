//! Who was received when, and how often.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How often the receipts are looked at while waiting: they carry their own times.
const INTERVAL: Duration = Duration::from_millis(20);

/// Without a receipt for this long, what is missing is lost.
const STALL: Duration = Duration::from_secs(45);

/// Every event of a scenario, and every delivery that has to come of it: one for each webhook of the event's user.
///
/// Webhook `w` is user `w / fan_out`'s; users from `subscribed` on have none.
pub(crate) struct Tally {
    epoch: Instant,
    fan_out: usize,
    subscribed: usize,
    events: Vec<Sent>,
    deliveries: Vec<Receipts>,
    /// Deliveries received at least once.
    received: AtomicUsize,
    /// Requests that are none of ours, went to somebody else's webhook, or whose signature is wrong.
    invalid: AtomicU64,
}

struct Sent {
    /// Nanoseconds since the epoch; 0 is "not yet".
    at: AtomicU64,
    user: AtomicUsize,
}

struct Receipts {
    /// Nanoseconds from the epoch to the first; 0 is "not yet".
    first: AtomicU64,
    times: AtomicU32,
}

/// What became of a phase's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Deliveries that have to come.
    pub(crate) expected: usize,
    /// Received at least once.
    pub(crate) received: usize,
    /// Never received.
    pub(crate) missing: usize,
    /// Receipts beyond the first.
    pub(crate) duplicates: u64,
}

/// One delivery that was received: since the tally's epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    pub(crate) sent: Duration,
    pub(crate) received: Duration,
}

impl Received {
    pub(crate) fn latency(self) -> Duration {
        self.received.saturating_sub(self.sent)
    }
}

impl Tally {
    /// Of events to users of whom `subscribed` have `fan_out` webhooks each.
    pub(crate) fn new(events: usize, fan_out: usize, subscribed: usize) -> Self {
        let sent = || Sent { at: AtomicU64::new(0), user: AtomicUsize::new(usize::MAX) };
        let receipts = || Receipts { first: AtomicU64::new(0), times: AtomicU32::new(0) };
        Self {
            epoch: Instant::now(),
            fan_out,
            subscribed,
            events: (0..events).map(|_| sent()).collect(),
            deliveries: (0..events * fan_out).map(|_| receipts()).collect(),
            received: AtomicUsize::new(0),
            invalid: AtomicU64::new(0),
        }
    }

    /// The time since the epoch.
    pub(crate) fn elapsed(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// The number of webhooks.
    pub(crate) fn webhooks(&self) -> usize {
        self.subscribed * self.fan_out
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// Notes that an event is about to be sent to a user.
    pub(crate) fn note_sent(&self, event: usize, user: usize) {
        self.events[event].user.store(user, Ordering::Relaxed);
        self.events[event].at.store(self.now(), Ordering::Release);
    }

    /// Notes a request; `false` if that event does not concern that webhook.
    pub(crate) fn note_received(&self, event: usize, webhook: usize) -> bool {
        let Some(sent) = self.events.get(event) else { return false };
        if sent.at.load(Ordering::Acquire) == 0 || sent.user.load(Ordering::Relaxed) != webhook / self.fan_out
        {
            return false;
        }
        let delivery = &self.deliveries[event * self.fan_out + webhook % self.fan_out];
        if delivery.times.fetch_add(1, Ordering::Relaxed) == 0 {
            delivery.first.store(self.now(), Ordering::Release);
            self.received.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    pub(crate) fn note_invalid(&self) {
        self.invalid.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn invalid(&self) -> u64 {
        self.invalid.load(Ordering::Relaxed)
    }

    /// Whether anything has to come of an event. One that was not sent counts as expected: it is missing.
    fn is_expected(&self, event: usize) -> bool {
        let user = self.events[event].user.load(Ordering::Relaxed);
        user == usize::MAX || user < self.subscribed
    }

    fn deliveries(&self, event: usize) -> &[Receipts] {
        &self.deliveries[event * self.fan_out..(event + 1) * self.fan_out]
    }

    pub(crate) fn counts(&self, events: Range<usize>) -> Counts {
        let mut counts = Counts { expected: 0, received: 0, missing: 0, duplicates: 0 };
        for delivery in events.filter(|event| self.is_expected(*event)).flat_map(|it| self.deliveries(it)) {
            let times = delivery.times.load(Ordering::Relaxed);
            counts.expected += 1;
            counts.received += usize::from(times > 0);
            counts.duplicates += u64::from(times.saturating_sub(1));
        }
        counts.missing = counts.expected - counts.received;
        counts
    }

    /// Waits until everything was received once, or nothing more comes, for at most `limit`.
    pub(crate) async fn wait(&self, events: Range<usize>, limit: Duration) -> Counts {
        let start = Instant::now();
        let (mut last, mut progress) = (self.received.load(Ordering::Relaxed), Instant::now());
        // Everything before this event was received.
        let mut next = events.start;
        loop {
            while next < events.end && self.is_received(next) {
                next += 1;
            }
            let received = self.received.load(Ordering::Relaxed);
            if received > last {
                (last, progress) = (received, Instant::now());
            }
            if next == events.end || progress.elapsed() > STALL || start.elapsed() > limit {
                return self.counts(events);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn is_received(&self, event: usize) -> bool {
        !self.is_expected(event)
            || self.deliveries(event).iter().all(|delivery| delivery.first.load(Ordering::Acquire) > 0)
    }

    /// When the first of these events was sent.
    pub(crate) fn first_sent(&self, events: Range<usize>) -> anyhow::Result<Duration> {
        let sent = self.events[events].iter().map(|event| event.at.load(Ordering::Acquire));
        let first = sent.filter(|at| *at > 0).min();
        first.map(Duration::from_nanos).ok_or_else(|| anyhow::anyhow!("nothing was sent"))
    }

    /// The time from the first send to the last receipt.
    pub(crate) fn span(&self, events: Range<usize>) -> anyhow::Result<Duration> {
        let first = self.first_sent(events.clone())?;
        let last = self.received_of(events).map(|delivery| delivery.received).max();
        let last = last.ok_or_else(|| anyhow::anyhow!("nothing was received"))?;
        let span = last.checked_sub(first).filter(|span| !span.is_zero());
        span.ok_or_else(|| anyhow::anyhow!("the last receipt was before the first send"))
    }

    /// Every delivery of these events that was received.
    pub(crate) fn received_of(&self, events: Range<usize>) -> impl Iterator<Item = Received> {
        events.flat_map(move |event| {
            let sent = Duration::from_nanos(self.events[event].at.load(Ordering::Acquire));
            self.deliveries(event).iter().filter_map(move |delivery| {
                let first = delivery.first.load(Ordering::Acquire);
                (first > 0).then(|| Received { sent, received: Duration::from_nanos(first) })
            })
        })
    }

    /// The time from send to receipt of every delivery that was received.
    pub(crate) fn latencies(&self, events: Range<usize>) -> Vec<Duration> {
        self.received_of(events).map(Received::latency).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_duplicate_receipts_are_counted() {
        let tally = Tally::new(4, 1, 1);
        for event in [0, 1, 2] {
            tally.note_sent(event, 0);
        }
        for event in [0, 1, 1, 1] {
            assert!(tally.note_received(event, 0));
        }
        assert!(!tally.note_received(4, 0));
        let counts = tally.counts(0..3);
        assert_eq!(counts, Counts { expected: 3, received: 2, missing: 1, duplicates: 2 });
        assert_eq!(tally.latencies(0..4).len(), 2);
    }

    #[test]
    fn an_event_is_expected_at_every_webhook_of_its_user_and_nowhere_else() {
        let tally = Tally::new(2, 3, 2);
        assert!(!tally.note_received(0, 3), "nothing was sent yet");
        tally.note_sent(0, 1);
        tally.note_sent(1, 2);
        assert!(!tally.note_received(0, 2), "it is user 0's webhook");
        for webhook in [3, 4, 5] {
            assert!(tally.note_received(0, webhook));
        }
        let counts = tally.counts(0..2);
        let expected = Counts { expected: 3, received: 3, missing: 0, duplicates: 0 };
        assert_eq!(counts, expected, "user 2 has no webhook");
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_receipt_and_not_before() {
        let tally = Tally::new(2, 2, 1);
        tally.note_sent(0, 0);
        tally.note_sent(1, 0);
        for (event, webhook) in [(1, 0), (1, 1), (0, 1)] {
            assert!(tally.note_received(event, webhook));
        }
        assert_eq!(tally.wait(0..2, Duration::from_millis(60)).await.missing, 1);
        let last = async {
            tokio::time::sleep(2 * INTERVAL).await;
            tally.note_received(0, 0);
        };
        let (counts, ()) = tokio::join!(tally.wait(0..2, Duration::from_secs(60)), last);
        assert_eq!(counts.missing, 0);
    }
}

//! Which events come in bursts: they are stored after those of other users.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::UserId;
use domain::event::AcceptedEvent;
use service::settings::Ingest;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// A burst is over when nothing of one has come for so long.
const CALM: Duration = Duration::from_secs(10);

/// The largest body of a small message: a thousand of them may be in memory without anybody noticing.
const SMALL: usize = 16 * 1024;

/// After a message that was not small, none counts as small for so long: what a consumer had taken when it ends comes back, and a
/// message that comes back often is suspected.
const WARY: Duration = Duration::from_secs(60);

/// Tells which events come in bursts.
pub(crate) struct Bursts {
    bounds: Bounds,
    under_way: UnderWay,
    going: AtomicBool,
    seen: watch::Sender<Seen>,
}

/// What batches were like.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// When there was the last one with events in bursts.
    burst_at: Option<Instant>,
    /// When there was the last one with a message that was not small.
    large_at: Option<Instant>,
}

impl Seen {
    /// When the burst of small messages will be over that goes on now, if nothing else comes; nothing if none does.
    fn small_ones_until(self) -> Option<Instant> {
        let now = Instant::now();
        let is_wary = self.large_at.is_some_and(|at| now < at + WARY);
        self.burst_at.map(|at| at + CALM).filter(|until| now < *until && !is_wary)
    }
}

/// What a burst is.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Events waiting, from which on what a user has of them says something.
    events: usize,
    /// Percent of them that a user may have.
    share: usize,
}

/// What is worked off: it was waiting together, as far as anybody can tell.
type UnderWay = Arc<Mutex<Vec<Arc<Counts>>>>;

/// Events of a batch, and how many of them each user has.
#[derive(Debug, Default)]
struct Counts {
    events: usize,
    of: HashMap<UserId, usize>,
}

/// Keeps a batch among what is under way, until this is dropped.
#[derive(Debug)]
#[must_use = "a batch is under way only while it is kept"]
pub(crate) struct Counted {
    counts: Arc<Counts>,
    under_way: UnderWay,
}

impl Bursts {
    /// With the configured bounds.
    pub(crate) fn new(settings: &Ingest) -> Self {
        Self {
            bounds: Bounds { events: settings.burst_batch.into(), share: usize::from(settings.burst_share) },
            under_way: UnderWay::default(),
            going: AtomicBool::new(false),
            seen: watch::Sender::default(),
        }
    }

    /// Of each of a batch's events whether it comes in a burst. The largest of its messages has so many bytes.
    pub(crate) fn among<'a>(
        &self,
        events: impl Iterator<Item = &'a AcceptedEvent>,
        largest: usize,
    ) -> (Vec<bool>, Option<Counted>) {
        let recipients: Vec<_> = events.map(|event| event.recipients.as_slice()).collect();
        if self.bounds.share >= 100 {
            return (vec![false; recipients.len()], None);
        }
        let counted = Counted::new(&recipients, self.under_way.clone());
        let bursts = self.bounds.bursts(&recipients, &locked(&self.under_way));
        self.note(bursts.contains(&true), recipients.len() >= 128, largest);
        (bursts, Some(counted))
    }

    fn note(&self, has_bursts: bool, plenty: bool, largest: usize) {
        self.going.store(has_bursts, Ordering::Relaxed);
        if has_bursts || plenty || largest > SMALL {
            let now = Some(Instant::now());
            self.seen.send_modify(|seen| {
                seen.burst_at = if has_bursts || plenty { now } else { seen.burst_at };
                seen.large_at = if largest > SMALL { now } else { seen.large_at };
            });
        }
    }

    /// Waits until there are bursts of small messages.
    pub(crate) async fn of_small_messages(&self) {
        let _ = self.seen.subscribe().wait_for(|seen| seen.small_ones_until().is_some()).await;
    }

    /// Waits until there were no bursts for [`CALM`], or messages are not small.
    pub(crate) async fn over(&self) {
        let mut seen = self.seen.subscribe();
        loop {
            let Some(until) = seen.borrow_and_update().small_ones_until() else { return };
            let _ = timeout_at(until, seen.changed()).await;
        }
    }

    /// Whether the last batch had events in bursts: what is moved is soon done, and the next batch need not wait for it.
    pub(crate) fn are_going(&self) -> bool {
        self.going.load(Ordering::Relaxed)
    }
}

impl Counts {
    fn of(events: &[&[UserId]]) -> Self {
        let mut counts = Self { events: events.len(), of: HashMap::new() };
        for user in events.iter().flat_map(|recipients| recipients.iter()) {
            match counts.of.get_mut(user) {
                Some(count) => *count += 1,
                None => {
                    counts.of.insert(user.clone(), 1);
                }
            }
        }
        counts
    }
}

impl Counted {
    fn new(events: &[&[UserId]], under_way: UnderWay) -> Self {
        let counts = Arc::new(Counts::of(events));
        locked(&under_way).push(counts.clone());
        Self { counts, under_way }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        locked(&self.under_way).retain(|counts| !Arc::ptr_eq(counts, &self.counts));
    }
}

fn locked(under_way: &UnderWay) -> std::sync::MutexGuard<'_, Vec<Arc<Counts>>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bounds {
    /// Of each of these events, by its recipients, whether everybody whom it concerns has more than the share of everything that is
    /// under way, these included. An event that somebody waits for who gets little is in no burst.
    fn bursts(self, events: &[&[UserId]], under_way: &[Arc<Counts>]) -> Vec<bool> {
        let all: usize = under_way.iter().map(|counts| counts.events).sum();
        if all < self.events {
            return vec![false; events.len()];
        }
        let count_of = |user| under_way.iter().filter_map(|counts| counts.of.get(user)).sum::<usize>();
        let mut known: HashMap<&UserId, bool> = HashMap::new();
        let mut has_more =
            |user| *known.entry(user).or_insert_with(|| count_of(user) * 100 > all * self.share);
        events.iter().map(|recipients| recipients.iter().all(&mut has_more)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { events: 8, share: 25 };

    /// Which of the events are in bursts, each given by its recipients, a letter for each.
    fn bursts(events: &str) -> String {
        behind(&[], events)
    }

    /// The same, with other batches under way.
    fn behind(others: &[&str], events: &str) -> String {
        let under_way = UnderWay::default();
        let counted = |events: &[Vec<UserId>]| {
            Counted::new(&events.iter().map(Vec::as_slice).collect::<Vec<_>>(), under_way.clone())
        };
        let _others: Vec<_> = others.iter().map(|events| counted(&parsed(events))).collect();
        drop(counted(&parsed("b b b b b b b b b b b b b b b b b b b b b b b b")));
        let events = parsed(events);
        let _counted = counted(&events);
        let events: Vec<_> = events.iter().map(Vec::as_slice).collect();
        let bursts = BOUNDS.bursts(&events, &locked(&under_way));
        bursts.into_iter().map(|is_in| if is_in { '!' } else { '.' }).collect()
    }

    fn parsed(events: &str) -> Vec<Vec<UserId>> {
        let users =
            |event: &str| event.chars().map(|user| UserId::parse(&user.to_string()).unwrap()).collect();
        events.split(' ').map(users).collect()
    }

    #[test]
    fn whoever_has_more_than_their_share_of_what_waits_has_a_burst() {
        assert_eq!(bursts("a a a a a a a b"), "!!!!!!!.");
        assert_eq!(bursts("a a a b b b c d"), "!!!!!!..", "two of them");
        assert_eq!(bursts("a a b b c c d d"), "........", "everybody has their share");
    }

    #[test]
    fn of_little_that_waits_nothing_is_said() {
        assert_eq!(bursts("a a a a a a a"), ".......");
        assert_eq!(bursts("a a a a a a a a"), "!!!!!!!!");
    }

    #[test]
    fn an_event_goes_with_the_one_recipient_who_has_little() {
        assert_eq!(bursts("ab a a a a a a a"), ".!!!!!!!");
        assert_eq!(bursts("ab ab ab a a a a a"), "!!!!!!!!", "both have much");
    }

    #[test]
    fn what_is_under_way_counts_and_what_is_over_does_not() {
        assert_eq!(behind(&["a a a"], "a a a a b"), "!!!!.");
        assert_eq!(behind(&["a a a"], "b a"), "..", "little in all");
        assert_eq!(behind(&["a a a a", "a a c c"], "b a"), ".!");
        assert_eq!(behind(&["c d e f g h"], "b a"), "..");
    }

    #[tokio::test(start_paused = true)]
    async fn bursts_of_small_messages_are_over_when_none_comes_or_a_large_one_does() {
        let bursts = Bursts::new(&service::Settings::default().ingest);
        let begun = async || tokio::time::timeout(CALM / 2, bursts.of_small_messages()).await.is_ok();
        assert!(!begun().await);
        bursts.note(true, SMALL);
        assert!(begun().await);

        let start = Instant::now();
        let goes_on = async {
            tokio::time::sleep(CALM / 2).await;
            bursts.note(true, 1);
            bursts.note(false, 1);
        };
        tokio::join!(bursts.over(), goes_on);
        assert_eq!(start.elapsed(), CALM * 3 / 2);
        assert!(!begun().await);

        let start = Instant::now();
        bursts.note(true, 1);
        let grows = async {
            bursts.note(false, SMALL + 1);
            bursts.note(true, 1);
        };
        tokio::join!(bursts.over(), grows);
        assert!(start.elapsed().is_zero(), "they are not small any more");
        assert!(!begun().await, "and soon again there may be large ones");
        tokio::time::sleep(WARY).await;
        bursts.note(true, 1);
        assert!(begun().await);
    }
}

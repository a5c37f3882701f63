//! Which events come in bursts: they are stored after those of other users.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use domain::UserId;
use domain::event::AcceptedEvent;
use service::settings::Ingest;

/// Tells which events come in bursts.
pub(crate) struct Bursts {
    bounds: Bounds,
    under_way: UnderWay,
    going: AtomicBool,
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
        }
    }

    /// Of each of a batch's events whether it comes in a burst.
    pub(crate) fn among<'a>(
        &self,
        events: impl Iterator<Item = &'a AcceptedEvent>,
    ) -> (Vec<bool>, Option<Counted>) {
        let recipients: Vec<_> = events.map(|event| event.recipients.as_slice()).collect();
        if self.bounds.share >= 100 {
            return (vec![false; recipients.len()], None);
        }
        let counted = Counted::new(&recipients, self.under_way.clone());
        let bursts = self.bounds.bursts(&recipients, &locked(&self.under_way));
        self.going.store(bursts.contains(&true), Ordering::Relaxed);
        (bursts, Some(counted))
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
}

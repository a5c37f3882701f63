//! What happens when, in virtual time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// What is to happen, the earliest first; of the same time in the order in which it was noted.
pub(super) struct Agenda<T> {
    now: Duration,
    noted: u64,
    entries: BinaryHeap<Entry<T>>,
}

struct Entry<T> {
    at: Duration,
    number: u64,
    what: T,
}

impl<T> Agenda<T> {
    pub(super) fn new() -> Self {
        Self { now: Duration::ZERO, noted: 0, entries: BinaryHeap::new() }
    }

    /// Since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.now
    }

    pub(super) fn note(&mut self, at: Duration, what: T) {
        self.noted += 1;
        self.entries.push(Entry { at, number: self.noted, what });
    }

    pub(super) fn note_in(&mut self, time: Duration, what: T) {
        self.note(self.now + time, what);
    }

    /// Goes on to what happens next; `None` if that is after `end`.
    pub(super) fn advance(&mut self, end: Duration) -> Option<T> {
        if self.entries.peek()?.at > end {
            return None;
        }
        let entry = self.entries.pop()?;
        self.now = entry.at;
        Some(entry.what)
    }
}

/// The heap gives its greatest entry first: that is the earliest.
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_happens_first_and_at_the_same_time_what_was_noted_first() {
        let mut agenda = Agenda::new();
        agenda.note(Duration::from_secs(2), 'c');
        agenda.note(Duration::from_secs(1), 'a');
        ('d'..='p').for_each(|what| agenda.note(Duration::from_secs(2), what));
        let end = Duration::from_secs(2);
        assert_eq!((agenda.advance(end), agenda.now()), (Some('a'), Duration::from_secs(1)));
        agenda.note_in(Duration::from_millis(500), 'b');
        agenda.note_in(Duration::from_millis(1001), 'z');
        let rest: String = std::iter::from_fn(|| agenda.advance(end)).collect();
        assert_eq!((rest.as_str(), agenda.now()), ("bcdefghijklmnop", end));
    }
}

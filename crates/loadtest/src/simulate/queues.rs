//! The broker's queues.

use std::collections::VecDeque;
use std::time::Duration;

/// A queue whose messages go to whichever consumer has its turn and may take one more.
pub(super) struct Queue<T> {
    ready: VecDeque<T>,
    next: usize,
    /// The most that were ready and not taken, since it was asked for last.
    most_lately: usize,
    pub(super) most: usize,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self { ready: VecDeque::new(), next: 0, most_lately: 0, most: 0 }
    }

    pub(super) fn put(&mut self, message: T) {
        self.ready.push_back(message);
    }

    /// The next message, and which of `consumers` takes it: the next one in turn that may. What nobody may take is ready.
    pub(super) fn take(&mut self, consumers: usize, may_take: impl Fn(usize) -> bool) -> Option<(usize, T)> {
        if self.ready.is_empty() {
            return None;
        }
        let in_turn = (0..consumers).map(|step| (self.next + step) % consumers);
        let Some(consumer) = in_turn.into_iter().find(|consumer| may_take(*consumer)) else {
            self.most_lately = self.most_lately.max(self.ready.len());
            self.most = self.most.max(self.ready.len());
            return None;
        };
        self.next = (consumer + 1) % consumers;
        self.ready.pop_front().map(|message| (consumer, message))
    }

    /// The most messages that were ready and not taken since this was asked for last.
    pub(super) fn most_lately(&mut self) -> usize {
        std::mem::replace(&mut self.most_lately, self.ready.len())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.ready.iter()
    }
}

/// A queue that nobody consumes: what is in it comes out after a time.
pub(super) struct DelayQueue<T> {
    pub(super) name: String,
    pub(super) delay: Duration,
    waiting: VecDeque<(Duration, T)>,
    pub(super) most: usize,
}

impl<T> DelayQueue<T> {
    pub(super) fn new(stage: &str, delay: Duration) -> Self {
        let name = format!("{stage}.{}s", delay.as_secs());
        Self { name, delay, waiting: VecDeque::new(), most: 0 }
    }

    /// Puts a message in; whether it is the first, so that somebody has to look when it is due.
    pub(super) fn put(&mut self, message: T, now: Duration) -> bool {
        self.waiting.push_back((now + self.delay, message));
        self.most = self.most.max(self.waiting.len());
        self.waiting.len() == 1
    }

    /// The first message, if it is due.
    pub(super) fn due(&mut self, now: Duration) -> Option<T> {
        let is_due = self.next_due().is_some_and(|due| due <= now);
        if is_due { self.waiting.pop_front().map(|(_, message)| message) } else { None }
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.waiting.front().map(|(due, _)| *due)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|(_, message)| message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumers_take_in_turn_and_whoever_has_enough_is_passed_over() {
        let mut queue = Queue::new();
        (0..5).for_each(|message| queue.put(message));
        let taken: Vec<_> = std::iter::from_fn(|| queue.take(3, |consumer| consumer != 1)).collect();
        assert_eq!(taken, [(0, 0), (2, 1), (0, 2), (2, 3), (0, 4)]);
        queue.put(5);
        assert_eq!(queue.take(3, |_| false), None);
        assert_eq!((queue.most_lately(), queue.most, queue.iter().count()), (1, 1, 1));
    }

    #[test]
    fn what_is_delayed_comes_out_in_its_order_when_it_is_due() {
        let at = Duration::from_secs;
        let mut queue = DelayQueue::new("retry", at(60));
        assert!(queue.put('a', at(1)));
        assert!(!queue.put('b', at(2)));
        assert_eq!((queue.name.as_str(), queue.len(), queue.most), ("retry.60s", 2, 2));
        assert_eq!((queue.due(at(60)), queue.due(at(61)), queue.due(at(61))), (None, Some('a'), None));
        assert_eq!((queue.next_due(), queue.due(at(70))), (Some(at(62)), Some('b')));
    }
}

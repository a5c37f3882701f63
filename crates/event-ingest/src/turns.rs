//! Who goes first.

use std::time::Duration;

use service::Clock;
use store::Store;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The longest that events in bursts wait for others: they come to their end whatever else there is.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Between two looks at what the dispatchers have to do; more where looking takes long.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looking takes no more than one of so many parts of the time.
const LOOKING: u32 = 4;

/// What the dispatchers were handed before, and have not done yet, waits for something else than its turn: a dispatcher, for example.
const LATELY: Duration = Duration::from_secs(10);

/// When events in bursts have their turn.
pub(crate) struct Pace {
    pub(crate) turns: Turns,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    /// Events that the dispatchers have to do at least: what is handed to them beyond is in the way of others' events.
    pub(crate) ahead: u32,
}

impl Pace {
    /// Waits until few events are under way that go first, and the dispatchers have little to do; for at most [`LONGEST_WAIT`].
    pub(crate) async fn wait(&self) {
        turn(&self.turns, || self.are_dispatchers_busy()).await;
    }

    async fn are_dispatchers_busy(&self) -> bool {
        let now = self.clock.now();
        // Other replicas' clocks may be ahead, and what waits for later is not in the way.
        let waiting = self.store.count_waiting_events(now - LATELY..now + LATELY, self.ahead).await;
        // Nobody knows: storing will tell what is wrong.
        waiting.is_ok_and(|waiting| waiting >= self.ahead)
    }
}

async fn turn<Busy: Future<Output = bool>>(turns: &Turns, are_dispatchers_busy: impl Fn() -> Busy) {
    let end = Instant::now() + LONGEST_WAIT;
    let _ = timeout_at(end, turns.wait()).await;
    loop {
        let looked = Instant::now();
        // To its end: a statement given up goes on in the database.
        if !are_dispatchers_busy().await {
            return;
        }
        let next = Instant::now() + LOOK_EVERY.max(looked.elapsed() * LOOKING);
        if next >= end {
            return sleep_until(end).await;
        }
        sleep_until(next).await;
    }
}

/// So few events are in nobody's way: the process has time for others.
const FEW: usize = 32;

/// Events under way that go first. Clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Turns(watch::Sender<usize>);

impl Default for Turns {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Turns {
    /// So many events are under way that go first, until this is dropped.
    pub(crate) fn go_first(&self, events: usize) -> Going {
        self.0.send_modify(|going| *going += events);
        Going { events, all: self.0.clone() }
    }

    /// Waits until there are [`FEW`] under way.
    async fn wait(&self) {
        let _ = self.0.subscribe().wait_for(|going| *going <= FEW).await;
    }
}

/// Events that go first.
#[derive(Debug)]
#[must_use = "others wait only while it is kept"]
pub(crate) struct Going {
    events: usize,
    all: watch::Sender<usize>,
}

impl Drop for Going {
    fn drop(&mut self) {
        self.all.send_modify(|going| *going -= self.events);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::sleep;

    use super::*;

    /// How long one waits with these under way, of which the last is over every fifth of the longest wait, and dispatchers that
    /// have too much to do when they are looked at so often.
    async fn waits(mut under_way: Vec<usize>, busy: usize) -> Duration {
        let (turns, looks, start) = (Turns::default(), Cell::new(0), Instant::now());
        let mut going: Vec<_> = under_way.drain(..).map(|events| turns.go_first(events)).collect();
        let ending = async {
            while let Some(one) = going.pop() {
                sleep(LONGEST_WAIT / 5).await;
                drop(one);
            }
        };
        let waiting = async {
            turn(&turns, async || looks.replace(looks.get() + 1) < busy).await;
            start.elapsed()
        };
        tokio::join!(waiting, ending).0
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_last_waits_until_few_are_under_way_that_go_first() {
        assert!(waits(vec![], 0).await.is_zero());
        assert!(waits(vec![FEW / 2, FEW / 2], 0).await.is_zero());
        assert_eq!(waits(vec![FEW, FEW, 1], 0).await, LONGEST_WAIT / 5 * 2);
        assert_eq!(waits(vec![FEW + 1, 1], 0).await, LONGEST_WAIT / 5 * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_last_waits_until_the_dispatchers_have_little_to_do() {
        assert_eq!(waits(vec![], 3).await, LOOK_EVERY * 3);
        assert_eq!(waits(vec![FEW + 1], 3).await, LONGEST_WAIT / 5 + LOOK_EVERY * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        assert_eq!(waits(vec![FEW + 1; 9], 0).await, LONGEST_WAIT);
        assert_eq!(waits(vec![], usize::MAX).await, LONGEST_WAIT);
    }
}

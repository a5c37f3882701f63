//! Who goes first.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// The longest that events in bursts wait for others: they come to their end whatever else there is.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// What is under way that goes first. Clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Turns(watch::Sender<usize>);

impl Default for Turns {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Turns {
    /// Something is under way that goes first, until this is dropped.
    pub(crate) fn go_first(&self) -> Going {
        self.0.send_modify(|going| *going += 1);
        Going(self.0.clone())
    }

    /// Waits until nothing is under way that goes first, for at most [`LONGEST_WAIT`].
    pub(crate) async fn wait(&self) {
        let _ = timeout(LONGEST_WAIT, self.0.subscribe().wait_for(|going| *going == 0)).await;
    }
}

/// Something that goes first.
#[derive(Debug)]
#[must_use = "others wait only while it is kept"]
pub(crate) struct Going(watch::Sender<usize>);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.send_modify(|going| *going -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_last_waits_for_everything_that_goes_first_and_no_longer_than_that() {
        let turns = Turns::default();
        let start = Instant::now();
        turns.wait().await;
        assert!(start.elapsed().is_zero(), "nothing is under way");

        let mut going = vec![turns.go_first(), turns.go_first()];
        let ending = async {
            while let Some(one) = going.pop() {
                tokio::time::sleep(LONGEST_WAIT / 4).await;
                drop(one);
            }
        };
        tokio::join!(turns.wait(), ending);
        assert_eq!(start.elapsed(), LONGEST_WAIT / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let turns = Turns::default();
        let _going = turns.go_first();
        let start = Instant::now();
        turns.wait().await;
        assert_eq!(start.elapsed(), LONGEST_WAIT);
    }
}

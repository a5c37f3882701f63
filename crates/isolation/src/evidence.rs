//! Whether the stage works.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Without failures for so long, a message is tried again although nothing else got through: there may be nothing
/// else.
const CALM: Duration = Duration::from_secs(10);

/// Whether a message got through in this process since the last failure.
#[derive(Debug)]
pub(crate) struct Evidence(watch::Sender<bool>);

impl Default for Evidence {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Evidence {
    /// A message was worked off.
    pub(crate) fn got_through(&self) {
        self.0.send_if_modified(|got_through| !std::mem::replace(got_through, true));
    }

    /// A message failed.
    pub(crate) fn failed(&self) {
        self.0.send_replace(false);
    }

    /// Waits for evidence that the stage works, for at most [`CALM`].
    pub(crate) async fn that_it_works(&self) {
        let _ = timeout(CALM, self.0.subscribe().wait_for(|got_through| *got_through)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_got_through_before_the_last_failure_says_nothing() {
        let evidence = Evidence::default();
        evidence.got_through();
        evidence.failed();
        let start = tokio::time::Instant::now();
        evidence.that_it_works().await;
        assert_eq!(start.elapsed(), CALM);

        evidence.got_through();
        let start = tokio::time::Instant::now();
        evidence.that_it_works().await;
        assert!(start.elapsed().is_zero());
    }
}

//! Going down: stop taking work, finish what is under way, within a bound.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// Kept back at the end of the grace period for the runtime's threads.
pub(crate) const ENDING: Duration = Duration::from_millis(500);

/// Kept back before that: connections close after what is under way has ended.
const CLOSING: Duration = Duration::from_secs(2);

/// What of a grace period is for the work that is under way when it begins: all but 2.5 s. Short ones are divided.
pub fn draining(grace: Duration) -> Duration {
    grace.saturating_sub(CLOSING.min(grace / 2) + ENDING.min(grace / 8))
}

/// The state of going down: one deadline, counted from the signal, whatever the database and the broker do. Clones
/// share it.
#[derive(Debug, Clone)]
pub struct Shutdown {
    soft: CancellationToken,
    tasks: TaskTracker,
    grace: Duration,
    /// The start of the grace period.
    begun: Arc<OnceLock<Instant>>,
}

impl Shutdown {
    /// Listens to SIGTERM and SIGINT. A second signal ends the process at once.
    ///
    /// # Errors
    /// The system does not let signals be listened to.
    pub fn install(grace: Duration) -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::new(grace);
        let soft = shutdown.soft.clone();
        tokio::spawn(async move {
            let mut signalled = async || {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            signalled().await;
            info!("stopping: taking no more work");
            soft.cancel();
            signalled().await;
            info!("stopping at once");
            std::process::exit(1);
        });
        Ok(shutdown)
    }

    fn new(grace: Duration) -> Self {
        Self { soft: CancellationToken::new(), tasks: TaskTracker::new(), grace, begun: Arc::default() }
    }

    /// Cancelled when no more work may be taken.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Tracks the tasks that have to end before the process does.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// The longest wait for what is under way.
    pub fn draining(&self) -> Duration {
        draining(self.grace)
    }

    /// What is left for closing connections.
    pub fn remaining(&self) -> Duration {
        self.left(self.grace.saturating_sub(ENDING.min(self.grace / 8)))
    }

    /// What is left of a time that began with the signal; where the service ends by itself, with the first call.
    fn left(&self, time: Duration) -> Duration {
        let begun = *self.begun.get_or_init(Instant::now);
        (begun + time).saturating_duration_since(Instant::now())
    }

    /// Waits until the tracked tasks have ended, for what is left of [`Shutdown::draining`].
    pub async fn drained(&self) {
        self.tasks.close();
        if timeout(self.left(self.draining()), self.tasks.wait()).await.is_err() {
            warn!(
                tasks = self.tasks.len(),
                "grace period over; leaving unfinished work to be delivered again"
            );
        }
    }

    /// Ends when nothing may be waited for any more.
    pub(crate) async fn over(&self) {
        self.soft.cancelled().await;
        sleep(self.remaining()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_deadline_holds_for_draining_and_closing() {
        let grace = Duration::from_millis(800);
        let shutdown = Shutdown::new(grace);
        shutdown.tasks().spawn(std::future::pending::<()>());
        let start = Instant::now();
        shutdown.soft().cancel();
        shutdown.drained().await;
        assert!(start.elapsed() >= draining(grace), "{:?}", start.elapsed());
        assert!(shutdown.remaining() <= grace / 2, "{:?}", shutdown.remaining());
        shutdown.over().await;
        assert!(start.elapsed() >= grace * 7 / 8 && shutdown.remaining().is_zero());
        // Whoever comes late waits no longer.
        shutdown.drained().await;
    }

    #[test]
    fn a_usual_grace_period_leaves_its_last_seconds_for_closing() {
        assert_eq!(draining(Duration::from_secs(15)), Duration::from_millis(12_500));
        assert_eq!(draining(Duration::from_millis(800)), Duration::from_millis(300));
    }
}

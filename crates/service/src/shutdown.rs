//! Going down: stop taking work, finish what is under way, within a bound.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// The state of going down. Clones share it.
#[derive(Debug, Clone)]
pub struct Shutdown {
    soft: CancellationToken,
    tasks: TaskTracker,
    grace: Duration,
}

impl Shutdown {
    /// Listens to SIGTERM and SIGINT. A second signal ends the process at once.
    ///
    /// # Errors
    /// The system does not let signals be listened to.
    pub fn install(grace: Duration) -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self { soft: CancellationToken::new(), tasks: TaskTracker::new(), grace };
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

    /// Cancelled when no more work may be taken.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Tracks the tasks that have to end before the process does.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// The longest wait for what is under way.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Waits until the tracked tasks have ended, for at most the grace period.
    pub async fn drained(&self) {
        self.tasks.close();
        if tokio::time::timeout(self.grace, self.tasks.wait()).await.is_err() {
            warn!(
                tasks = self.tasks.len(),
                "grace period over; leaving unfinished work to be delivered again"
            );
        }
    }
}

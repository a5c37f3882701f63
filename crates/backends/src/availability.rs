//! Statements that are tried until the database takes them.

use std::future::Future;
use std::sync::Arc;

use broker::Backoff;
use store::StoreError;
use tokio::sync::watch;
use tracing::{info, warn};

/// Whether the database took the last statement. Clones share it.
#[derive(Debug, Clone)]
pub struct Availability(Arc<watch::Sender<bool>>);

impl Default for Availability {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(true)))
    }
}

impl Availability {
    /// Whether the database took the last statement.
    pub fn is_available(&self) -> bool {
        *self.0.borrow()
    }

    /// Runs a statement until the database takes it, or refuses it for good: the error is never a retryable one.
    /// Waits between tries; one log line a change of state. Ends only by the database's answer: whoever may not
    /// wait drops the future.
    pub async fn until_available<T, F>(&self, mut run: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut backoff = Backoff::default();
        loop {
            match run().await {
                Err(error) if error.is_retryable() => {
                    if self.0.send_replace(false) {
                        warn!(%error, "the database takes no statements; trying again");
                    }
                    backoff.wait().await;
                }
                answered => {
                    if !self.0.send_replace(true) {
                        info!("the database takes statements again");
                    }
                    return answered;
                }
            }
        }
    }
}

/// An error with its causes, in one line.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + Send + Sync));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

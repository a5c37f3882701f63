//! Statements that are tried until the database takes them.

use std::future::Future;
use std::sync::Arc;

use broker::Backoff;
use store::{Store, StoreError};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::judge::{Judge, Judgement};

/// Whether the database took the last statement. Clones share it.
#[derive(Debug, Clone)]
pub struct Availability {
    store: Store,
    is_available: Arc<watch::Sender<bool>>,
}

impl Availability {
    /// Of the database behind this store.
    pub fn new(store: &Store) -> Self {
        Self { store: store.clone(), is_available: Arc::new(watch::Sender::new(true)) }
    }

    /// Whether the database took the last statement.
    pub fn is_available(&self) -> bool {
        *self.is_available.borrow()
    }

    /// Runs a statement until the database takes it, or refuses it for good: the error is never the database's own
    /// trouble. Waits between tries; one log line a change of state. Ends only by the database's answer: whoever may
    /// not wait drops the future.
    pub async fn until_available<T, F>(&self, mut run: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let (mut backoff, mut judge) = (Backoff::default(), Judge::new(&self.store));
        loop {
            let answered = run().await;
            let Err(error) = &answered else {
                self.set_available();
                return answered;
            };
            match judge.judge(error).await {
                Judgement::Trouble => self.set_unavailable(error),
                Judgement::Doubt => {}
                Judgement::Refusal => {
                    self.set_available();
                    return answered;
                }
            }
            backoff.wait().await;
        }
    }

    fn set_unavailable(&self, error: &StoreError) {
        if self.is_available.send_replace(false) {
            warn!(error = %Chain(error), "the database takes no statements; trying again");
        }
    }

    fn set_available(&self) {
        if !self.is_available.send_replace(true) {
            info!("the database takes statements again");
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

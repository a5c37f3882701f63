//! Statements that are tried until the database takes them.

use std::future::Future;

use broker::Backoff;
use service::Check;
use store::{Store, StoreError};

use crate::judge::{Judge, Judgement};
use crate::stuck::StuckCalls;

/// Whether the database takes the statements of a service. Clones share it.
#[derive(Debug, Clone)]
pub struct Availability {
    store: Store,
    stuck: StuckCalls,
}

impl Availability {
    /// Of the database behind this store; the check fails while any statement has to be tried again.
    pub fn new(store: &Store, check: Check) -> Self {
        Self { store: store.clone(), stuck: StuckCalls::told_by(check) }
    }

    /// Whether no statement has to be tried again.
    pub fn is_available(&self) -> bool {
        self.stuck.is_empty()
    }

    /// Runs a statement until the database takes it, or refuses it for good: the error is never the database's own
    /// trouble. Waits between tries; one log line a change of state. Ends only by the database's answer: whoever may
    /// not wait drops the future.
    pub async fn until_available<T, F>(&self, mut run: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let (mut backoff, mut judge) = (Backoff::default(), Judge::new(&self.store));
        let mut stuck = None;
        loop {
            let answered = run().await;
            let Err(error) = &answered else { return answered };
            match judge.judge(error).await {
                Judgement::Trouble => {
                    stuck.get_or_insert_with(|| self.stuck.add(error));
                }
                Judgement::Doubt => {}
                Judgement::Refusal => return answered,
            }
            backoff.wait().await;
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

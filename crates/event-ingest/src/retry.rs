//! Trying again until it works.

use std::error::Error;
use std::future::Future;

use backends::{Judge, Judgement, StuckCalls};
use broker::{Backoff, PublishError};
use domain::id::NoRandomness;
use service::Check;
use store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

/// The service stops: what was tried in vain is left where it is, to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the service is stopping")]
pub(crate) struct Stopping;

impl From<isolation::Stopping> for Stopping {
    fn from(_: isolation::Stopping) -> Self {
        Self
    }
}

impl From<Stopping> for isolation::Stopping {
    fn from(_: Stopping) -> Self {
        Self
    }
}

/// Errors of which it can be told whether the same call may succeed once the servers are well again.
pub(crate) trait MayPass: Error + Send + Sync {
    /// What to do after it.
    fn judge(&self, judge: &mut Judge<'_>) -> impl Future<Output = Judgement> + Send;
}

impl MayPass for StoreError {
    /// Only a refused statement is the event's fault.
    async fn judge(&self, judge: &mut Judge<'_>) -> Judgement {
        match self {
            Self::Query(_) => judge.judge(self).await,
            _ => Judgement::Trouble,
        }
    }
}

impl MayPass for PublishError {
    async fn judge(&self, _: &mut Judge<'_>) -> Judgement {
        Judgement::Trouble
    }
}

impl MayPass for NoRandomness {
    async fn judge(&self, _: &mut Judge<'_>) -> Judgement {
        Judgement::Trouble
    }
}

/// Tries until it works, and has the readiness check fail meanwhile. Clones share the check.
#[derive(Debug, Clone)]
pub(crate) struct Retry {
    store: Store,
    stuck: StuckCalls,
    stopping: CancellationToken,
}

impl Retry {
    /// Tries until `stopping`; the check fails while anything has to be tried again. The store's statements are what is
    /// tried.
    pub(crate) fn new(store: Store, check: Check, stopping: CancellationToken) -> Self {
        Self { store, stuck: StuckCalls::told_by(check), stopping }
    }

    /// Runs until it succeeds or fails for good, with growing waits between the tries.
    ///
    /// # Errors
    /// The service is stopping and the last try failed.
    pub(crate) async fn until_answered<T, E, F>(
        &self,
        mut run: impl FnMut() -> F,
    ) -> Result<Result<T, E>, Stopping>
    where
        E: MayPass,
        F: Future<Output = Result<T, E>>,
    {
        let (mut backoff, mut judge) = (Backoff::default(), Judge::new(&self.store));
        let mut stuck = None;
        loop {
            let error = match run().await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(error) => error,
            };
            match error.judge(&mut judge).await {
                Judgement::Trouble => {
                    stuck.get_or_insert_with(|| self.stuck.add(&error));
                }
                Judgement::Doubt => {}
                Judgement::Refusal => return Ok(Err(error)),
            }
            tokio::select! {
                () = self.stopping.cancelled() => return Err(Stopping),
                () = backoff.wait() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use service::{Readiness, Settings};

    use super::*;

    /// A store of no database: what is tried here is none of its statements.
    fn no_store() -> Store {
        let mut settings = Settings::default();
        settings.database.url = Some(service::values::Secret::new("postgres://localhost/none"));
        backends::store(&settings, "tests").unwrap()
    }

    fn retry() -> (Readiness, CancellationToken, Retry) {
        let (readiness, stopping) = (Readiness::default(), CancellationToken::new());
        let retry = Retry::new(no_store(), readiness.check("events get through"), stopping.clone());
        (readiness, stopping, retry)
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_readiness_tells() {
        let (readiness, _, retry) = retry();
        let mut tries = 0;
        let seen = std::cell::RefCell::new(Vec::new());
        let answered = retry
            .until_answered(|| {
                tries += 1;
                seen.borrow_mut().push(readiness.report().0);
                std::future::ready(if tries < 4 { Err(NoRandomness) } else { Ok(tries) })
            })
            .await;
        assert_eq!(answered, Ok(Ok(4)));
        assert_eq!(seen.into_inner(), [true, false, false, false]);
        assert!(readiness.report().0, "ready again");
    }

    #[tokio::test]
    async fn a_stopping_service_gives_up_after_the_try_under_way() {
        let (readiness, stopping, retry) = retry();
        stopping.cancel();
        let answered = retry.until_answered(|| std::future::ready(Err::<(), _>(PublishError::Closed))).await;
        assert_eq!(answered, Err(Stopping));
        assert!(readiness.report().0, "nothing is stuck any more");
    }

    #[tokio::test]
    async fn whoever_gives_up_leaves_nothing_stuck() {
        let (readiness, _, retry) = retry();
        let trying = retry.until_answered(|| std::future::ready(Err::<(), _>(NoRandomness)));
        let limit = std::time::Duration::from_millis(250);
        assert!(tokio::time::timeout(limit, trying).await.is_err(), "it never works");
        assert!(readiness.report().0);
    }

    #[tokio::test]
    async fn trouble_of_the_database_is_not_the_events_fault() {
        let store = no_store();
        for trouble in [StoreError::NoPartition, StoreError::Unavailable { reason: "gone".into() }] {
            assert_eq!(trouble.judge(&mut Judge::new(&store)).await, Judgement::Trouble, "{trouble}");
        }
    }
}

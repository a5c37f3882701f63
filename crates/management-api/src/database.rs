//! A bound on every wait for the database.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use crate::problem::Problem;

/// The longest a request waits for the database, connection and statements together. Below the patience of common
/// clients and proxies, so that they get an answer.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What the database answers, or a problem. A request that is given up may still take effect.
pub(crate) async fn bounded<T, E: Into<Problem>>(
    query: impl Future<Output = Result<T, E>>,
) -> Result<T, Problem> {
    let Ok(answer) = timeout(LONGEST_WAIT, query).await else {
        warn!("the database gives no answer");
        return Err(Problem::unavailable());
    };
    answer.map_err(Into::into)
}

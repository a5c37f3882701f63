//! Days made ahead and dropped.

use std::time::Duration;

use backends::Chain;
use service::Clock;
use store::Store;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// The time between two runs. Partitions are made days ahead, so a run may fail many times.
const INTERVAL: Duration = Duration::from_mins(30);

/// The wait after a run that failed.
const AFTER_FAILURE: Duration = Duration::from_mins(1);

/// Makes the partitions of the next days and drops those older than the retention, now and every half hour, until
/// `stopping`. Dispatchers that do it at the same time wait for each other.
pub(crate) async fn run(store: Store, retention_days: u32, clock: Clock, stopping: CancellationToken) {
    loop {
        let wait = match store.maintain(clock.now(), retention_days).await {
            Ok(dropped) => {
                if !dropped.is_empty() {
                    info!(partitions = dropped.join(","), "dropped what is older than the retention");
                }
                INTERVAL
            }
            Err(failure) => {
                error!(error = %Chain(&failure), "partitions could not be maintained; trying again");
                AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

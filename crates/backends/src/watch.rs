//! Readiness that follows what is.

use std::time::Duration;

use broker::{Backoff, Broker, Health};
use service::Check;
use store::{SchemaMismatch, Store, StoreError};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How often the database is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// The longest wait for one. Readiness probes are that impatient too.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until the database can be reached and has the schema that this program was built for. Returns `false` if
/// `stopping` came first.
///
/// # Errors
/// The schema is another version's, or the database gives an answer that waiting does not change.
pub async fn schema_known(
    store: &Store,
    check: &Check,
    stopping: &CancellationToken,
) -> Result<bool, SchemaMismatch> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut told = false;
    let waiting = async {
        loop {
            match store.check_schema().await {
                Err(SchemaMismatch::Store(error)) if error.is_retryable() => {
                    check.fail(error.to_string());
                    if !std::mem::replace(&mut told, true) {
                        warn!(%error, "waiting for the database");
                    }
                }
                known => return known,
            }
            backoff.wait().await;
        }
    };
    tokio::select! {
        known = waiting => known.map(|()| true),
        () = stopping.cancelled() => Ok(false),
    }
}

/// Keeps the check true to whether the database answers, until `stopping`.
pub async fn watch_store(store: Store, check: Check, stopping: CancellationToken) {
    let watching = async {
        loop {
            match timeout(PING_TIMEOUT, store.ping()).await {
                Ok(Ok(())) => check.pass(),
                Ok(Err(error)) => check.fail(reason(&error)),
                Err(_) => check.fail(format!("no answer within {PING_TIMEOUT:?}")),
            }
            tokio::time::sleep(PING_INTERVAL).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = stopping.cancelled() => {}
    }
}

fn reason(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Keeps the check true to whether the broker can be used, until `stopping` or the broker is closed.
pub async fn watch_broker(broker: Broker, check: Check, stopping: CancellationToken) {
    let [mut publishing, mut consuming] = broker.health();
    let watching = async {
        loop {
            match worst(&mut publishing, &mut consuming) {
                Health::Connected => check.pass(),
                Health::Blocked { reason } => check.fail(format!("takes no messages: {reason}")),
                Health::Disconnected { reason } => check.fail(reason),
            }
            let changed = tokio::select! {
                changed = publishing.changed() => changed,
                changed = consuming.changed() => changed,
            };
            if changed.is_err() {
                return check.fail("closed");
            }
        }
    };
    tokio::select! {
        () = watching => {}
        () = stopping.cancelled() => {}
    }
}

/// Both connections have to work.
fn worst(publishing: &mut watch::Receiver<Health>, consuming: &mut watch::Receiver<Health>) -> Health {
    let (first, second) = (publishing.borrow_and_update().clone(), consuming.borrow_and_update().clone());
    if first == Health::Connected { second } else { first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lost_connection_is_enough() {
        let lost = Health::Disconnected { reason: "gone".to_owned() };
        let health = |health: &Health| watch::channel(health.clone()).1;
        for (publishing, consuming, expected) in [
            (&Health::Connected, &Health::Connected, &Health::Connected),
            (&lost, &Health::Connected, &lost),
            (&Health::Connected, &lost, &lost),
        ] {
            assert_eq!(worst(&mut health(publishing), &mut health(consuming)), *expected);
        }
    }
}

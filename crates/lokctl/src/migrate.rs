//! `lokctl migrate`.

use std::time::Duration;

use anyhow::Context as _;
use broker::Backoff;
use service::{Clock, Settings};
use store::{Store, StoreError};
use tokio::time::Instant;

use crate::cli::Migrate;
use crate::environment::NotConfigured;

/// Migrates, and tells what was applied.
#[expect(clippy::print_stdout, reason = "what was applied is the command's output")]
pub(crate) async fn run(arguments: &Migrate, settings: &Settings, clock: &Clock) -> anyhow::Result<()> {
    let store = backends::store(settings, "lokctl").map_err(NotConfigured::from)?;
    let applied = when_available(&store, arguments.wait.0, clock).await?;
    for version in &applied {
        println!("applied {version}");
    }
    if applied.is_empty() {
        println!("nothing to do");
    }
    Ok(())
}

/// Migrates as soon as the database is there, for at most `wait`.
#[expect(clippy::print_stderr, reason = "a person may be waiting")]
async fn when_available(store: &Store, wait: Duration, clock: &Clock) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + wait;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut told = false;
    loop {
        match store.migrate(clock.now()).await {
            Ok(applied) => return Ok(applied),
            Err(StoreError::Unavailable { reason }) if Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    eprintln!("waiting up to {wait:?} for the database: {reason}");
                }
            }
            Err(error @ StoreError::Unavailable { .. }) => {
                return Err(error)
                    .with_context(|| format!("not migrated within {wait:?}; is database.url right?"));
            }
            Err(error) => return Err(error).context("the migrations failed"),
        }
        backoff.wait().await;
    }
}

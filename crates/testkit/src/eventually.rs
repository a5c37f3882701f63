//! Awaiting conditions.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a test waits for what takes milliseconds on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `condition` gives a value, and panics with `what` when it did not within `deadline`.
#[track_caller]
pub fn eventually<T, F>(what: &str, deadline: Duration, mut condition: F) -> impl Future<Output = T>
where
    F: AsyncFnMut() -> Option<T>,
{
    eventually_ok(what, deadline, async move || condition().await.ok_or("not so"))
}

/// Waits until `condition` gives a value, and panics with `what` and the last thing seen instead when it did not
/// within `deadline`.
#[track_caller]
pub fn eventually_ok<T, S, F>(what: &str, deadline: Duration, mut condition: F) -> impl Future<Output = T>
where
    S: fmt::Display,
    F: AsyncFnMut() -> Result<T, S>,
{
    let caller = Location::caller();
    async move {
        let end = Instant::now() + deadline;
        loop {
            match condition().await {
                Ok(value) => return value,
                Err(seen) => {
                    assert!(
                        Instant::now() < end,
                        "{caller}: {what}: not within {deadline:?}, the last seen was: {seen}"
                    );
                }
            }
            sleep(INTERVAL).await;
        }
    }
}

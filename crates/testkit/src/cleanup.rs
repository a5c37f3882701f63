//! Cleaning up from `Drop`.

use std::future::Future;
use std::time::Duration;

/// The longest that cleaning up may hold a test's end.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs `work` to its end on a thread and a runtime of its own: `Drop` cannot await, and the test's runtime may be
/// going down. What is not cleaned within the limit is left to a later run's sweep.
pub(crate) fn run<F>(what: &'static str, work: F)
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime
            .block_on(async { tokio::time::timeout(LIMIT, work).await })
            .map_err(|late| late.to_string())?
    });
    // A panic in `Drop` while another unwinds would end the process and hide the first.
    if let Ok(Err(reason)) = thread.join() {
        complain(what, &reason);
    }
}

#[expect(clippy::print_stderr, reason = "a test's output is where its author looks")]
fn complain(what: &str, reason: &str) {
    eprintln!("testkit: {what} was left behind: {reason}");
}

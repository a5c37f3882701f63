//! What is being tried again, told once.

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use service::Check;

use crate::availability::Chain;

/// The calls of one kind that are being tried again now. A readiness check fails while there are any, and tells why: one
/// log line when the first gets stuck and one when none is any more, however many there are and whatever succeeds
/// between. Clones share it.
#[derive(Debug, Clone)]
pub struct StuckCalls(Arc<Mutex<Tally>>);

#[derive(Debug)]
struct Tally {
    stuck: usize,
    check: Check,
}

/// One call that is being tried again, until dropped: also when whoever waited for it gave up.
#[derive(Debug)]
#[must_use = "it counts until dropped"]
pub struct StuckCall(StuckCalls);

impl StuckCalls {
    /// None yet: the check passes.
    pub fn told_by(check: Check) -> Self {
        check.pass();
        Self(Arc::new(Mutex::new(Tally { stuck: 0, check })))
    }

    /// Counts a call that failed and is tried again.
    pub fn add(&self, error: &(dyn Error + Send + Sync)) -> StuckCall {
        let mut tally = self.lock();
        tally.stuck += 1;
        tally.check.fail(Chain(error).to_string());
        StuckCall(self.clone())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lock().stuck == 0
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        // A number is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StuckCall {
    fn drop(&mut self) {
        let mut tally = self.0.lock();
        tally.stuck -= 1;
        if tally.stuck == 0 {
            tally.check.pass();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use service::Readiness;

    use super::*;

    #[test]
    fn one_call_that_is_stuck_is_enough_whatever_succeeds_beside_it() {
        let readiness = Readiness::default();
        let calls = StuckCalls::told_by(readiness.check("calls"));
        assert!(readiness.report().0 && calls.is_empty());
        let first = calls.add(&Error::other("the first"));
        let second = calls.add(&Error::other("the second"));
        drop(first);
        assert!(!readiness.report().0 && !calls.is_empty());
        assert_eq!(readiness.report().1["calls"], "the second");
        drop(second);
        assert!(readiness.report().0 && calls.is_empty());
    }
}

//! What has to work before a service may get traffic.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};

/// The checks of one process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    checks: Arc<Mutex<BTreeMap<&'static str, State>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Pass,
    Fail(String),
}

/// One thing that has to work. It fails until it passed once.
#[derive(Debug, Clone)]
pub struct Check {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a check.
    pub fn check(&self, name: &'static str) -> Check {
        self.lock().insert(name, State::Fail("not checked yet".to_owned()));
        Check { name, readiness: self.clone() }
    }

    /// Whether all checks pass, and each check's state as text.
    pub fn report(&self) -> (bool, BTreeMap<&'static str, String>) {
        let checks = self.lock();
        let ready = checks.values().all(|state| *state == State::Pass);
        let texts = checks.iter().map(|(name, state)| {
            let text = match state {
                State::Pass => "pass".to_owned(),
                State::Fail(reason) => reason.clone(),
            };
            (*name, text)
        });
        (ready, texts.collect())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, State>> {
        // A map of texts is whole after any panic.
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Check {
    /// It works.
    pub fn pass(&self) {
        if self.set(State::Pass) {
            info!(check = self.name, "ready");
        }
    }

    /// It does not work, and why.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let was_ready = self.readiness.lock().get(self.name) == Some(&State::Pass);
        if self.set(State::Fail(reason.clone())) && was_ready {
            warn!(check = self.name, reason, "not ready");
        }
    }

    fn set(&self, state: State) -> bool {
        self.readiness.lock().insert(self.name, state.clone()) != Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_check_passes() {
        let readiness = Readiness::default();
        let (database, broker) = (readiness.check("database"), readiness.check("broker"));
        assert!(!readiness.report().0);
        database.pass();
        broker.pass();
        assert!(readiness.report().0);
        broker.fail("connection refused");
        let (ready, texts) = readiness.report();
        assert!(!ready);
        assert_eq!(texts["broker"], "connection refused");
        assert_eq!(texts["database"], "pass");
    }
}

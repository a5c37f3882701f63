//! What operators were told lately.

use std::time::Duration;

use moka::sync::Cache;

/// How long nothing is told again.
const SILENCE: Duration = Duration::from_mins(1);

/// Most things that are kept in mind; more are told again.
const THINGS: u64 = 1000;

/// Keeps the log readable while the same is true of thousands of deliveries.
#[derive(Debug)]
pub(crate) struct Told(Cache<String, ()>);

impl Default for Told {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(THINGS).time_to_live(SILENCE).build())
    }
}

impl Told {
    /// Whether it was not asked about within the last minute.
    pub(crate) fn is_news(&self, what: impl Into<String>) -> bool {
        self.0.entry(what.into()).or_insert(()).is_fresh()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_no_news() {
        let told = Told::default();
        assert!(told.is_news("one") && told.is_news("two"));
        assert!(!told.is_news("one") && !told.is_news("two"));
    }
}

//! Names that are unique and tell when they were made, so that leftovers can be swept by age.

use std::fmt::Write as _;
use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use service::Clock;

/// Things older than this belong to no test that still runs.
pub(crate) const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// A new name: Unix seconds and 8 random characters, for example `1705314600_9f86d081`.
pub(crate) fn new() -> String {
    let mut bytes = [0; 4];
    SystemRandom::new().fill(&mut bytes).expect("the system gives randomness");
    format!("{}_{}", seconds_now(), hex(&bytes))
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether a name made by [`new`] is a leftover.
pub(crate) fn is_leftover(name: &str) -> bool {
    let made = name.split('_').next().and_then(|seconds| seconds.parse::<i64>().ok());
    let oldest = seconds_now() - i64::try_from(LEFTOVER_AGE.as_secs()).unwrap_or(i64::MAX);
    made.is_some_and(|made| made < oldest)
}

fn seconds_now() -> i64 {
    Clock::system().now().timestamp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_only_old_ones_are_leftovers() {
        assert_ne!(new(), new());
        assert!(!is_leftover(&new()));
        assert!(is_leftover("1705314600_9f86d081"));
        assert!(!is_leftover("someone_elses"));
    }
}

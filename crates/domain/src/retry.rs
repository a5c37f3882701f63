//! What follows an attempt.

use std::num::NonZeroU32;
use std::time::Duration;

/// The number of an attempt, from 1. It is what `X-Lok-Attempt` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptNumber(NonZeroU32);

impl AttemptNumber {
    /// The immediate attempt.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The attempt with this number; `None` for 0.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number, from 1.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The attempt after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What became of an attempt, as far as the schedule is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A 2xx status line arrived in time (contract, *Outcome*).
    Delivered,
    /// Anything else: other statuses, redirects, timeouts, TLS and connection errors, blocked addresses.
    NotDelivered,
}

impl Verdict {
    /// What a response's status means: 2xx is success, all else is failure.
    pub fn of_status(status: u16) -> Self {
        if (200..300).contains(&status) { Self::Delivered } else { Self::NotDelivered }
    }
}

/// The waits before attempt 2, 3, …; one more attempt than waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    delays: Vec<Duration>,
}

/// The promised schedule: now, +1 min, +5 min (guide, *Limites*).
impl Default for Schedule {
    fn default() -> Self {
        Self::new(vec![Duration::from_mins(1), Duration::from_mins(5)])
    }
}

impl Schedule {
    /// A schedule with these waits before attempt 2, 3, ….
    pub fn new(delays: Vec<Duration>) -> Self {
        Self { delays }
    }

    /// The waits, in order.
    pub fn delays(&self) -> &[Duration] {
        &self.delays
    }

    /// How long to wait after this attempt ended before the next one starts; `None` after the last.
    pub fn delay_after(&self, attempt: AttemptNumber) -> Option<Duration> {
        let index = usize::try_from(attempt.get() - 1).ok()?;
        self.delays.get(index).copied()
    }
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// The delivery is `success`.
    Succeed,
    /// The delivery stays `pending`; attempt `attempt` starts `delay` after the last one ended.
    Retry {
        /// The next attempt's number.
        attempt: AttemptNumber,
        /// The wait, counted from the end of the attempt just made.
        delay: Duration,
    },
    /// No attempts are left: the delivery is `failed`.
    Fail,
}

/// Decides what follows `attempt` (guide, *Limites*; contract, *Outcome*).
pub fn next_step(attempt: AttemptNumber, verdict: Verdict, schedule: &Schedule) -> NextStep {
    match (verdict, schedule.delay_after(attempt)) {
        (Verdict::Delivered, _) => NextStep::Succeed,
        (Verdict::NotDelivered, Some(delay)) => NextStep::Retry { attempt: attempt.next(), delay },
        (Verdict::NotDelivered, None) => NextStep::Fail,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(n: u32) -> AttemptNumber {
        AttemptNumber::new(n).unwrap()
    }

    #[test]
    fn three_attempts_at_once_after_one_minute_and_after_five() {
        let schedule = Schedule::default();
        let after = |n| next_step(number(n), Verdict::NotDelivered, &schedule);
        assert_eq!(after(1), NextStep::Retry { attempt: number(2), delay: Duration::from_secs(60) });
        assert_eq!(after(2), NextStep::Retry { attempt: number(3), delay: Duration::from_secs(300) });
        assert_eq!(after(3), NextStep::Fail);
        assert_eq!(after(4), NextStep::Fail, "an attempt asked for by hand has no successor");
    }

    #[test]
    fn only_2xx_is_a_success() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(Verdict::of_status(status), Verdict::Delivered, "{status}");
        }
        for status in [100, 199, 300, 301, 302, 304, 307, 400, 404, 410, 429, 500, 503] {
            assert_eq!(Verdict::of_status(status), Verdict::NotDelivered, "{status}");
        }
    }

    proptest! {
        #[test]
        fn failing_on_every_attempt_ends_after_one_more_attempt_than_waits(
            millis in prop::collection::vec(0_u64..1_000_000, 0..20),
        ) {
            let delays: Vec<_> = millis.into_iter().map(Duration::from_millis).collect();
            let schedule = Schedule::new(delays.clone());
            let (mut attempt, mut waited) = (AttemptNumber::FIRST, Vec::new());
            while let NextStep::Retry { attempt: next, delay } =
                next_step(attempt, Verdict::NotDelivered, &schedule)
            {
                prop_assert_eq!(next.get(), attempt.get() + 1);
                waited.push(delay);
                attempt = next;
            }
            prop_assert_eq!(&waited, &delays);
            prop_assert_eq!(attempt.get() as usize, delays.len() + 1);
        }

        #[test]
        fn a_success_is_final_at_any_attempt(n in 1_u32.., waits in 0_usize..5) {
            let schedule = Schedule::new(vec![Duration::from_secs(1); waits]);
            prop_assert_eq!(next_step(number(n), Verdict::Delivered, &schedule), NextStep::Succeed);
        }
    }
}

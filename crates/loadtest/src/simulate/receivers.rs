//! Receivers: who answers how.

use std::time::Duration;

use domain::retry::Verdict;
use rand::Rng as _;
use rand::rngs::StdRng;

/// What a receiver does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answers 200, usually within 100 ms.
    Healthy,
    /// Never answers.
    Hanging,
    /// Answers 500, as fast as a healthy one.
    Failing,
    /// Answers 200 after 2 to 5 s.
    Slow,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Healthy, Self::Hanging, Self::Failing, Self::Slow];

    /// Its place in [`Self::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Hanging => "hanging",
            Self::Failing => "answer 500",
            Self::Slow => "slow",
        }
    }
}

/// Which receivers are not healthy: one in `one_in`, these kinds in turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bad {
    pub(crate) one_in: usize,
    pub(crate) kinds: &'static [Kind],
}

impl Bad {
    /// 5 %: half of them hang, a quarter fails, a quarter is slow.
    pub(crate) const FIVE_PERCENT: Self =
        Self { one_in: 20, kinds: &[Kind::Hanging, Kind::Failing, Kind::Hanging, Kind::Slow] };

    pub(crate) const NOBODY: Self = Self { one_in: 20, kinds: &[] };

    pub(super) fn kind(self, webhook: usize) -> Kind {
        let is_healthy = self.kinds.is_empty() || !webhook.is_multiple_of(self.one_in);
        if is_healthy { Kind::Healthy } else { self.kinds[webhook / self.one_in % self.kinds.len()] }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) took: Duration,
    /// Whether there was one.
    pub(super) came: bool,
    pub(super) verdict: Verdict,
}

impl Answer {
    /// What a receiver does with a request that is given up after `timeout`.
    pub(super) fn of(kind: Kind, timeout: Duration, random: &mut StdRng) -> Self {
        let (took, verdict) = match kind {
            Kind::Healthy => (usual(random), Verdict::Delivered),
            Kind::Failing => (usual(random), Verdict::NotDelivered),
            Kind::Slow => (Duration::from_millis(random.random_range(2000..5000)), Verdict::Delivered),
            Kind::Hanging => (Duration::MAX, Verdict::NotDelivered),
        };
        if took < timeout {
            Self { took, came: true, verdict }
        } else {
            Self { took: timeout, came: false, verdict: Verdict::NotDelivered }
        }
    }
}

/// 10 ms of way, and 40 ms on average of whatever the receiver does.
fn usual(random: &mut StdRng) -> Duration {
    Duration::from_millis(10) + exponential(Duration::from_millis(40), random)
}

/// The time to the next of what happens by chance, so long on average.
pub(super) fn exponential(mean: Duration, random: &mut StdRng) -> Duration {
    let uniform: f64 = random.random();
    mean.mul_f64(-(1.0 - uniform).ln())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn one_in_twenty_is_bad_and_half_of_them_hang() {
        let count = |kind| (0..8000).filter(|webhook| Bad::FIVE_PERCENT.kind(*webhook) == kind).count();
        assert_eq!(Kind::ALL.map(count), [7600, 200, 100, 100]);
        assert!((0..100).all(|webhook| Bad::NOBODY.kind(webhook) == Kind::Healthy));
        assert_eq!(Kind::ALL.map(Kind::index), [0, 1, 2, 3]);
    }

    #[test]
    fn receivers_do_what_they_are_called_for() {
        let timeout = Duration::from_secs(10);
        let mut random = StdRng::seed_from_u64(1);
        let mut total = Duration::ZERO;
        for _ in 0..10_000 {
            let healthy = Answer::of(Kind::Healthy, timeout, &mut random);
            assert!(healthy.came && healthy.verdict == Verdict::Delivered);
            total += healthy.took;
            let slow = Answer::of(Kind::Slow, timeout, &mut random);
            assert!(slow.came && (2..5).contains(&slow.took.as_secs()), "{slow:?}");
            let failing = Answer::of(Kind::Failing, timeout, &mut random);
            assert!(failing.came && failing.verdict == Verdict::NotDelivered);
        }
        let mean = total / 10_000;
        assert!((48..=52).contains(&mean.as_millis()), "{mean:?}");
        let hanging = Answer::of(Kind::Hanging, timeout, &mut random);
        assert!(!hanging.came && hanging.took == timeout && hanging.verdict == Verdict::NotDelivered);
    }
}

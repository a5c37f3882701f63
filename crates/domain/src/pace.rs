//! How many requests a receiver gets at once, by how it takes them, and how long what is too much is put off.

use std::time::Duration;

/// A request that is over within this holds no place that others need, however it ended: a quarter of a dispatcher's
/// 768 places serves 768 such requests a second and more.
pub const QUICK: Duration = Duration::from_millis(250);

/// What the latest request counts in the smoothed time of requests: one of so many parts.
const SMOOTHING: u32 = 4;

/// What a receiver's requests said about it, and how many it gets at once.
///
/// Many to begin with. A request that was waited for in vain halves the number, down to one: then each request is a
/// *probe*. One that came to an end adds one, so that the number doubles with every round, and a receiver that is well
/// again has all its places after as many answers as there are places.
///
/// An answer that takes long takes nothing away: a slow receiver needs its places. That slow receivers leave places to
/// others is decided among all of them, by whoever knows all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    max: usize,
    limit: usize,
    /// How long requests take, smoothed.
    usual: Duration,
    failing: Option<Failing>,
}

/// Since the last request that came to an end, there were requests that did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failing {
    /// When the first of them began.
    since: Duration,
    /// When the last of them was given up.
    seen: Duration,
}

impl Pace {
    /// A receiver that nothing is known about: `max` requests at once, at least one.
    pub fn new(max: usize) -> Self {
        let max = max.max(1);
        Self { max, limit: max, usual: Duration::ZERO, failing: None }
    }

    /// The receiver answered, whatever it said, after `took`.
    pub fn answered(&mut self, took: Duration) {
        self.learn(took);
        self.failing = None;
        self.limit = self.limit.saturating_add(1).min(self.max);
    }

    /// The receiver did not answer: the request was given up after `took`, at `now` on a clock that only goes forward.
    ///
    /// A failure that is told quickly, such as a refused connection, is as good as an answer here: it holds no place,
    /// and to make others wait for it would put off what can be told to be a failed attempt at once.
    pub fn not_answered(&mut self, took: Duration, now: Duration) {
        if took <= QUICK {
            return self.answered(took);
        }
        self.learn(took);
        self.limit = (self.limit / 2).max(1);
        let since = self.failing.map_or(now.saturating_sub(took), |failing| failing.since);
        self.failing = Some(Failing { since, seen: now });
    }

    /// Requests at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether nobody knows if the receiver answers at all, so that one request at a time finds out.
    pub fn is_probing(&self) -> bool {
        self.failing.is_some() && self.limit == 1
    }

    /// How long the receiver has been seen not to answer; nothing while it answers. Only what was seen counts: time in
    /// which it was not asked tells nothing.
    pub fn failing_for(&self) -> Duration {
        self.failing.map_or(Duration::ZERO, |failing| failing.seen.saturating_sub(failing.since))
    }

    /// Whether its requests hold places for long.
    pub fn is_slow(&self) -> bool {
        self.usual > QUICK
    }

    /// How long one waits who has so many before them and shares `at_once` places with them, all of them taken.
    pub fn expected_wait(&self, before: usize, at_once: usize) -> Duration {
        let rounds = u32::try_from(before.saturating_add(1).div_ceil(at_once.max(1))).unwrap_or(u32::MAX);
        self.usual.saturating_mul(rounds)
    }

    /// Whether it is as good as one that nothing is known about, and need not be remembered.
    pub fn is_well(&self) -> bool {
        self.limit == self.max && self.failing.is_none() && !self.is_slow()
    }

    fn learn(&mut self, took: Duration) {
        self.usual = self.usual.saturating_sub(self.usual / SMOOTHING) + took / SMOOTHING;
    }
}

/// How long a job is parked: a ladder of delays, the shortest first.
///
/// Nobody is put off for longer than the receiver has been failing, but for the shortest delay: so a receiver that is
/// well again has its deliveries after at most twice the time that it was not. What comes back in a second is, on
/// average, what waits divided by the delay. Where each delay is twice the one before, that is at most twice what is new: as long
/// as a receiver that stays away has been away for less than twice the last delay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkDelays(Vec<Duration>);

impl ParkDelays {
    /// These delays in their order, each once; of none, those of [`ParkDelays::default`].
    pub fn new(delays: impl IntoIterator<Item = Duration>) -> Self {
        let mut delays: Vec<_> = delays.into_iter().collect();
        delays.sort_unstable();
        delays.dedup();
        if delays.is_empty() { Self::default() } else { Self(delays) }
    }

    /// All of them, ascending.
    pub fn all(&self) -> &[Duration] {
        &self.0
    }

    /// The delay of a rung, counted from 0; the last one's for any beyond.
    pub fn delay(&self, rung: usize) -> Duration {
        self.0.get(rung).or(self.0.last()).copied().unwrap_or_default()
    }

    /// The rung for a receiver that has been failing for so long.
    pub fn rung_after(&self, failing_for: Duration) -> usize {
        self.0.iter().rposition(|delay| *delay <= failing_for).unwrap_or(0)
    }

    /// The first rung whose delay is longer than this; the last one if none is.
    pub fn rung_beyond(&self, time: Duration) -> usize {
        self.0.iter().position(|delay| *delay > time).unwrap_or(self.0.len().saturating_sub(1))
    }
}

impl Default for ParkDelays {
    fn default() -> Self {
        Self([5, 10, 20, 40, 80, 160, 320, 640].map(Duration::from_secs).into())
    }
}

impl From<Duration> for ParkDelays {
    fn from(delay: Duration) -> Self {
        Self(vec![delay])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 32;
    const TIMEOUT: Duration = Duration::from_secs(10);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn failing_since_start(failures: u64) -> Pace {
        let mut pace = Pace::new(MAX);
        for n in 1..=failures {
            pace.not_answered(TIMEOUT, TIMEOUT * u32::try_from(n).unwrap());
        }
        pace
    }

    #[test]
    fn five_requests_in_vain_leave_one_at_a_time_and_the_first_answer_ends_that() {
        let mut pace = failing_since_start(4);
        assert_eq!((pace.limit(), pace.is_probing()), (2, false));
        pace.not_answered(TIMEOUT, secs(50));
        assert_eq!((pace.limit(), pace.is_probing()), (1, true));
        pace.answered(Duration::from_millis(5));
        assert_eq!((pace.limit(), pace.is_probing(), pace.failing_for()), (2, false, Duration::ZERO));
    }

    #[test]
    fn a_receiver_of_one_place_is_probed_only_once_it_fails() {
        let mut pace = Pace::new(0);
        assert_eq!((pace.limit(), pace.is_probing()), (1, false));
        pace.not_answered(TIMEOUT, TIMEOUT);
        assert!(pace.is_probing());
    }

    #[test]
    fn what_fails_at_once_holds_no_place_and_takes_none() {
        let mut pace = Pace::new(MAX);
        for n in 0..100 {
            pace.not_answered(Duration::from_millis(1), secs(n));
        }
        assert!(pace.is_well(), "{pace:?}");
    }

    #[test]
    fn slow_answers_leave_all_places_but_make_slow() {
        let mut pace = Pace::new(MAX);
        for _ in 0..20 {
            pace.answered(secs(2));
        }
        assert_eq!(pace.limit(), MAX);
        assert!(pace.is_slow() && !pace.is_well());
        assert!(pace.expected_wait(0, MAX) > secs(1), "{:?}", pace.expected_wait(0, MAX));
    }

    #[test]
    fn only_the_time_in_which_it_was_seen_to_fail_counts() {
        let mut pace = failing_since_start(6);
        assert_eq!(pace.failing_for(), secs(60));
        // Nobody asks for an hour.
        pace.not_answered(TIMEOUT, secs(3_670));
        assert_eq!(pace.failing_for(), secs(3_670));
        pace.answered(TIMEOUT);
        assert_eq!(pace.failing_for(), Duration::ZERO);
    }

    #[test]
    fn whoever_waits_behind_more_than_there_are_places_waits_for_several_rounds() {
        let mut pace = Pace::new(MAX);
        for _ in 0..50 {
            pace.answered(Duration::from_millis(100));
        }
        let of = |before, at_once| pace.expected_wait(before, at_once).as_millis().div_ceil(10) * 10;
        assert_eq!([of(0, 32), of(31, 32), of(32, 32), of(9, 1)], [100, 100, 200, 1000]);
    }

    #[test]
    fn nobody_is_parked_for_longer_than_the_receiver_has_been_failing() {
        let delays = ParkDelays::default();
        let delay = |failing| delays.delay(delays.rung_after(secs(failing)));
        assert_eq!([0, 9, 10, 159, 160, 100_000].map(delay), [5, 5, 10, 80, 160, 640].map(secs));
    }

    #[test]
    fn delays_are_a_ladder_whatever_their_order() {
        let delays = ParkDelays::new([30, 5, 30].map(secs));
        assert_eq!(delays.all(), [5, 30].map(secs));
        assert_eq!(delays.delay(7), secs(30));
        assert_eq!([0, 5, 29, 30].map(|time| delays.rung_beyond(secs(time))), [0, 1, 1, 1]);
        assert_eq!(ParkDelays::new([]), ParkDelays::default());
    }

    /// How requests end, one after the other: answered or not, after so many milliseconds.
    fn endings() -> impl Strategy<Value = Vec<(bool, u64)>> {
        prop::collection::vec((any::<bool>(), prop_oneof![0_u64..300, 0_u64..300_000]), 0..200)
    }

    fn after(max: usize, endings: &[(bool, u64)]) -> (Pace, Duration) {
        let (mut pace, mut now) = (Pace::new(max), Duration::ZERO);
        for (answered, millis) in endings {
            let took = Duration::from_millis(*millis);
            now += took;
            if *answered { pace.answered(took) } else { pace.not_answered(took, now) }
        }
        (pace, now)
    }

    proptest! {
        #[test]
        fn there_is_always_a_place_and_never_more_than_configured(max in 1_usize..1000, endings in endings()) {
            let (pace, now) = after(max, &endings);
            prop_assert!((1..=max).contains(&pace.limit()));
            prop_assert!(pace.failing_for() <= now);
            prop_assert!(!pace.is_probing() || pace.limit() == 1);
        }

        #[test]
        fn a_receiver_that_is_well_again_has_everything_back_after_a_bounded_number_of_answers(
            max in 1_usize..200, endings in endings(),
        ) {
            let (mut pace, _) = after(max, &endings);
            // From 300 s to a quarter of a second takes 26 answers.
            for _ in 0..max.max(26) {
                pace.answered(Duration::from_millis(5));
            }
            prop_assert!(pace.is_well(), "{pace:?}");
        }

        #[test]
        fn an_answer_never_takes_and_waiting_in_vain_never_gives(max in 1_usize..1000, endings in endings()) {
            let (pace, now) = after(max, &endings);
            for millis in [0, 100, 10_000] {
                let took = Duration::from_millis(millis);
                let (mut well, mut ill) = (pace, pace);
                well.answered(took);
                ill.not_answered(took, now + took);
                prop_assert!(well.limit() >= pace.limit());
                prop_assert!(ill.limit() <= well.limit());
                prop_assert!(took <= QUICK || ill.limit() <= pace.limit().div_ceil(2));
            }
        }

        #[test]
        fn the_longer_it_fails_the_longer_is_parked_and_never_longer_than_that(
            millis in prop::collection::vec(1_u64..3_600_000, 1..8), earlier in 0_u64..10_000_000, more in 0_u64..10_000_000,
        ) {
            let delays = ParkDelays::new(millis.into_iter().map(Duration::from_millis));
            let (earlier, later) = (Duration::from_millis(earlier), Duration::from_millis(earlier + more));
            let delay = |failing| delays.delay(delays.rung_after(failing));
            prop_assert!(delay(earlier) <= delay(later));
            prop_assert!(delay(later) <= later.max(delays.delay(0)));
        }
    }
}

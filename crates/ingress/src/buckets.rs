//! Token buckets in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time between two looks for what may be forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Buckets of those who cannot be remembered.
const SHARED: usize = 64;

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come back in a second; at least 1.
    pub per_second: u32,
    /// Tokens in a full bucket.
    pub burst: u32,
}

impl Rate {
    /// The time in which this many tokens come back, in nanoseconds.
    fn nanos(self, tokens: u32) -> u64 {
        u64::from(tokens) * 1_000_000_000 / u64::from(self.per_second.max(1))
    }

    /// The time in which an empty bucket fills.
    pub fn window(self) -> Duration {
        Duration::from_nanos(self.nanos(self.burst))
    }
}

/// How a bucket stands after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How long to wait until the same request is let through; `None` if it was.
    pub wait: Option<Duration>,
    /// Tokens that are left.
    pub left: u32,
    /// The time until the bucket is full again.
    pub full_in: Duration,
}

/// A bucket for each key, each with the same rate (the generic cell rate algorithm: of a bucket one number is kept, the time at
/// which it will be full).
///
/// **Memory is bounded, and that cannot be used to get a new bucket.** Only full buckets are forgotten, which is the same as
/// remembering them. When there is no room, newcomers share a few buckets, chosen by a hash that nobody outside can
/// foresee. To fill the memory until the next look for what may be forgotten takes one token of each of `remembered` keys; to
/// keep it full, they have to be kept from being full: `remembered` × the rate of tokens a second.
#[derive(Debug)]
pub struct Buckets {
    rate: Rate,
    remembered: usize,
    hasher: RandomState,
    origin: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the buckets will be full, in nanoseconds since the origin, by the hash of their key.
    buckets: HashMap<u64, u64>,
    shared: [u64; SHARED],
    /// Nanoseconds since the origin.
    last_sweep: Option<u64>,
}

impl Buckets {
    /// At most `remembered` buckets of this rate.
    pub fn new(rate: Rate, remembered: usize, origin: Instant) -> Self {
        let state = State { buckets: HashMap::new(), shared: [0; SHARED], last_sweep: None };
        Self { rate, remembered, hasher: RandomState::new(), origin, state: Mutex::new(state) }
    }

    /// The rate of every bucket.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes tokens out, all or none. What costs more than a full bucket never passes.
    pub fn take(&self, key: &impl Hash, cost: u32, now: Instant) -> Standing {
        let (now, cost, burst) =
            (self.since_origin(now), self.rate.nanos(cost), self.rate.nanos(self.rate.burst));
        let mut state = self.lock();
        let full_at = self.bucket(&mut state, key, now);
        let missing = full_at.saturating_sub(now);
        if missing + cost > burst {
            return self.standing(missing, Some(missing + cost - burst));
        }
        *full_at = now + missing + cost;
        self.standing(missing + cost, None)
    }

    fn standing(&self, missing: u64, wait: Option<u64>) -> Standing {
        let left = self.rate.nanos(self.rate.burst).saturating_sub(missing) / self.rate.nanos(1).max(1);
        Standing {
            wait: wait.map(Duration::from_nanos),
            left: u32::try_from(left).unwrap_or(u32::MAX),
            full_in: Duration::from_nanos(missing),
        }
    }

    fn bucket<'a>(&self, state: &'a mut State, key: &impl Hash, now: u64) -> &'a mut u64 {
        let hash = self.hasher.hash_one(key);
        let is_new = !state.buckets.contains_key(&hash);
        if is_new && state.buckets.len() >= self.remembered {
            state.sweep(now);
        }
        if is_new && state.buckets.len() >= self.remembered {
            return state.shared_bucket(hash);
        }
        state.buckets.entry(hash).or_insert(now)
    }

    fn since_origin(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX / 4)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers are whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets full buckets; not at every request, for it looks at all of them.
    fn sweep(&mut self, now: u64) {
        let is_due = |last_sweep| Duration::from_nanos(now.saturating_sub(last_sweep)) >= SWEEP_INTERVAL;
        if self.last_sweep.is_none_or(is_due) {
            self.last_sweep = Some(now);
            self.buckets.retain(|_, full_at| *full_at > now);
        }
    }

    fn shared_bucket(&mut self, hash: u64) -> &mut u64 {
        let index = usize::try_from(hash % SHARED as u64).unwrap_or(0);
        &mut self.shared[index]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 20 };

    fn buckets(remembered: usize) -> (Buckets, Instant) {
        let origin = Instant::now();
        (Buckets::new(RATE, remembered, origin), origin)
    }

    #[test]
    fn a_burst_passes_and_then_as_much_as_comes_back() {
        let (buckets, start) = buckets(10);
        for left in (0..20).rev() {
            let standing = buckets.take(&"a", 1, start);
            assert_eq!((standing.wait, standing.left), (None, left));
        }
        let refused = buckets.take(&"a", 1, start);
        assert_eq!(refused.wait, Some(Duration::from_millis(100)));
        assert_eq!((refused.left, refused.full_in), (0, Duration::from_secs(2)));
        assert_eq!(buckets.take(&"b", 20, start).wait, None, "others have their own");
        let later = start + Duration::from_millis(250);
        assert_eq!(buckets.take(&"a", 2, later).wait, None);
        assert_eq!(
            buckets.take(&"a", 1, later).wait,
            Some(Duration::from_millis(50)),
            "refusals cost nothing"
        );
        assert_eq!(
            buckets.take(&"a", 20, start + Duration::from_hours(1)).wait,
            None,
            "no more than a burst is saved"
        );
        assert_eq!(buckets.take(&"a", 1, start + Duration::from_hours(1)).left, 0);
    }

    #[test]
    fn memory_has_a_bound_and_nobody_gets_a_new_bucket_by_filling_it() {
        let (buckets, start) = buckets(100);
        while buckets.take(&"attacker", 1, start).wait.is_none() {}
        for other in 0..10_000 {
            buckets.take(&other, 1, start);
        }
        assert!(buckets.lock().buckets.len() <= 100);
        assert!(buckets.take(&"attacker", 1, start).wait.is_some(), "still empty");

        // Those without a place share; what they share is bounded too.
        let shared = (10_000..50_000).filter(|key| buckets.take(key, 1, start).wait.is_none()).count();
        assert!(shared <= SHARED * 20, "{shared}");

        // What makes room is full, never what owes.
        let soon = start + Duration::from_millis(1500);
        assert_eq!(buckets.take(&"attacker", 20, soon).wait, Some(Duration::from_millis(500)));

        // Full buckets make room.
        let later = start + Duration::from_secs(10);
        assert_eq!(buckets.take(&"newcomer", 20, later).wait, None);
        assert!(buckets.lock().buckets.len() <= 2);
    }

    proptest! {
        /// In no span of time does more pass than a burst and what comes back.
        #[test]
        fn no_order_of_requests_gets_more_than_the_rate(
            requests in proptest::collection::vec((0_u64..300, 1_u32..8), 1..200)
        ) {
            let (buckets, start) = buckets(10);
            let mut at = start;
            let mut passed: Vec<(Instant, u32)> = Vec::new();
            for (wait, cost) in requests {
                at += Duration::from_millis(wait);
                if buckets.take(&"a", cost, at).wait.is_none() {
                    passed.push((at, cost));
                }
            }
            for (first, (from, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (to, cost) in &passed[first..] {
                    sum += cost;
                    let allowed = 20.0 + (*to - *from).as_secs_f64() * 10.0;
                    prop_assert!(f64::from(sum) <= allowed + 0.001, "{} in {:?}", sum, *to - *from);
                }
            }
        }
    }
}

//! Very many durations in little memory.

use std::time::Duration;

/// The parts that each power of two is told apart in.
const PARTS: u64 = 32;

/// Durations, counted in buckets that are 3 % wide at most, and a microsecond at least.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
}

impl Histogram {
    pub(crate) fn add(&mut self, time: Duration) {
        let bucket = bucket(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
    }

    /// The nearest rank, rounded up to the end of its bucket; `None` of nothing. `permille` is up to 1,000.
    pub(crate) fn at(&self, permille: u64) -> Option<Duration> {
        let rank = (self.count * permille).div_ceil(1000).max(1);
        let mut up_to_here = 0;
        let bucket = self.counts.iter().position(|count| {
            up_to_here += count;
            up_to_here >= rank
        })?;
        Some(Duration::from_micros(end(bucket)))
    }
}

/// Up to twice the parts a bucket for each microsecond; then as many for every power of two.
fn bucket(micros: u64) -> usize {
    let power = micros.max(1).ilog2().saturating_sub(PARTS.ilog2());
    let bucket = u64::from(power) * PARTS + (micros >> power);
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// The last microsecond of a bucket.
fn end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let power = (bucket / PARTS).saturating_sub(1);
    ((bucket - power * PARTS + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_end_where_the_next_begins() {
        for micros in (0..5000).chain([1 << 20, (1 << 40) + 12_345]) {
            let end = end(bucket(micros));
            assert!(micros <= end && end <= micros + micros / PARTS, "{micros}: {end}");
            assert_eq!((bucket(end), bucket(end + 1)), (bucket(micros), bucket(micros) + 1), "{micros}");
        }
    }

    #[test]
    fn percentiles_are_the_nearest_rank_within_a_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.at(500), None);
        (1..=1000).for_each(|millis| histogram.add(Duration::from_millis(millis)));
        for (permille, millis) in [(0, 1), (500, 500), (990, 990), (1000, 1000)] {
            let (found, exact) = (histogram.at(permille).unwrap(), Duration::from_millis(millis));
            assert!(found >= exact && found <= exact.mul_f64(1.04), "{permille}: {found:?}");
        }
    }
}

//! Percentiles, rates and medians.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds from publish (or send) to receipt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Latency {
    /// Of at least one latency.
    pub(crate) fn of(mut latencies: Vec<Duration>) -> Option<Self> {
        latencies.sort_unstable();
        let at = |percent| nearest_rank(&latencies, percent).map(|latency| millis(*latency));
        Some(Self { p50: at(50)?, p90: at(90)?, p99: at(99)?, max: at(100)? })
    }
}

/// The smallest of the sorted values that `percent` percent of them are not above; `None` of none.
pub(crate) fn nearest_rank<T>(sorted: &[T], percent: usize) -> Option<&T> {
    sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?)
}

/// The middle one; of an even number the mean of the two in the middle; `None` of none.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 { Some(upper) } else { Some(f64::midpoint(values[middle - 1], upper)) }
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "memory is far below 2^53 bytes")]
    let bytes = bytes as f64;
    bytes / (1024.0 * 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(crate) fn per_thousand(seconds: f64, count: usize) -> f64 {
    seconds / count.max(1) as f64 * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(crate) fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(value: f64, expected: f64) -> bool {
        (value - expected).abs() < 1e-9
    }

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let latency = Latency::of((1..=200).rev().map(Duration::from_millis).collect()).unwrap();
        assert!(is(latency.p50, 100.0), "{latency:?}");
        assert!(is(latency.p90, 180.0), "{latency:?}");
        assert!(is(latency.p99, 198.0), "{latency:?}");
        assert!(is(latency.max, 200.0), "{latency:?}");
        assert!(Latency::of(Vec::new()).is_none());
    }

    #[test]
    fn one_value_is_all_percentiles() {
        assert_eq!([1, 50, 100].map(|percent| nearest_rank(&[7], percent)), [Some(&7); 3]);
        assert_eq!(nearest_rank::<u8>(&[], 50), None);
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert!(is(median(vec![3.0, 1.0, 2.0]).unwrap(), 2.0));
        assert!(is(median(vec![4.0, 1.0, 2.0, 3.0]).unwrap(), 2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn rates_and_costs_are_for_a_second_and_a_thousand() {
        assert!(is(per_second(3000, Duration::from_millis(1500)), 2000.0));
        assert!(is(per_thousand(2.0, 4000), 0.5));
    }
}

//! What goes on over time: sampled while a scenario runs, and made of the receipts afterwards.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::stats::{millis, nearest_rank, per_second};
use crate::tally::Tally;

/// Receipts are counted in steps of this.
const STEP: Duration = Duration::from_millis(250);

/// A step's percentiles are those of the receipts of this time before its end.
const WINDOW: Duration = Duration::from_secs(1);

/// One line of a plot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    /// Lines of one panel share an axis.
    pub(crate) panel: String,
    pub(crate) name: String,
    /// Seconds since the scenario began, and the value then.
    pub(crate) points: Vec<(f64, f64)>,
}

impl Series {
    pub(crate) fn new(panel: &str, name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { panel: panel.to_owned(), name: name.to_owned(), points }
    }

    /// With about so many points at most, half of them the lowest and half of them the highest of their time: what is seen
    /// of a plot stays.
    pub(crate) fn thinned(&self, most: usize) -> Self {
        let each = (2 * self.points.len()).div_ceil(most.max(2)).max(1);
        if each <= 2 {
            return self.clone();
        }
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let extremes = self.points.chunks(each).flat_map(|chunk| {
            let (low, high) = (chunk.iter().min_by(by_value), chunk.iter().max_by(by_value));
            let mut both: Vec<_> = low.into_iter().chain(high).copied().collect();
            both.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            both
        });
        Self { points: extremes.collect(), ..self.clone() }
    }
}

/// Deliveries a second, and the percentiles of the last second's latencies, of these events.
pub(crate) fn of_receipts(tally: &Tally, events: Range<usize>, name: &str) -> Vec<Series> {
    let receipts = tally.received_of(events).map(|delivery| (delivery.received, delivery.latency()));
    let steps = Steps::of(receipts);
    let with = |suffix: &str| if name.is_empty() { suffix.to_owned() } else { format!("{name}, {suffix}") };
    vec![
        Series::new("deliveries/s", if name.is_empty() { "received" } else { name }, steps.rate()),
        Series::new("latency (ms)", &with("p50"), steps.percentile(50)),
        Series::new("latency (ms)", &with("p99"), steps.percentile(99)),
    ]
}

/// Latencies by the step in which they were received.
struct Steps(BTreeMap<u64, Vec<Duration>>);

impl Steps {
    fn of(receipts: impl Iterator<Item = (Duration, Duration)>) -> Self {
        let mut steps: BTreeMap<u64, Vec<Duration>> = BTreeMap::new();
        for (at, latency) in receipts {
            steps.entry(step(at)).or_default().push(latency);
        }
        Self(steps)
    }

    /// From the first step with a receipt to the last.
    fn range(&self) -> Range<u64> {
        match (self.0.first_key_value(), self.0.last_key_value()) {
            (Some((first, _)), Some((last, _))) => *first..last + 1,
            _ => 0..0,
        }
    }

    fn rate(&self) -> Vec<(f64, f64)> {
        let of = |step: u64| per_second(self.0.get(&step).map_or(0, Vec::len), STEP);
        self.range().map(|step| (end(step), of(step))).collect()
    }

    fn percentile(&self, percent: usize) -> Vec<(f64, f64)> {
        let steps_of_window = step(WINDOW);
        let of = |last: u64| {
            let first = (last + 1).saturating_sub(steps_of_window);
            let mut latencies: Vec<Duration> =
                self.0.range(first..=last).flat_map(|it| it.1.clone()).collect();
            latencies.sort_unstable();
            nearest_rank(&latencies, percent).map(|latency| (end(last), millis(*latency)))
        };
        self.range().filter_map(of).collect()
    }
}

fn step(at: Duration) -> u64 {
    u64::try_from(at.as_nanos() / STEP.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a scenario has few steps")]
fn end(step: u64) -> f64 {
    (step + 1) as f64 * STEP.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_become_a_rate_and_the_percentiles_of_the_last_second() {
        let at = Duration::from_millis;
        let receipts = [(at(100), at(1)), (at(110), at(3)), (at(600), at(9)), (at(1900), at(5))];
        let steps = Steps::of(receipts.into_iter());
        let rate = steps.rate();
        assert_eq!(rate.len(), 8, "steps without receipts are there too");
        assert_eq!(rate[..3], [(0.25, 8.0), (0.5, 0.0), (0.75, 4.0)]);
        let p99 = steps.percentile(99);
        assert_eq!(p99[..4], [(0.25, 3.0), (0.5, 3.0), (0.75, 9.0), (1.0, 9.0)]);
        assert_eq!(p99.last(), Some(&(2.0, 5.0)));
        let seconds: Vec<f64> = p99.iter().map(|point| point.0).collect();
        assert!(!seconds.contains(&1.75), "nothing came in the second before: {seconds:?}");
    }

    #[test]
    fn a_line_is_thinned_without_losing_its_peaks() {
        let points: Vec<_> = (0..1000_u32).map(|n| (f64::from(n), f64::from(n * 7919 % 1000))).collect();
        let line = Series::new("ready", "queue", points);
        let thinned = line.thinned(100);
        assert!(thinned.points.len() <= 100 && thinned.points.is_sorted_by(|a, b| a.0 <= b.0));
        let values = || thinned.points.iter().map(|point| point.1);
        assert_eq!((values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max)), (0.0, 999.0));
        assert_eq!(line.thinned(1000), line);
    }

    #[test]
    fn nothing_received_is_an_empty_plot() {
        assert_eq!(Steps::of(std::iter::empty()).rate(), []);
    }
}

//! What was measured, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::processes::Usage;
use crate::tally::Counts;

/// Everything that one run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// When it began, RFC 3339.
    pub(crate) at: String,
    pub(crate) machine: Machine,
    pub(crate) load: LoadFigures,
    pub(crate) platform: Side,
    pub(crate) bare_loop: Side,
    /// Platform ÷ bare loop.
    pub(crate) ratios: Ratios,
    /// CPU and memory of each process over the burst through the platform.
    pub(crate) processes: BTreeMap<String, ProcessFigures>,
    /// Requests whose signature or address was wrong.
    pub(crate) invalid_requests: u64,
    /// The longest that the load generator was behind its schedule, in milliseconds.
    pub(crate) generator_lag_ms: f64,
}

/// Where it ran.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) cpu: String,
    pub(crate) postgresql: String,
    pub(crate) fsync: String,
    pub(crate) synchronous_commit: String,
}

/// What was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct LoadFigures {
    pub(crate) events: usize,
    pub(crate) webhooks: usize,
    pub(crate) body_bytes: usize,
    pub(crate) steady_per_second: u32,
    pub(crate) steady_seconds: u32,
    pub(crate) connections_of_the_bare_loop: usize,
}

/// One of the two that are compared.
#[derive(Debug, Serialize)]
pub(crate) struct Side {
    pub(crate) burst: Counts,
    pub(crate) burst_seconds: f64,
    pub(crate) deliveries_per_second: f64,
    pub(crate) cpu_seconds_per_1000: f64,
    pub(crate) steady: Counts,
    pub(crate) steady_latency_ms: Latency,
}

/// Milliseconds from publish (or send) to receipt.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// Platform ÷ bare loop.
#[derive(Debug, Serialize)]
pub(crate) struct Ratios {
    pub(crate) deliveries_per_second: f64,
    pub(crate) cpu_seconds_per_1000: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// One process with its children.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessFigures {
    pub(crate) cpu_seconds_per_1000: f64,
    pub(crate) peak_rss_bytes: u64,
}

impl Latency {
    /// Of at least one latency.
    pub(crate) fn of(mut latencies: Vec<Duration>) -> Option<Self> {
        latencies.sort_unstable();
        // The nearest rank.
        let rank = |percent: usize| latencies.get((latencies.len() * percent).div_ceil(100).checked_sub(1)?);
        Some(Self { p50: millis(*rank(50)?), p99: millis(*rank(99)?), max: millis(*latencies.last()?) })
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(crate) fn per_thousand(seconds: f64, count: usize) -> f64 {
    seconds / count.max(1) as f64 * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(crate) fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

impl Ratios {
    pub(crate) fn of(platform: &Side, bare: &Side) -> Self {
        Self {
            deliveries_per_second: platform.deliveries_per_second / bare.deliveries_per_second,
            cpu_seconds_per_1000: platform.cpu_seconds_per_1000 / bare.cpu_seconds_per_1000,
            p50: platform.steady_latency_ms.p50 / bare.steady_latency_ms.p50,
            p99: platform.steady_latency_ms.p99 / bare.steady_latency_ms.p99,
        }
    }
}

/// What each process used between two moments.
pub(crate) fn between(
    before: &BTreeMap<String, Usage>,
    after: &BTreeMap<String, Usage>,
    deliveries: usize,
) -> BTreeMap<String, ProcessFigures> {
    let figures = after.iter().map(|(name, usage)| {
        let earlier = before.get(name).copied().unwrap_or_default();
        let cpu = per_thousand(usage.cpu_seconds - earlier.cpu_seconds, deliveries);
        (name.clone(), ProcessFigures { cpu_seconds_per_1000: cpu, peak_rss_bytes: usage.peak_rss_bytes })
    });
    figures.collect()
}

impl Report {
    /// Why the run does not count; empty if it does.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, counts) in self.counts() {
            if counts.missing > 0 {
                faults.push(format!("{name}: {} of {} are missing", counts.missing, counts.expected));
            }
        }
        if self.invalid_requests > 0 {
            faults.push(format!("{} requests had a wrong signature or address", self.invalid_requests));
        }
        for (setting, value) in
            [("fsync", &self.machine.fsync), ("synchronous_commit", &self.machine.synchronous_commit)]
        {
            if value != "on" {
                faults.push(format!("PostgreSQL runs with {setting}={value}: nobody would in production"));
            }
        }
        faults
    }

    fn counts(&self) -> [(&'static str, Counts); 4] {
        [
            ("platform, burst", self.platform.burst),
            ("platform, steady", self.platform.steady),
            ("bare loop, burst", self.bare_loop.burst),
            ("bare loop, steady", self.bare_loop.steady),
        ]
    }

    /// The tables for people.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        let load = &self.load;
        let _ = writeln!(
            text,
            "{} events to {} webhooks, bodies of {} bytes; then {}/s for {} s; {} cores ({}), PostgreSQL {}\n",
            load.events,
            load.webhooks,
            load.body_bytes,
            load.steady_per_second,
            load.steady_seconds,
            self.machine.cores,
            self.machine.cpu,
            self.machine.postgresql,
        );
        let mut row = |cells: [&str; 4]| {
            let _ = writeln!(text, "{:<34}{:>12}{:>12}{:>12}", cells[0], cells[1], cells[2], cells[3]);
        };
        row(["", "platform", "bare loop", "ratio"]);
        let (platform, bare, ratios) = (&self.platform, &self.bare_loop, &self.ratios);
        for (name, ours, theirs, ratio, digits) in [
            (
                "deliveries/s",
                platform.deliveries_per_second,
                bare.deliveries_per_second,
                ratios.deliveries_per_second,
                0,
            ),
            (
                "CPU seconds per 1,000 deliveries",
                platform.cpu_seconds_per_1000,
                bare.cpu_seconds_per_1000,
                ratios.cpu_seconds_per_1000,
                3,
            ),
            (
                "steady rate, p50 (ms)",
                platform.steady_latency_ms.p50,
                bare.steady_latency_ms.p50,
                ratios.p50,
                2,
            ),
            (
                "steady rate, p99 (ms)",
                platform.steady_latency_ms.p99,
                bare.steady_latency_ms.p99,
                ratios.p99,
                2,
            ),
        ] {
            let cells = [format!("{ours:.digits$}"), format!("{theirs:.digits$}"), format!("{ratio:.3}")];
            row([name, &cells[0], &cells[1], &cells[2]]);
        }
        let max = [platform.steady_latency_ms.max, bare.steady_latency_ms.max].map(|it| format!("{it:.2}"));
        row(["steady rate, max (ms)", &max[0], &max[1], ""]);
        let duplicates = [platform, bare].map(|side| side.burst.duplicates + side.steady.duplicates);
        let duplicates = duplicates.map(|count| count.to_string());
        row(["received more than once", &duplicates[0], &duplicates[1], ""]);
        let missing = [platform, bare].map(|side| side.burst.missing + side.steady.missing);
        let missing = missing.map(|count| count.to_string());
        row(["never received", &missing[0], &missing[1], ""]);

        let _ = writeln!(
            text,
            "\n{:<34}{:>24}{:>16}",
            "process, with its children", "CPU s per 1,000", "peak RSS MiB"
        );
        for (name, figures) in &self.processes {
            let mib = figures.peak_rss_bytes / (1024 * 1024);
            let _ = writeln!(text, "{name:<34}{:>24.3}{mib:>16}", figures.cpu_seconds_per_1000);
        }
        let _ = writeln!(
            text,
            "\nloadtest is publisher and receiver. Memory that processes share is counted in each of them. The load \
             generator was at most {:.1} ms behind its schedule.",
            self.generator_lag_ms
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let latency = Latency::of((1..=200).rev().map(Duration::from_millis).collect()).unwrap();
        assert!((latency.p50 - 100.0).abs() < 1e-9, "{latency:?}");
        assert!((latency.p99 - 198.0).abs() < 1e-9, "{latency:?}");
        assert!((latency.max - 200.0).abs() < 1e-9, "{latency:?}");
        assert!(Latency::of(Vec::new()).is_none());
    }
}

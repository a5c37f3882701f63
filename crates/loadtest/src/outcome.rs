//! What a scenario found out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::processes::Usage;
use crate::series::Series;
use crate::stats::{Latency, mebibytes, per_thousand};
use crate::tally::Counts;

/// What a figure counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    PerSecond,
    Milliseconds,
    Seconds,
    /// CPU seconds for 1,000 deliveries.
    CpuSeconds,
    Mebibytes,
    /// How many times as fast: more is better.
    TimesAsFast,
    /// How many times as much of what costs: less is better.
    TimesAsMuch,
    /// A number that is neither good nor bad.
    Count,
}

impl Unit {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::CpuSeconds => "CPU s/1,000",
            Self::Mebibytes => "MiB",
            Self::TimesAsFast => "× as fast",
            Self::TimesAsMuch => "× as much",
            Self::Count => "",
        }
    }

    /// Whether more is better; `None` if neither is.
    pub(crate) fn more_is_better(self) -> Option<bool> {
        match self {
            Self::PerSecond | Self::TimesAsFast => Some(true),
            Self::Milliseconds | Self::Seconds | Self::CpuSeconds | Self::Mebibytes | Self::TimesAsMuch => {
                Some(false)
            }
            Self::Count => None,
        }
    }

    /// The value with as many digits as mean something.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond | Self::Count => format!("{value:.0}"),
            Self::Milliseconds | Self::TimesAsFast | Self::TimesAsMuch => format!("{value:.2}"),
            Self::Seconds | Self::Mebibytes => format!("{value:.1}"),
            Self::CpuSeconds => format!("{value:.3}"),
        }
    }
}

/// One number with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) unit: Unit,
}

/// Figures by name.
pub(crate) type Figures = BTreeMap<String, Figure>;

/// What became of the events of one phase.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PhaseCounts {
    pub(crate) phase: String,
    #[serde(flatten)]
    pub(crate) counts: Counts,
}

/// What one run of a scenario found out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) figures: Figures,
    pub(crate) phases: Vec<PhaseCounts>,
    /// Requests whose signature, event or webhook was wrong.
    pub(crate) invalid_requests: u64,
    /// What went on over time.
    pub(crate) series: Vec<Series>,
    /// What was lost otherwise, in words.
    pub(crate) faults: Vec<String>,
}

impl Outcome {
    pub(crate) fn set(&mut self, name: &str, value: f64, unit: Unit) {
        self.figures.insert(name.to_owned(), Figure { value, unit });
    }

    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.figures.get(name).map(|figure| figure.value)
    }

    /// Percentiles, each name behind `prefix`.
    pub(crate) fn set_latency(&mut self, prefix: &str, latency: Latency) {
        for (name, value) in
            [("p50", latency.p50), ("p90", latency.p90), ("p99", latency.p99), ("max", latency.max)]
        {
            self.set(&format!("{prefix}{name}_ms"), value, Unit::Milliseconds);
        }
    }

    pub(crate) fn count(&mut self, phase: &str, counts: Counts) {
        self.phases.push(PhaseCounts { phase: phase.to_owned(), counts });
    }

    /// CPU time of every process for 1,000 deliveries, of the services together, and the memory that each took at
    /// most.
    pub(crate) fn set_usage(
        &mut self,
        before: &BTreeMap<String, Usage>,
        after: &BTreeMap<String, Usage>,
        deliveries: usize,
    ) {
        let mut own = None;
        for (name, after) in after {
            let Some(before) = before.get(name) else { continue };
            let cpu = per_thousand(after.cpu_seconds - before.cpu_seconds, deliveries);
            self.set(&format!("cpu_{name}"), cpu, Unit::CpuSeconds);
            self.set(&format!("rss_peak_{name}"), mebibytes(after.peak_rss_bytes), Unit::Mebibytes);
            if is_own(name) {
                own = Some(own.unwrap_or(0.0) + cpu);
            }
        }
        if let Some(own) = own {
            self.set("cpu_own", own, Unit::CpuSeconds);
        }
    }

    /// Why it does not count; empty if it does.
    pub(crate) fn lost(&self) -> Vec<String> {
        let missing = self.phases.iter().filter(|phase| phase.counts.missing > 0).map(|phase| {
            format!("{}: {} of {} are missing", phase.phase, phase.counts.missing, phase.counts.expected)
        });
        let invalid = (self.invalid_requests > 0)
            .then(|| format!("{} requests had a wrong signature, event or webhook", self.invalid_requests));
        missing.chain(invalid).chain(self.faults.iter().cloned()).collect()
    }

    pub(crate) fn duplicates(&self) -> u64 {
        self.phases.iter().map(|phase| phase.counts.duplicates).sum()
    }
}

/// Whether a process is one of the platform's services.
pub(crate) fn is_own(process: &str) -> bool {
    process.starts_with("event-ingest") || process.starts_with("dispatcher")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_cpu_is_added_up_and_nobody_elses() {
        let usage = |cpu_seconds| Usage { cpu_seconds, peak_rss_bytes: 2 * 1024 * 1024 };
        let of = |cpu: [f64; 3]| {
            let names = ["event-ingest", "dispatcher-2", "rabbitmq"].map(str::to_owned);
            names.into_iter().zip(cpu.map(usage)).collect()
        };
        let mut outcome = Outcome::default();
        outcome.set_usage(&of([1.0, 1.0, 1.0]), &of([2.0, 3.0, 9.0]), 2000);
        assert_eq!(outcome.get("cpu_own"), Some(1.5));
        assert_eq!(outcome.get("cpu_rabbitmq"), Some(4.0));
        assert_eq!(outcome.get("rss_peak_dispatcher-2"), Some(2.0));
    }

    #[test]
    fn what_is_missing_or_invalid_is_a_loss_and_a_duplicate_is_not() {
        let mut outcome = Outcome::default();
        outcome.count("burst", Counts { expected: 2, received: 2, missing: 0, duplicates: 3 });
        assert_eq!(outcome.lost(), Vec::<String>::new());
        assert_eq!(outcome.duplicates(), 3);
        outcome.count("steady", Counts { expected: 2, received: 1, missing: 1, duplicates: 0 });
        outcome.invalid_requests = 1;
        assert_eq!(outcome.lost().len(), 2);
    }
}

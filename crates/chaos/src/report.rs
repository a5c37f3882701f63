//! The summary, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::faults::Fault;
use crate::verify::Verdict;

/// Findings of one name that are shown; more are counted.
const SHOWN: usize = 20;

/// A run, in figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Replays the run.
    pub(crate) seed: u64,
    /// How long faults and events came.
    pub(crate) minutes: f64,
    /// From the first event to the verdict.
    pub(crate) seconds: f64,
    /// Events a second.
    pub(crate) rate: u32,
    /// Whether the broker's data was deleted now and then.
    pub(crate) wipe: bool,
    /// Shards of the queues for dispatchers.
    pub(crate) shards: u16,
    /// Tries of events beyond the first, for want of a confirm.
    pub(crate) repeated_publishes: u64,
    /// What became of events and deliveries.
    pub(crate) verdict: Verdict,
    /// Findings by name.
    pub(crate) findings: BTreeMap<&'static str, usize>,
    /// Faults by victim and kind.
    pub(crate) faults: BTreeMap<String, BTreeMap<String, usize>>,
    /// The largest resident set of each process, in MiB.
    pub(crate) peak_rss_mib: BTreeMap<String, u64>,
    /// What a fault caused and must not.
    pub(crate) problems: Vec<String>,
}

impl Report {
    /// Whether all was as it has to be.
    pub(crate) fn is_clean(&self) -> bool {
        self.verdict.findings.is_empty() && self.problems.is_empty()
    }

    /// The summary for people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let verdict = &self.verdict;
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<28}{value}");
        };
        line("seed", self.seed.to_string());
        line("run time", format!("{:.0} s", self.seconds));
        line("accepted events", verdict.events.to_string());
        line("published again", self.repeated_publishes.to_string());
        line(
            "deliveries",
            format!("{}: {} succeeded, {} failed", verdict.deliveries, verdict.succeeded, verdict.failed),
        );
        line("requests", verdict.attempts.to_string());
        line("lost", verdict.lost.to_string());
        line("duplicates", format!("{}, unexplained {}", verdict.duplicates, verdict.unexplained));
        for (fault, count) in &verdict.explained_by {
            line("  explained by", format!("{fault}: {count}"));
        }
        line("after an unrecorded success", verdict.after_unrecorded_success.to_string());
        line("attempts given up", verdict.given_up.to_string());
        for (victim, kinds) in &self.faults {
            let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            line(&format!("faults at {victim}"), kinds.join(", "));
        }
        for (process, mib) in &self.peak_rss_mib {
            line(&format!("peak memory {process}"), format!("{mib} MiB"));
        }
        for (name, count) in &self.findings {
            line(&format!("FOUND {name}"), count.to_string());
        }
        let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
        for finding in &verdict.findings {
            let shown = shown.entry(finding.name()).or_default();
            *shown += 1;
            if *shown <= SHOWN {
                let _ = writeln!(text, "- {finding}");
            }
        }
        for problem in &self.problems {
            let _ = writeln!(text, "- {problem}");
        }
        text
    }

    /// Every finding and remark, one a line.
    pub(crate) fn all_findings(&self) -> String {
        self.verdict.findings.iter().chain(&self.verdict.remarks).fold(String::new(), |mut text, finding| {
            let _ = writeln!(text, "{finding}");
            text
        })
    }

    /// Writes the summary as JSON.
    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(file, text + "\n").with_context(|| file.display().to_string())
    }
}

/// Findings by name.
pub(crate) fn count_findings(verdict: &Verdict) -> BTreeMap<&'static str, usize> {
    verdict.findings.iter().fold(BTreeMap::new(), |mut counts, finding| {
        *counts.entry(finding.name()).or_default() += 1;
        counts
    })
}

/// Faults by victim and kind.
pub(crate) fn count_faults(faults: &[Fault]) -> BTreeMap<String, BTreeMap<String, usize>> {
    faults.iter().fold(BTreeMap::new(), |mut counts: BTreeMap<_, BTreeMap<_, _>>, fault| {
        *counts.entry(fault.victim.to_string()).or_default().entry(fault.kind.to_string()).or_default() += 1;
        counts
    })
}

/// One line of what happens.
#[expect(clippy::print_stdout, reason = "what happens is the program's output")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

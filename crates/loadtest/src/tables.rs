//! What was measured, for people.

use std::fmt::Write as _;

use crate::outcome::{Figures, Outcome};
use crate::required::{Required, missed, table};
use crate::results::{Results, ScenarioResults};

/// Memory and CPU time of processes are told in columns of their own.
const OF_PROCESSES: [&str; 2] = ["cpu_", "rss_peak_"];

/// One run of one scenario.
pub(crate) fn scenario(scenario: &str, outcome: &Outcome) -> String {
    let mut text = format!("{scenario}\n");
    write_figures(&mut text, &outcome.figures);
    write_counts(&mut text, outcome);
    text
}

/// All of it, with the medians if it was made several times.
pub(crate) fn all(results: &Results, required: &[Required]) -> String {
    let mut text = String::new();
    let machine = &results.machine;
    let _ = writeln!(text, "\n{} cores ({}), PostgreSQL {}", machine.cores, machine.cpu, machine.postgresql);
    if results.repeat > 1 {
        let _ = writeln!(text, "the median of {} runs\n", results.repeat);
        for scenario in &results.scenarios {
            write_medians(&mut text, scenario);
        }
    }
    let (table, missed) = (table(results, required), missed(results, required));
    if !table.is_empty() {
        let _ = writeln!(text, "\n{:<42}{:>12}{:>12}", "", "required", "measured");
        text.push_str(&table);
        let verdict = if missed == 0 { "all reached".to_owned() } else { format!("{missed} MISSED") };
        let _ = writeln!(text, "{verdict}");
    }
    let _ = writeln!(
        text,
        "\nCPU and memory are those of a process with its children; memory that they share is counted in each. \
         loadtest is publisher and receiver."
    );
    text
}

fn write_medians(text: &mut String, scenario: &ScenarioResults) {
    let _ = writeln!(text, "{}", scenario.name);
    write_figures(text, &scenario.figures);
    for run in &scenario.runs {
        write_counts(text, run);
    }
}

fn write_figures(text: &mut String, figures: &Figures) {
    let is_of_a_process = |name: &str| OF_PROCESSES.iter().any(|prefix| name.starts_with(prefix));
    for (name, figure) in figures.iter().filter(|(name, _)| !is_of_a_process(name)) {
        let _ = writeln!(text, "  {name:<40}{:>12} {}", figure.unit.show(figure.value), figure.unit.as_str());
    }
    for (name, figure) in figures {
        let Some(process) = name.strip_prefix("cpu_") else { continue };
        let peak = figures.get(&format!("rss_peak_{process}"));
        let peak = peak.map_or_else(String::new, |peak| format!("  at most {:.0} MiB", peak.value));
        let _ = writeln!(text, "  {:<40}{:>12.3} {}{peak}", process, figure.value, figure.unit.as_str());
    }
}

fn write_counts(text: &mut String, outcome: &Outcome) {
    let expected: usize = outcome.phases.iter().map(|phase| phase.counts.expected).sum();
    let _ = writeln!(
        text,
        "  {expected} expected, {} lost or wrong, {} received more than once",
        outcome.phases.iter().map(|phase| phase.counts.missing as u64).sum::<u64>()
            + outcome.invalid_requests,
        outcome.duplicates(),
    );
}

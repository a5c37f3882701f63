//! The figures that are asked for, and which of them a run reached.

use std::fmt::{self, Write as _};

use crate::markdown::{self, grouped};
use crate::outcome::{Figure, Unit};
use crate::results::Results;

/// What a figure has to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(target) => value >= target,
            Self::AtMost(target) => value <= target,
        }
    }

    fn show(self, unit: Unit) -> String {
        match self {
            Self::AtLeast(target) => format!("≥ {}", unit.show(target)),
            Self::AtMost(target) => format!("≤ {}", unit.show(target)),
        }
    }
}

/// With as many digits as it was given.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, value) = match self {
            Self::AtLeast(value) => ("≥", value),
            Self::AtMost(value) => ("≤", value),
        };
        if *value >= 1000.0 { write!(f, "{sign} {}", grouped(*value)) } else { write!(f, "{sign} {value}") }
    }
}

/// A figure with its target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Required {
    what: &'static str,
    scenario: &'static str,
    figure: &'static str,
    target: Target,
    /// What naive programs of the same parts do, or the least that it could be: the floor's scenario and figure.
    floor: Option<(&'static str, &'static str)>,
}

const fn required(
    what: &'static str,
    scenario: &'static str,
    figure: &'static str,
    target: Target,
) -> Required {
    Required { what, scenario, figure, target, floor: None }
}

use Target::{AtLeast, AtMost};

/// On a machine with two cores that everything shares.
pub(crate) const FIGURES: &[Required] = &[
    required("deliveries/s, fan-out 1", "fan-out-1", "deliveries_per_second", AtLeast(9000.0))
        .beside("floor-2-hops", "deliveries_per_second"),
    required("… over the two-hop floor", "fan-out-1", "over_2_hops", AtLeast(1.2)),
    required("deliveries/s, fan-out 10", "fan-out-10", "deliveries_per_second", AtLeast(18_000.0))
        .beside("floor-bare", "deliveries_per_second"),
    required("publish → receipt at 200/s, p50", "latency-200", "p50_ms", AtMost(3.0))
        .beside("floor-2-hops", "at_200_p50_ms"),
    required("publish → receipt at 200/s, p99", "latency-200", "p99_ms", AtMost(8.0))
        .beside("floor-2-hops", "at_200_p99_ms"),
    required("p99 beside a hanging receiver ÷ alone", "hanging", "p99_beside_over_alone", AtMost(1.5))
        .beside("hanging", "p99_beside_nobody_over_alone"),
    required("own CPU s for 1,000 deliveries", "fan-out-1", "cpu_own", AtMost(0.10)),
    required("RSS idle, event-ingest", "backlog", "rss_idle_event-ingest", AtMost(25.0)),
    required("RSS idle, dispatcher", "backlog", "rss_idle_dispatcher", AtMost(25.0)),
    required("RSS with 200,000 waiting, event-ingest", "backlog", "rss_peak_event-ingest", AtMost(256.0)),
    required("RSS with 200,000 waiting, dispatcher", "backlog", "rss_peak_dispatcher", AtMost(256.0)),
    required("events/s, 95 % match nobody", "many-users", "events_per_second", AtLeast(12_000.0)),
    required("p99 added by another user's burst", "burst", "p99_added_ms", AtMost(50.0)),
    required("deliveries/s with 4 shards ÷ 1", "shards-4", "four_over_one", AtLeast(1.0)),
    required("cost with 100,000 webhooks ÷ 10", "flat", "many_webhooks_over_few", AtMost(1.1)),
    required("cost with 5,000,000 deliveries ÷ none", "flat", "many_deliveries_over_few", AtMost(1.1)),
];

/// What a short run guards: ratios, generously, because machines that check changes are busy with other things.
pub(crate) const GUARDS: &[Required] = &[
    required("fan-out 1 over the two-hop floor", "fan-out-1", "over_2_hops", AtLeast(0.4)),
    required("fan-out 10 over the two-hop floor", "fan-out-10", "over_2_hops", AtLeast(0.6)),
    required("p50 at 200/s ÷ the two-hop floor's", "latency-200", "p50_over_2_hops", AtMost(4.0)),
    required("p50 beside a hanging receiver ÷ alone", "hanging", "p50_beside_over_alone", AtMost(4.0)),
];

impl Required {
    const fn beside(self, floor: &'static str, figure: &'static str) -> Self {
        Self { floor: Some((floor, figure)), ..self }
    }

    fn measured(&self, results: &Results) -> Option<Figure> {
        results.figure(self.scenario, self.figure)
    }
}

/// How many of the figures that were measured are missed.
pub(crate) fn missed(results: &Results, figures: &[Required]) -> usize {
    let is_missed = |required: &&Required| {
        required.measured(results).is_some_and(|figure| !required.target.is_reached(figure.value))
    };
    figures.iter().filter(is_missed).count()
}

/// The figures that were measured, with their targets.
pub(crate) fn table(results: &Results, figures: &[Required]) -> String {
    let mut text = String::new();
    for required in figures {
        let Some(figure) = required.measured(results) else { continue };
        let _ = writeln!(
            text,
            "{:<42}{:>12}{:>12}  {}",
            required.what,
            required.target.show(figure.unit),
            figure.unit.show(figure.value),
            if required.target.is_reached(figure.value) { "reached" } else { "MISSED" },
        );
    }
    text
}

/// All figures for a document: required, measured, the floor's, and how they compare.
pub(crate) fn markdown(results: &Results, figures: &[Required]) -> String {
    let none = || "–".to_owned();
    let shown = |figure: Figure| match figure.unit {
        Unit::PerSecond => grouped(figure.value),
        unit => unit.show(figure.value),
    };
    let rows: Vec<_> = figures
        .iter()
        .map(|required| {
            let measured = required.measured(results);
            let floor = required.floor.and_then(|(floor, figure)| results.figure(floor, figure));
            let ratio =
                required.floor.and_then(|floor| results.ratio((required.scenario, required.figure), floor));
            let verdict = measured.map_or("not measured", |figure| {
                if required.target.is_reached(figure.value) { "reached" } else { "**missed**" }
            });
            vec![
                required.what.to_owned(),
                required.target.to_string(),
                measured.map_or_else(none, shown),
                floor.map_or_else(none, shown),
                ratio.map_or_else(none, |ratio| format!("{ratio:.2}")),
                verdict.to_owned(),
            ]
        })
        .collect();
    markdown::table(&["", "required", "measured", "floor", "measured ÷ floor", ""], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{outcome, results};
    use crate::scenario::SCENARIOS;

    #[test]
    fn a_missed_figure_is_told_as_missed_and_one_not_measured_is_left_out() {
        let mut results = results();
        let latencies = [("p50_ms", 3.0, Unit::Milliseconds), ("p99_ms", 8.1, Unit::Milliseconds)];
        results.add("latency-200", "", &outcome(&latencies));
        let (text, missed) = (table(&results, FIGURES), missed(&results, FIGURES));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), missed), (2, 1), "{text}");
        assert!(lines[0].contains("≤ 3.00") && lines[0].ends_with("reached"), "{text}");
        assert!(lines[1].contains("8.10") && lines[1].ends_with("MISSED"), "{text}");
    }

    #[test]
    fn a_document_tells_every_figure_beside_its_floor_and_what_is_missed_or_not_measured() {
        let mut results = results();
        let rate = |rate| outcome(&[("deliveries_per_second", rate, Unit::PerSecond)]);
        for (floor, ours) in [(5000.0, 10_000.0), (4000.0, 6000.0), (8000.0, 8000.0)] {
            results.add("floor-2-hops", "", &rate(floor));
            results.add("fan-out-1", "", &rate(ours));
        }
        let text = markdown(&results, FIGURES);
        assert_eq!(text.lines().count(), 2 + FIGURES.len(), "{text}");
        assert!(text.contains("| ≥ 9,000 | 8,000 | 5,000 | 1.50 | **missed** |"), "{text}");
        assert!(text.contains("| ≤ 1.1 | – | – | – | not measured |"), "{text}");
    }

    #[test]
    fn every_target_is_of_a_scenario_and_a_short_run_makes_what_it_guards() {
        for required in FIGURES.iter().chain(GUARDS) {
            assert!(SCENARIOS.iter().any(|scenario| scenario.name == required.scenario), "{required:?}");
        }
        let short = crate::scenario::chosen(&[], crate::size::Size::Short).unwrap();
        for guard in GUARDS {
            assert!(short.iter().any(|scenario| scenario.name == guard.scenario), "{guard:?}");
        }
    }
}

//! Two runs, figure by figure.

use std::fmt::Write as _;

use crate::outcome::Figure;
use crate::results::Results;

/// Changes up to this are noise.
const NOISE: f64 = 0.05;

/// What a change of a figure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Better,
    Worse,
    Other,
    Noise,
}

impl Change {
    fn of(before: Figure, after: Figure) -> Self {
        let ratio = after.value / before.value;
        if !ratio.is_finite() || (ratio - 1.0).abs() <= NOISE {
            return Self::Noise;
        }
        match after.unit.more_is_better() {
            None => Self::Other,
            Some(more_is_better) if more_is_better == (ratio > 1.0) => Self::Better,
            Some(_) => Self::Worse,
        }
    }

    fn mark(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Other => "changed",
            Self::Noise => "",
        }
    }
}

/// A table of all figures that both have, with the ratio of the second to the first.
pub(crate) fn compare(before: &Results, after: &Results) -> String {
    let mut text = String::new();
    for (name, results) in [("before", before), ("after", after)] {
        let _ = writeln!(text, "{name:<8}{}, {}, of {} runs", results.at, results.size, results.repeat);
    }
    let _ = writeln!(text, "\n{:<48}{:>12}{:>12}{:>8}", "", "before", "after", "ratio");
    for scenario in &after.scenarios {
        for (name, after) in &scenario.figures {
            let Some(before) = before.figure(&scenario.name, name) else { continue };
            let ratio = after.value / before.value;
            let ratio = if ratio.is_finite() { format!("{ratio:.3}") } else { String::new() };
            let _ = writeln!(
                text,
                "{:<48}{:>12}{:>12}{ratio:>8}  {}",
                format!("{} {name}", scenario.name),
                before.unit.show(before.value),
                after.unit.show(after.value),
                Change::of(before, *after).mark(),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Unit;
    use crate::results::tests::{outcome, results};

    #[test]
    fn a_change_is_better_or_worse_by_what_it_counts_and_little_is_noise() {
        let change =
            |unit, before, after| Change::of(Figure { value: before, unit }, Figure { value: after, unit });
        assert_eq!(change(Unit::PerSecond, 100.0, 110.0), Change::Better);
        assert_eq!(change(Unit::Milliseconds, 100.0, 110.0), Change::Worse);
        assert_eq!(change(Unit::Milliseconds, 100.0, 90.0), Change::Better);
        assert_eq!(change(Unit::TimesAsFast, 1.0, 0.9), Change::Worse);
        assert_eq!(change(Unit::Count, 100.0, 110.0), Change::Other);
        assert_eq!(change(Unit::PerSecond, 100.0, 104.9), Change::Noise);
        assert_eq!(change(Unit::PerSecond, 0.0, 0.0), Change::Noise);
    }

    #[test]
    fn what_only_one_run_has_is_left_out() {
        let (mut before, mut after) = (results(), results());
        before.add("fan-out-1", "", &outcome(&[("rate", 100.0, Unit::PerSecond)]));
        after.add("fan-out-1", "", &outcome(&[("rate", 50.0, Unit::PerSecond)]));
        after.add("fan-out-10", "", &outcome(&[("rate", 50.0, Unit::PerSecond)]));
        let text = compare(&before, &after);
        assert!(!text.contains("fan-out-10"), "{text}");
        assert!(text.lines().last().unwrap().contains("0.500  WORSE"), "{text}");
    }
}

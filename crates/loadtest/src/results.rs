//! Everything that a run found out, as it is written down and read again.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::outcome::{Figure, Figures, Outcome};
use crate::stats::median;

/// Grows when what is written down changes its meaning.
const SCHEMA: u32 = 2;

/// What was measured so far in one pass, by scenario.
#[derive(Debug, Default)]
pub(crate) struct Measured(BTreeMap<String, Outcome>);

impl Measured {
    pub(crate) fn add(&mut self, scenario: &str, outcome: Outcome) {
        self.0.insert(scenario.to_owned(), outcome);
    }

    pub(crate) fn has(&self, scenario: &str) -> bool {
        self.0.contains_key(scenario)
    }

    pub(crate) fn get(&self, scenario: &str, figure: &str) -> Option<f64> {
        self.0.get(scenario)?.get(figure)
    }
}

/// Where it ran.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) cpu: String,
    pub(crate) postgresql: String,
    pub(crate) fsync: String,
    pub(crate) synchronous_commit: String,
}

/// One scenario, as often as it was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ScenarioResults {
    pub(crate) name: String,
    pub(crate) what: String,
    /// The median of each figure.
    pub(crate) figures: Figures,
    pub(crate) runs: Vec<Outcome>,
}

/// A run of the benchmark.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) schema: u32,
    /// When it began, RFC 3339.
    pub(crate) at: String,
    /// `short`, `normal` or `all`.
    pub(crate) size: String,
    /// How often everything was made.
    pub(crate) repeat: u32,
    pub(crate) machine: Machine,
    pub(crate) scenarios: Vec<ScenarioResults>,
}

impl Results {
    pub(crate) fn new(at: String, size: String, repeat: u32, machine: Machine) -> Self {
        Self { schema: SCHEMA, at, size, repeat, machine, scenarios: Vec::new() }
    }

    /// Adds one run of a scenario; its figures become the medians of all its runs.
    pub(crate) fn add(&mut self, name: &str, what: &str, outcome: &Outcome) {
        if !self.scenarios.iter().any(|scenario| scenario.name == name) {
            self.scenarios.push(ScenarioResults {
                name: name.to_owned(),
                what: what.to_owned(),
                figures: Figures::new(),
                runs: Vec::new(),
            });
        }
        for scenario in self.scenarios.iter_mut().filter(|scenario| scenario.name == name) {
            scenario.runs.push(outcome.clone());
            scenario.figures = medians(&scenario.runs);
        }
    }

    pub(crate) fn figure(&self, scenario: &str, figure: &str) -> Option<Figure> {
        let scenario = self.scenarios.iter().find(|it| it.name == scenario)?;
        scenario.figures.get(figure).copied()
    }

    /// How a figure compares with another: the median of the runs' ratios, because runs differ more than what is measured one
    /// after the other. Where they were not made equally often, the ratio of the medians.
    pub(crate) fn ratio(&self, of: (&str, &str), to: (&str, &str)) -> Option<f64> {
        let runs = |(name, figure): (&str, &str)| {
            let scenario = self.scenarios.iter().find(|it| it.name == name)?;
            scenario.runs.iter().map(|run| run.get(figure)).collect::<Option<Vec<_>>>()
        };
        let (of_runs, to_runs) = (runs(of)?, runs(to)?);
        if of_runs.len() == to_runs.len() {
            return median(of_runs.iter().zip(&to_runs).map(|(of, to)| of / to).collect());
        }
        Some(self.figure(of.0, of.1)?.value / self.figure(to.0, to.1)?.value)
    }

    /// With the scenarios of others that this one does not have.
    pub(crate) fn with(mut self, others: impl IntoIterator<Item = Self>) -> anyhow::Result<Self> {
        for other in others {
            ensure!(
                (other.machine.cores, &other.machine.cpu) == (self.machine.cores, &self.machine.cpu),
                "the results of {} and {} are of different machines",
                self.at,
                other.at
            );
            let known = self.scenarios.len();
            for scenario in other.scenarios {
                if !self.scenarios.iter().any(|own| own.name == scenario.name) {
                    self.scenarios.push(scenario);
                }
            }
            if self.scenarios.len() > known {
                self.at = format!("{}, {}", self.at, other.at);
            }
        }
        Ok(self)
    }

    /// Why the run does not count; empty if it does.
    pub(crate) fn faults(&self) -> Vec<String> {
        let lost = self.scenarios.iter().flat_map(|scenario| {
            let lost = scenario.runs.iter().flat_map(Outcome::lost);
            lost.map(|fault| format!("{}, {fault}", scenario.name))
        });
        let settings =
            [("fsync", &self.machine.fsync), ("synchronous_commit", &self.machine.synchronous_commit)];
        let careless = settings
            .into_iter()
            .filter(|(_, value)| *value != "on")
            .map(|(name, value)| format!("PostgreSQL runs with {name}={value}: nobody would in production"));
        lost.chain(careless).collect()
    }

    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string(self)?;
        std::fs::write(file, text + "\n").with_context(|| file.display().to_string())
    }

    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: Option<u32>,
        }

        let named = || file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(named)?;
        let versioned: Versioned = serde_json::from_str(&text).with_context(named)?;
        ensure!(
            versioned.schema == Some(SCHEMA),
            "{}: was written by another version of the benchmark",
            named()
        );
        serde_json::from_str(&text).with_context(named)
    }
}

fn medians(runs: &[Outcome]) -> Figures {
    let mut values: BTreeMap<&String, Vec<Figure>> = BTreeMap::new();
    for (name, figure) in runs.iter().flat_map(|run| &run.figures) {
        values.entry(name).or_default().push(*figure);
    }
    let figures = values.into_iter().filter_map(|(name, figures)| {
        let unit = figures.first()?.unit;
        let value = median(figures.iter().map(|figure| figure.value).collect())?;
        Some((name.clone(), Figure { value, unit }))
    });
    figures.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::outcome::Unit;
    use crate::tally::Counts;

    pub(crate) fn results() -> Results {
        let machine = Machine {
            cores: 2,
            cpu: "a CPU".to_owned(),
            postgresql: "15".to_owned(),
            fsync: "on".to_owned(),
            synchronous_commit: "on".to_owned(),
        };
        Results::new("2026-11-26T00:00:00Z".to_owned(), "normal".to_owned(), 1, machine)
    }

    pub(crate) fn outcome(figures: &[(&str, f64, Unit)]) -> Outcome {
        let mut outcome = Outcome::default();
        for (name, value, unit) in figures {
            outcome.set(name, *value, *unit);
        }
        outcome
    }

    #[test]
    fn a_scenario_made_several_times_tells_the_median() {
        let mut results = results();
        for rate in [3.0, 1.0, 2.0] {
            results.add("fan-out-1", "", &outcome(&[("rate", rate, Unit::PerSecond)]));
        }
        assert_eq!(results.scenarios.len(), 1);
        assert_eq!(results.figure("fan-out-1", "rate").map(|figure| figure.value), Some(2.0));
    }

    #[test]
    fn ratios_are_taken_within_a_run() {
        let mut results = results();
        for (floor, ours) in [(1.0, 2.0), (10.0, 10.0), (100.0, 300.0)] {
            results.add("floor", "", &outcome(&[("rate", floor, Unit::PerSecond)]));
            results.add("ours", "", &outcome(&[("rate", ours, Unit::PerSecond)]));
        }
        assert_eq!(results.ratio(("ours", "rate"), ("floor", "rate")), Some(2.0));
        results.add("ours", "", &outcome(&[("rate", 20.0, Unit::PerSecond)]));
        assert_eq!(results.ratio(("ours", "rate"), ("floor", "rate")), Some(1.5));
        assert_eq!(results.ratio(("ours", "other"), ("floor", "rate")), None);
    }

    #[test]
    fn other_results_add_what_is_not_there_yet_unless_they_are_of_another_machine() {
        let rate = |rate| outcome(&[("rate", rate, Unit::PerSecond)]);
        let (mut first, mut second, mut third) = (results(), results(), results());
        first.add("a", "", &rate(1.0));
        second.add("a", "", &rate(2.0));
        second.add("b", "", &rate(3.0));
        let both = first.with([second]).unwrap();
        let value = |name| both.figure(name, "rate").map(|figure| figure.value);
        assert_eq!(both.at.matches("2026-11-26").count(), 2, "{}", both.at);
        assert_eq!((value("a"), value("b"), both.scenarios.len()), (Some(1.0), Some(3.0), 2));
        third.machine.cores = 64;
        assert!(both.with([third]).unwrap_err().to_string().contains("different machines"));
    }

    #[test]
    fn a_loss_in_any_run_and_a_careless_database_are_faults() {
        let mut results = results();
        results.add("fan-out-1", "", &Outcome::default());
        assert_eq!(results.faults(), Vec::<String>::new());
        let mut lossy = Outcome::default();
        lossy.count("burst", Counts { expected: 2, received: 1, missing: 1, duplicates: 0 });
        results.add("fan-out-1", "", &lossy);
        results.add("fan-out-1", "", &Outcome::default());
        results.machine.synchronous_commit = "off".to_owned();
        let faults = results.faults();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("fan-out-1, burst: 1 of 2"), "{faults:?}");
    }

    #[test]
    fn what_is_written_is_read_again_and_other_versions_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("results.json");
        let mut results = results();
        results.add("fan-out-1", "", &outcome(&[("rate", 1.5, Unit::PerSecond)]));
        results.write(&file).unwrap();
        let read = Results::read(&file).unwrap().figure("fan-out-1", "rate");
        assert_eq!(read, Some(Figure { value: 1.5, unit: Unit::PerSecond }));
        std::fs::write(&file, "{\"at\": \"2026\"}").unwrap();
        assert!(Results::read(&file).unwrap_err().to_string().contains("another version"));
    }
}

//! The generated parts of `docs/performance.md`, and its plots.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::Context as _;

use crate::figures;
use crate::markdown::put_between;
use crate::model::Scaling;
use crate::plot::{self, Along};
use crate::required::{self, FIGURES};
use crate::results::{Results, ScenarioResults};
use crate::series::Series;
use crate::simulate::{self, Observed, Setup};

/// Scenarios whose course over time is shown, and what there is to see.
const PLOTS: [(&str, &str); 6] = [
    ("fan-out-1", "60,000 events to one webhook each"),
    ("fan-out-10", "20,000 events to ten webhooks each"),
    ("latency-200", "200 events a second"),
    ("hanging", "a healthy receiver beside one that never answers"),
    ("burst", "single events of one user beside 100,000 at once of another"),
    ("backlog", "200,000 events that wait, drained by one dispatcher"),
];

/// Points of a line in a document.
const POINTS: usize = 240;

/// Numbers of dispatchers that are simulated too.
const OTHER_SIZES: [usize; 3] = [4, 8, 16];

/// How long it is simulated that nobody is bad.
const HEALTHY: Duration = Duration::from_secs(60);

/// A document with its plots in the directory of its name.
pub(crate) struct Document {
    file: PathBuf,
    plots: PathBuf,
    text: String,
}

impl Document {
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Ok(Self { file: file.to_owned(), plots: file.with_extension(""), text })
    }

    /// Writes everything anew that is made of these results.
    pub(crate) fn put_results(&mut self, results: &Results) -> anyhow::Result<()> {
        self.put("about", &figures::about(results))?;
        self.put("required", &required::markdown(results, FIGURES))?;
        self.put("floors", &figures::floors(results))?;
        self.put("rates", &figures::rates(results))?;
        self.put("latencies", &figures::latencies(results))?;
        self.put("beside", &figures::beside(results))?;
        self.put("memory", &figures::memory(results))?;
        self.put("flat", &figures::flat(results))?;
        self.put("cpu", &figures::cpu(results))?;
        self.put("pinned", &figures::pinned(results))?;
        let mut shown = String::new();
        for (name, what) in PLOTS {
            let scenario = results.scenarios.iter().find(|scenario| scenario.name == name);
            if self.draw(name, scenario.and_then(|scenario| plot_of(scenario, what)))? {
                shown.push_str(&self.image(name, &format!("`{name}`: {what}")));
            }
        }
        self.put("plots", &shown)
    }

    pub(crate) fn put_scaling(&mut self, scaling: &Scaling) -> anyhow::Result<()> {
        let mut text = scaling.report() + "\n";
        if self.draw("scaling", scaling.svg())? {
            text.push_str(&self.image("scaling", "What so many dispatchers can do"));
        }
        self.put("scaling", &text)
    }

    /// Writes everything anew that is made of this simulation.
    pub(crate) fn put_simulation(&mut self, setup: &Setup) -> anyhow::Result<()> {
        let (simulated, others) = Simulated::with_others(setup, &OTHER_SIZES);
        let mut sizes: Vec<_> = others.iter().chain([&simulated.observed]).collect();
        sizes.sort_by_key(|observed| observed.dispatchers());
        let mut text = format!("{}\n{}\n", simulated.report(), simulate::compare(&sizes));
        if self.draw("simulation", simulated.svg())? {
            text.push_str(&self.image("simulation", "Queue depths, requests and latencies over time"));
        }
        self.put("simulation", &text)
    }

    pub(crate) fn write(&self) -> anyhow::Result<()> {
        std::fs::write(&self.file, &self.text).with_context(|| self.file.display().to_string())
    }

    fn put(&mut self, name: &str, generated: &str) -> anyhow::Result<()> {
        let file = || self.file.display().to_string();
        self.text = put_between(&self.text, name, generated).with_context(file)?;
        Ok(())
    }

    /// Draws a plot, or takes away the one that was there; whether there is one.
    fn draw(&self, name: &str, svg: Option<String>) -> anyhow::Result<bool> {
        let file = self.plots.join(format!("{name}.svg"));
        let named = || file.display().to_string();
        let Some(svg) = svg else {
            if file.exists() {
                std::fs::remove_file(&file).with_context(named)?;
            }
            return Ok(false);
        };
        std::fs::create_dir_all(&self.plots).with_context(named)?;
        std::fs::write(&file, svg).with_context(named)?;
        Ok(true)
    }

    fn image(&self, name: &str, what: &str) -> String {
        let directory = self.plots.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        format!("![{what}]({directory}/{name}.svg)\n\n")
    }
}

/// The last run of a scenario over time.
fn plot_of(scenario: &ScenarioResults, what: &str) -> Option<String> {
    let series = &scenario.runs.last()?.series;
    let thinned: Vec<Series> = series.iter().map(|line| line.thinned(POINTS)).collect();
    plot::svg(&format!("{}: {what}", scenario.name), Along::Time, &thinned)
}

/// A simulation, and the same while nobody is bad.
pub(crate) struct Simulated {
    observed: Observed,
    alone: Observed,
}

impl Simulated {
    pub(crate) fn of(setup: &Setup) -> Self {
        Self::with_others(setup, &[]).0
    }

    /// And the same with other numbers of dispatchers.
    fn with_others(setup: &Setup, dispatchers: &[usize]) -> (Self, Vec<Observed>) {
        let alone = setup.clone().healthy(HEALTHY.min(setup.time));
        let others: Vec<_> =
            dispatchers.iter().map(|dispatchers| setup.clone().with_dispatchers(*dispatchers)).collect();
        thread::scope(|scope| {
            let simulate = |setup| scope.spawn(move || simulate::run(setup));
            let others: Vec<_> = others.iter().map(simulate).collect();
            let (observed, alone) = (simulate(setup), simulate(&alone));
            let simulated = Self { observed: joined(observed), alone: joined(alone) };
            (simulated, others.into_iter().map(joined).collect())
        })
    }

    pub(crate) fn report(&self) -> String {
        simulate::report(&self.observed, &self.alone)
    }

    pub(crate) fn svg(&self) -> Option<String> {
        let thinned: Vec<Series> = self.observed.series.iter().map(|line| line.thinned(POINTS)).collect();
        plot::svg("10,000 events/s to three webhooks each, 5 % of the receivers bad", Along::Time, &thinned)
    }
}

fn joined(simulating: ScopedJoinHandle<'_, Observed>) -> Observed {
    simulating.join().unwrap_or_else(|panic| resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Unit;
    use crate::results::tests::{outcome, results};

    const TEXT: &str = include_str!("../../../docs/performance.md");

    fn in_a_directory(text: &str) -> (tempfile::TempDir, Document) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("performance.md");
        std::fs::write(&file, text).unwrap();
        let document = Document::read(&file).unwrap();
        (directory, document)
    }

    fn measured() -> Results {
        let mut results = results();
        let figures = [
            ("deliveries_per_second", 9876.0, Unit::PerSecond),
            ("cpu_dispatcher", 0.05, Unit::CpuSeconds),
            ("cpu_event-ingest", 0.02, Unit::CpuSeconds),
            ("cpu_rabbitmq", 0.06, Unit::CpuSeconds),
            ("cpu_postgresql", 0.04, Unit::CpuSeconds),
        ];
        let mut run = outcome(&figures);
        run.series.push(Series::new("messages ready", "webhooks.fanout", vec![(0.0, 1.0), (1.0, 2.0)]));
        results.add("fan-out-1", "", &run);
        results.add("dispatchers-2", "", &run);
        results
    }

    #[test]
    fn the_document_has_a_place_for_everything_that_is_generated() {
        let (directory, mut document) = in_a_directory(TEXT);
        document.put_results(&measured()).unwrap();
        document.put_scaling(&Scaling::of(&measured()).unwrap()).unwrap();
        let setup = Setup { events_per_second: 50, users: 40, ..Setup::large(2, Duration::from_secs(20), 1) };
        document.put_simulation(&setup).unwrap();
        document.write().unwrap();
        let text = std::fs::read_to_string(directory.path().join("performance.md")).unwrap();
        assert!(text.contains("| deliveries/s, fan-out 1 | ≥ 9,000 | 9,876 |"), "{text}");
        assert!(
            text.contains("](performance/simulation.svg)") && text.contains("](performance/scaling.svg)")
        );
        let (_, sizes) = text.split_once("slow: asked and parked").unwrap();
        for dispatchers in [2, 4, 8, 16] {
            assert!(sizes.contains(&format!("\n| {dispatchers} | ")), "{dispatchers} dispatchers: {sizes}");
        }
        assert_eq!(text.matches("<!-- generated: ").count(), TEXT.matches("<!-- end -->").count());
        for name in ["fan-out-1", "scaling", "simulation"] {
            let size =
                std::fs::metadata(directory.path().join(format!("performance/{name}.svg"))).unwrap().len();
            assert!(size > 500 && size < 60 * 1024, "{name}: {size}");
        }
    }

    #[test]
    fn a_plot_that_was_not_made_this_time_is_not_shown() {
        let (directory, mut document) = in_a_directory(TEXT);
        let old = directory.path().join("performance/hanging.svg");
        std::fs::create_dir_all(directory.path().join("performance")).unwrap();
        std::fs::write(&old, "").unwrap();
        document.put_results(&measured()).unwrap();
        assert!(!old.exists());
        assert!(
            document.text.contains("performance/fan-out-1.svg") && !document.text.contains("hanging.svg")
        );
    }

    #[test]
    fn a_document_without_a_place_is_told_of() {
        let (_directory, mut document) = in_a_directory("nothing");
        let error = document.put_results(&measured()).unwrap_err();
        assert!(format!("{error:#}").contains("generated: about"), "{error:#}");
    }
}

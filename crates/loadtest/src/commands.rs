//! What is made of results, and what needs none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::document::{Document, Simulated};
use crate::model::Scaling;
use crate::required::{self, FIGURES};
use crate::results::Results;
use crate::simulate::Setup;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The required figures, measured and beside their floors, as a Markdown table.
    Table {
        #[command(flatten)]
        results: Files,
    },
    /// A scaling model fitted to dispatchers-2, dispatchers-4 and fan-out-1, printed and drawn beside the run's plots.
    Model {
        #[command(flatten)]
        results: Files,
    },
    /// Queue depths at 10,000 events/s × 3 with 5 % bad receivers, in virtual time.
    Simulate {
        #[command(flatten)]
        simulation: Simulation,
        /// The file for the plot.
        #[arg(long, value_name = "FILE", default_value = ".dev/bench/simulation.svg")]
        svg: PathBuf,
    },
    /// Writes the generated parts of docs/performance.md and its plots anew.
    Docs {
        #[command(flatten)]
        results: Files,
        #[command(flatten)]
        simulation: Simulation,
        /// The document; its plots are in the directory of its name.
        #[arg(long, value_name = "FILE", default_value = "docs/performance.md")]
        document: PathBuf,
    },
}

/// Files of results.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// What `make bench` wrote: .dev/bench/TIMESTAMP.json. Of several, later ones add scenarios that earlier ones do not have.
    #[arg(required = true, value_name = "RESULT")]
    files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Simulation {
    /// Dispatchers, each with a core of its own.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=256))]
    dispatchers: u32,
    /// Of virtual time.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=240))]
    minutes: u32,
    /// Of all that happens by chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Command {
    /// Runs it; what is to be printed.
    pub(crate) fn run(&self) -> anyhow::Result<String> {
        match self {
            Self::Table { results } => Ok(required::markdown(&together(results.read()?)?, FIGURES)),
            Self::Model { results } => {
                let scaling = Scaling::of_first(&results.read()?)?;
                let file = results.beside("scaling.svg");
                write(&file, scaling.svg())?;
                Ok(format!("{}\ndrawn as {}", scaling.report(), file.display()))
            }
            Self::Simulate { simulation, svg } => {
                let simulated = Simulated::of(&simulation.setup());
                write(svg, simulated.svg())?;
                Ok(format!("{}\ndrawn as {}", simulated.report(), svg.display()))
            }
            Self::Docs { results, simulation, document } => {
                let (results, mut written) = (results.read()?, Document::read(document)?);
                let scaling = Scaling::of_first(&results);
                let left = match &scaling {
                    Ok(scaling) => written.put_scaling(scaling).map(|()| String::new())?,
                    Err(error) => format!("; the scaling model is left as it was: {error:#}"),
                };
                written.put_results(&together(results)?)?;
                written.put_simulation(&simulation.setup())?;
                written.write()?;
                Ok(format!("written to {}{left}", document.display()))
            }
        }
    }
}

impl Files {
    fn read(&self) -> anyhow::Result<Vec<Results>> {
        self.files.iter().map(|file| Results::read(file)).collect()
    }

    /// Among the plots of the first of them.
    fn beside(&self, name: &str) -> PathBuf {
        self.files.first().map(|file| file.with_extension("")).unwrap_or_default().join(name)
    }
}

impl Simulation {
    fn setup(&self) -> Setup {
        let time = Duration::from_secs(60 * u64::from(self.minutes));
        Setup::large(self.dispatchers as usize, time, self.seed)
    }
}

/// Later results add what earlier ones do not have.
fn together(results: Vec<Results>) -> anyhow::Result<Results> {
    let mut results = results.into_iter();
    results.next().context("no results")?.with(results)
}

fn write(file: &Path, svg: Option<String>) -> anyhow::Result<()> {
    let named = || file.display().to_string();
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).with_context(named)?;
    }
    std::fs::write(file, svg.context("there is nothing to draw")?).with_context(named)
}

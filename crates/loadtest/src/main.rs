#![doc = include_str!("../README.md")]

mod commands;
mod compare;
mod cpus;
mod document;
mod figures;
mod floors;
mod histogram;
mod load;
mod markdown;
mod model;
mod outcome;
mod platform;
mod plot;
mod poster;
mod processes;
mod receiver;
mod required;
mod results;
mod sampler;
mod scenario;
mod scenarios;
mod seed;
mod series;
mod simulate;
mod size;
mod stats;
mod tables;
mod tally;
mod tls;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser;
use domain::timestamp;
use service::Clock;
use testkit::TestDatabase;

use crate::commands::Command;
use crate::outcome::Outcome;
use crate::plot::Along;
use crate::required::{FIGURES, GUARDS};
use crate::results::{Machine, Measured, Results};
use crate::scenario::{SCENARIOS, Scenario, chosen};
use crate::size::Size;

/// Measures the platform beside naive programs made of the same parts.
///
/// The services beside this program, a database and queues of their own for every scenario; the servers are those of
/// `LOK_TEST_DATABASE_URL` and `LOK_TEST_AMQP_URL`. `make bench` starts private ones.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only these scenarios, separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// A minute: few scenarios, small. Fails when a ratio is far below what it was.
    #[arg(long, conflicts_with = "all")]
    short: bool,
    /// All scenarios, twice as long where it is about time.
    #[arg(long)]
    all: bool,
    /// Makes everything so many times and tells the medians.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    repeat: u32,
    /// Shows the scenarios and ends.
    #[arg(long)]
    list: bool,
    /// Compares two files of results and ends.
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"])]
    compare: Vec<PathBuf>,
    /// The directory for the results in JSON and the plots.
    #[arg(long, value_name = "DIRECTORY", default_value = ".dev/bench")]
    output: PathBuf,
}

impl Arguments {
    fn size(&self) -> Size {
        match (self.short, self.all) {
            (true, _) => Size::Short,
            (_, true) => Size::All,
            _ => Size::Normal,
        }
    }
}

#[expect(clippy::print_stderr, reason = "a command line speaks to its user")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("loadtest: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(command) = &arguments.command {
        say(&command.run()?);
        return Ok(());
    }
    if arguments.list {
        for scenario in SCENARIOS {
            say(&format!("{:<16}{}", scenario.name, scenario.what));
        }
        return Ok(());
    }
    if let [before, after] = arguments.compare.as_slice() {
        say(&compare::compare(&Results::read(before)?, &Results::read(after)?));
        return Ok(());
    }
    measure(arguments).await
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let scenarios = chosen(&arguments.only, arguments.size())?;
    let at = Clock::system().now();
    let name = at.format("%Y%m%dT%H%M%SZ").to_string();
    let directory = arguments.output.as_path();
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let size = format!("{:?}", arguments.size()).to_lowercase();
    let mut results = Results::new(timestamp::format(at), size, arguments.repeat, machine().await?);
    let file = directory.join(format!("{name}.json"));
    for _ in 0..arguments.repeat {
        let mut measured = Measured::default();
        for scenario in &scenarios {
            for (scenario, what, outcome) in make(scenario, arguments.size(), &mut measured).await? {
                draw(directory, &name, &scenario, &outcome)?;
                results.add(&scenario, what, &outcome);
                // Whatever happens to the others.
                results.write(&file)?;
            }
        }
    }
    // What is required is required of a whole run.
    let required = if arguments.short { GUARDS } else { FIGURES };
    let missed = required::missed(&results, required);
    say(&tables::all(&results, required));
    say(&format!("written to {}", file.display()));
    let mut faults = results.faults();
    if arguments.short && missed > 0 {
        faults.push(format!("ratios out of what is guarded: {missed}"));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    Ok(())
}

/// Measures a scenario, and before it the floors that were not measured yet.
async fn make(
    scenario: &Scenario,
    size: Size,
    measured: &mut Measured,
) -> anyhow::Result<Vec<(String, &'static str, Outcome)>> {
    let mut made = Vec::new();
    for floor in scenario.floors {
        let name = floor.name();
        if !measured.has(&name) {
            let outcome = floor.measure(size).await.with_context(|| name.clone())?;
            say(&tables::scenario(&name, &outcome));
            measured.add(&name, outcome.clone());
            made.push((name, floor.what(), outcome));
        }
    }
    let outcome = scenario.measure(size, measured).await.with_context(|| scenario.name)?;
    say(&tables::scenario(scenario.name, &outcome));
    measured.add(scenario.name, outcome.clone());
    made.push((scenario.name.to_owned(), scenario.what, outcome));
    Ok(made)
}

/// Beside the results, by the scenario's name; of several runs the last.
fn draw(directory: &Path, run: &str, scenario: &str, outcome: &Outcome) -> anyhow::Result<()> {
    let Some(svg) = plot::svg(scenario, Along::Time, &outcome.series) else { return Ok(()) };
    let directory = directory.join(run);
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let file = directory.join(format!("{scenario}.svg"));
    std::fs::write(&file, svg).with_context(|| file.display().to_string())
}

async fn machine() -> anyhow::Result<Machine> {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let mut shown = Vec::new();
    for setting in ["server_version", "fsync", "synchronous_commit"] {
        let row = client.query_one("SELECT current_setting($1)", &[&setting]).await?;
        shown.push(row.get::<_, String>(0));
    }
    let [postgresql, fsync, synchronous_commit] =
        <[String; 3]>::try_from(shown).ok().context("three settings were asked for")?;
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    Ok(Machine {
        cores: std::thread::available_parallelism()?.get(),
        cpu: model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.trim().to_owned()),
        postgresql,
        fsync,
        synchronous_commit,
    })
}

#[expect(clippy::print_stdout, reason = "the measurements are the program's output")]
fn say(text: &str) {
    println!("{text}");
}

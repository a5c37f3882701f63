#![doc = include_str!("../README.md")]

mod bare;
mod load;
mod processes;
mod receiver;
mod report;
mod tally;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use broker::PublisherConfig;
use clap::Parser;
use domain::EventType;
use domain::timestamp;
use service::Clock;
use testkit::{DEADLINE, Stack, eventually, servers};

use crate::bare::Bare;
use crate::load::Load;
use crate::processes::Usage;
use crate::receiver::Receiver;
use crate::report::{
    Latency, LoadFigures, Machine, Ratios, Report, Side, between, millis, per_second, per_thousand,
};
use crate::tally::{Counts, Tally};

/// The longest that one phase may take.
const PHASE_LIMIT: Duration = Duration::from_secs(180);

/// Posts of the bare loop for one event of the burst.
const BARE_FACTOR: u32 = 5;

/// Measures the platform beside a bare loop of signed POSTs.
///
/// The services beside this program, a database and queues of their own; the servers are those of
/// `LOK_TEST_DATABASE_URL` and `LOK_TEST_AMQP_URL`. `make bench` starts private ones.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Events published as fast as the broker takes them.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    events: u32,
    /// Webhooks, each of a user of its own.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    webhooks: u32,
    /// Events before anything is measured: connections, prepared statements and caches are there afterwards.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    warm_up: u32,
    /// Events a second at the steady rate.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Seconds at the steady rate.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// The directory for the results in JSON.
    #[arg(long, value_name = "DIRECTORY", default_value = ".dev/bench")]
    output: PathBuf,
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

/// The tally's entries, phase by phase.
struct Phases {
    warm_up: Range<usize>,
    burst: Range<usize>,
    steady: Range<usize>,
    bare_burst: Range<usize>,
    bare_steady: Range<usize>,
}

impl Phases {
    fn of(arguments: &Arguments) -> Self {
        let mut end = 0;
        let mut next = |count: u32| {
            let start = end;
            end += count as usize;
            start..end
        };
        let steady = arguments.rate * arguments.seconds;
        Self {
            warm_up: next(arguments.warm_up),
            burst: next(arguments.events),
            steady: next(steady),
            // Far faster: as many would be over before a clock tells CPU time apart.
            bare_burst: next(arguments.events * BARE_FACTOR),
            bare_steady: next(steady),
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let at = Clock::system().now();
    let phases = Phases::of(arguments);
    let interval = Duration::from_secs(1) / arguments.rate;
    let tally = Arc::new(Tally::new(phases.bare_steady.end));
    let receiver = Receiver::start(tally.clone()).await?;

    say("starting one event-ingest and one dispatcher");
    // What the stack of the tests sets lower than the services' default.
    let stack = Stack::builder().env("LOK__DATABASE__POOL_SIZE", "16");
    // All webhooks are made from one address.
    let mut stack = stack.env("LOK__API__ADDRESS_BURST", "1000000").start().await;
    let users: Vec<String> = (0..arguments.webhooks).map(|index| format!("user_{index}")).collect();
    let mut secrets = Vec::new();
    for (index, user) in users.iter().enumerate() {
        let webhook = stack.given_webhook(user, &receiver.url(index), &[EventType::BookingCreated]).await;
        secrets.push(webhook.secret);
    }
    receiver.set_secrets(&secrets)?;
    // It has no part in what is measured.
    if let Some(mut api) = stack.api.take() {
        api.terminate(DEADLINE).await;
    }
    let machine = machine(&stack).await?;
    let roots = roots(&stack);
    let connections = connections(&stack, arguments.webhooks)?;

    let publisher = stack.broker().publisher(PublisherConfig::default());
    let run = format!("bench{}", at.timestamp_millis());
    let load = Load { stack: &stack, publisher, tally: tally.clone(), users, run };

    say(&format!("warming up with {} events", arguments.warm_up));
    load.burst(phases.warm_up.clone()).await?;
    let counts = tally.wait(phases.warm_up.clone(), PHASE_LIMIT).await;
    ensure!(counts.missing == 0, "{} of {} events did not arrive", counts.missing, counts.expected);
    settled(&stack, phases.warm_up.end).await;

    say(&format!("publishing {} events", arguments.events));
    let before = usages(&roots);
    load.burst(phases.burst.clone()).await?;
    let burst = tally.wait(phases.burst.clone(), PHASE_LIMIT).await;
    if burst.missing == 0 {
        settled(&stack, phases.burst.end).await;
    }
    let processes = between(&before, &usages(&roots), burst.received);

    say(&format!("publishing {} events a second for {} s", arguments.rate, arguments.seconds));
    let lag = load.steady(phases.steady.clone(), interval).await?;
    let steady = tally.wait(phases.steady.clone(), PHASE_LIMIT).await;
    let cpu = processes.values().map(|process| process.cpu_seconds_per_1000).sum();
    let platform = side(&tally, &phases.burst, burst, cpu, &phases.steady, steady)?;

    say(&format!("the bare loop over {connections} connections"));
    let sample = receiver.sample()?;
    let body_bytes = sample.body.len();
    let bare = Bare::connect(connections, &receiver, sample, &secrets, tally.clone()).await?;
    let before = usage_of_this_process()?;
    tokio::time::timeout(PHASE_LIMIT, bare.burst(phases.bare_burst.clone())).await??;
    let burst = tally.counts(phases.bare_burst.clone());
    let cpu = per_thousand(usage_of_this_process()?.cpu_seconds - before.cpu_seconds, burst.received);
    bare.steady(phases.bare_steady.clone(), interval).await?;
    let steady = tally.counts(phases.bare_steady.clone());
    let bare_loop = side(&tally, &phases.bare_burst, burst, cpu, &phases.bare_steady, steady)?;

    let report = Report {
        at: timestamp::format(at),
        machine,
        load: LoadFigures {
            events: phases.burst.len(),
            webhooks: secrets.len(),
            body_bytes,
            steady_per_second: arguments.rate,
            steady_seconds: arguments.seconds,
            connections_of_the_bare_loop: connections,
        },
        ratios: Ratios::of(&platform, &bare_loop),
        platform,
        bare_loop,
        processes,
        invalid_requests: tally.invalid(),
        generator_lag_ms: millis(lag),
    };
    say(&format!("\n{}", report.tables()));
    write(&report, &arguments.output, &at.format("%Y%m%dT%H%M%SZ").to_string())?;
    match report.faults()[..] {
        [] => Ok(()),
        ref faults => bail!("{}", faults.join("; ")),
    }
}

fn side(
    tally: &Tally,
    burst_entries: &Range<usize>,
    burst: Counts,
    cpu_seconds_per_1000: f64,
    steady_entries: &Range<usize>,
    steady: Counts,
) -> anyhow::Result<Side> {
    let time = tally.span(burst_entries.clone())?;
    Ok(Side {
        burst,
        burst_seconds: time.as_secs_f64(),
        deliveries_per_second: per_second(burst.received, time),
        cpu_seconds_per_1000,
        steady,
        steady_latency_ms: Latency::of(tally.latencies(steady_entries.clone()))
            .context("nothing was received at the steady rate")?,
    })
}

/// Waits until every delivery's outcome is recorded too: that is part of the work.
async fn settled(stack: &Stack, deliveries: usize) {
    let database = stack.database.connect().await;
    eventually("every delivery is recorded as a success", PHASE_LIMIT, async || {
        let row = database.query_one("SELECT count(*) FROM deliveries WHERE status = 'success'", &[]).await;
        let count: i64 = row.expect("deliveries can be counted").get(0);
        (usize::try_from(count) == Ok(deliveries)).then_some(())
    })
    .await;
}

/// The dispatcher's own bound: all its requests on the wire, and no more for a webhook than it may have.
fn connections(stack: &Stack, webhooks: u32) -> anyhow::Result<usize> {
    let delivery = service::settings::load(stack.environment(), &[])?.delivery;
    let bound = delivery.max_in_flight.min(delivery.max_in_flight_per_webhook.saturating_mul(webhooks));
    Ok(usize::try_from(bound)?)
}

/// The processes whose use is told, by name.
fn roots(stack: &Stack) -> BTreeMap<String, u32> {
    let mut roots = BTreeMap::from([("loadtest".to_owned(), std::process::id())]);
    for service in stack.ingests.iter().chain(&stack.dispatchers) {
        roots.insert(service.name().to_owned(), service.pid());
    }
    let amqp = url::Url::parse(&servers::amqp_url()).ok().map(|url| url.port().unwrap_or(5672));
    let database = servers::database_url().port().unwrap_or(5432);
    roots.extend(amqp.and_then(processes::listening_on).map(|pid| ("rabbitmq".to_owned(), pid)));
    roots.extend(processes::listening_on(database).map(|pid| ("postgresql".to_owned(), pid)));
    roots
}

fn usages(roots: &BTreeMap<String, u32>) -> BTreeMap<String, Usage> {
    roots.iter().filter_map(|(name, pid)| Some((name.clone(), processes::usage(*pid)?))).collect()
}

fn usage_of_this_process() -> anyhow::Result<Usage> {
    processes::usage(std::process::id()).context("/proc cannot be read")
}

async fn machine(stack: &Stack) -> anyhow::Result<Machine> {
    let database = stack.database.connect().await;
    let mut shown = Vec::new();
    for setting in ["server_version", "fsync", "synchronous_commit"] {
        let row = database.query_one("SELECT current_setting($1)", &[&setting]).await?;
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

fn write(report: &Report, directory: &Path, name: &str) -> anyhow::Result<()> {
    let file = directory.join(format!("{name}.json"));
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(&file, text + "\n").with_context(|| file.display().to_string())?;
    say(&format!("written to {}", file.display()));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the measurements are the program's output")]
fn say(text: &str) {
    println!("{text}");
}

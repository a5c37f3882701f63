#![doc = include_str!("../README.md")]

mod faults;
mod history;
mod load;
mod platform;
mod receivers;
mod report;
mod schedule;
mod verify;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use domain::signature::WebhookSecret;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::faults::{Diary, Faults};
use crate::history::Webhook;
use crate::load::{Gate, Load};
use crate::platform::{DISPATCHERS, INGESTS, Platform};
use crate::receivers::{Inbox, WebhookReceiver};
use crate::report::{Report, count_faults, count_findings, say};
use crate::schedule::{Options, Planned};
use crate::verify::{Observations, verify};
use crate::world::webhooks;

/// The longest wait for the last confirms once all is healed.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(60);

/// The longest wait for the last deliveries once all is healed: what has piled up, all attempts, and what has to be
/// put back first.
const SETTLED_WITHIN: Duration = Duration::from_secs(600);

/// The longest time without any request while deliveries are pending. What has lost its message is put back sooner.
const STALLED_AFTER: Duration = Duration::from_secs(90);

/// How long receivers listen on when all is over: whatever would come again comes by then.
const LISTENING_ON: Duration = Duration::from_secs(10);

/// Kills, stops, restarts and cuts off every part of the platform at random, and proves from the outside that nothing
/// was lost.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Replays the faults and events of the run that printed it.
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults and events come.
    #[arg(long, default_value_t = 5.0, value_parser = minutes)]
    minutes: f64,
    /// Events a second.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
    /// Deletes the broker's whole data now and then.
    #[arg(long)]
    wipe: bool,
    /// Shards of the queues for dispatchers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,
    /// Prints the faults that would come, and causes none.
    #[arg(long)]
    plan: bool,
    /// A file for the summary in JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keeps the logs of a run that found nothing, too.
    #[arg(long)]
    keep_logs: bool,
    /// A folder for the logs of a run that found something.
    #[arg(long, value_name = "FOLDER", default_value = ".dev/chaos")]
    logs: PathBuf,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|error: std::num::ParseFloatError| error.to_string())?;
    if (0.25..=600.0).contains(&minutes) { Ok(minutes) } else { Err("0.25 to 600".to_owned()) }
}

#[expect(clippy::print_stderr, reason = "a command line speaks to its user")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("chaos: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Dropped, everything that was started ends.
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = run(&arguments) => ended,
            interrupted = interrupted() => interrupted,
        }
    });
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ends when somebody wants this program to end.
async fn interrupted() -> anyhow::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        pressed = tokio::signal::ctrl_c() => pressed?,
    }
    anyhow::bail!("interrupted")
}

/// Whether all was as it has to be.
async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let seed = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    let length = Duration::from_secs_f64(arguments.minutes * 60.0);
    let options = Options { ingests: INGESTS, dispatchers: DISPATCHERS, wipe: arguments.wipe };
    let planned = schedule::plan(seed, length, options);
    say(&format!("seed {seed}: `--seed {seed}` replays these faults and events"));
    if arguments.plan {
        for fault in &planned {
            say(&fault.to_string());
        }
        return Ok(true);
    }
    say("starting a PostgreSQL, a RabbitMQ, 2 event-ingest, 2 dispatchers and management-api");
    let platform = Arc::new(Platform::start(arguments.shards).await?);
    let ended = chaos(arguments, seed, planned, &platform).await;
    let is_clean = ended.as_ref().is_ok_and(Report::is_clean);
    if !is_clean || arguments.keep_logs {
        let folder = arguments.logs.join(format!("seed-{seed}"));
        platform.write_logs(&folder).await?;
        if let Ok(report) = &ended {
            std::fs::write(folder.join("findings.txt"), report.all_findings())?;
            report.write(&folder.join("summary.json"))?;
        }
        say(&format!("the logs of all processes are in {}", folder.display()));
    }
    let report = ended?;
    if let Some(file) = &arguments.json {
        report.write(file)?;
    }
    say(&format!("\n{}", report.text()));
    say(if is_clean { "chaos: clean" } else { "chaos: FAILED, see above" });
    Ok(is_clean)
}

async fn chaos(
    arguments: &Arguments,
    seed: u64,
    planned: Vec<Planned>,
    platform: &Arc<Platform>,
) -> anyhow::Result<Report> {
    let inbox = Inbox::default();
    let (mut receivers, mut created) = (Vec::new(), Vec::new());
    for (index, plan) in webhooks().into_iter().enumerate() {
        let receiver = WebhookReceiver::start(seed, index, plan.manner, inbox.clone()).await;
        let webhook = history::create(platform, plan, &receiver.url()).await?;
        receiver.know(&WebhookSecret::parse(&webhook.secret)?);
        receivers.push(receiver);
        created.push(webhook);
    }

    let length = Duration::from_secs_f64(arguments.minutes * 60.0);
    let start = Instant::now();
    let diary = Diary::default();
    let gate = Gate::default();
    let load = Load::new(platform.clone(), seed, gate.clone());
    let faults = Faults { platform: platform.clone(), diary: diary.clone(), gate, start };
    say(&format!(
        "{} faults in {:.1} minutes, {} events a second",
        planned.len(),
        arguments.minutes,
        arguments.rate
    ));

    let observer = tokio::spawn(observe(platform.clone(), diary.clone(), load.clone(), inbox.clone(), start));
    let published = {
        let load = load.clone();
        let rate = arguments.rate;
        tokio::spawn(async move { load.run(rate, length).await })
    };
    faults.cause(planned).await;
    sleep_until(start + length).await;
    platform.all_ready().await?;
    say("all is healed; waiting for the last confirms and deliveries");
    timeout(CONFIRMED_WITHIN, published)
        .await
        .context("events are not confirmed though nothing disturbs")??;

    let events = load.published.confirmed();
    let expected = created.into_iter().map(|webhook| {
        let wanted = events.iter().filter(|accepted| webhook.plan.wants(&accepted.event)).count();
        (webhook, wanted as u64)
    });
    let expected: Vec<(Webhook, u64)> = expected.collect();
    if settled(platform, &expected, &inbox).await? {
        sleep(LISTENING_ON).await;
    } else {
        diary.problem(
            "deliveries are missing or pending though nothing disturbs and there was time".to_owned(),
        );
        // A history that goes on while it is read contradicts itself.
        platform.end_dispatchers().await;
    }
    let mut histories = Vec::new();
    for (webhook, _) in &expected {
        histories.push(history::read(platform, webhook).await?);
    }
    observer.abort();
    if let Err(error) = platform.shut_down().await {
        diary.problem(format!("{error:#}"));
    }

    let observations = Observations {
        webhooks: expected.into_iter().map(|(webhook, _)| webhook.plan).collect(),
        events,
        arrivals: inbox.arrivals(),
        histories,
        faults: diary.faults(),
    };
    let verdict = verify(&observations);
    let mut peak_rss_mib = BTreeMap::new();
    for (victim, part) in platform.parts() {
        peak_rss_mib.insert(victim.to_string(), part.lock().await.peak_rss / (1024 * 1024));
    }
    Ok(Report {
        seed,
        minutes: arguments.minutes,
        seconds: start.elapsed().as_secs_f64(),
        rate: arguments.rate,
        wipe: arguments.wipe,
        shards: arguments.shards,
        repeated_publishes: load.published.repetitions(),
        findings: count_findings(&verdict),
        verdict,
        faults: count_faults(&observations.faults),
        peak_rss_mib,
        problems: diary.problems(),
    })
}

/// Waits until nothing is pending; whether that came true in time, and without a long standstill.
async fn settled(platform: &Platform, webhooks: &[(Webhook, u64)], inbox: &Inbox) -> anyhow::Result<bool> {
    let end = Instant::now() + SETTLED_WITHIN;
    let (mut came, mut last) = (0, Instant::now());
    loop {
        if history::is_settled(platform, webhooks).await? {
            return Ok(true);
        }
        if inbox.count() > came {
            (came, last) = (inbox.count(), Instant::now());
        }
        if Instant::now() > end || last.elapsed() > STALLED_AFTER {
            return Ok(false);
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Looks at the processes all the time, and says every half minute how far it has come.
async fn observe(platform: Arc<Platform>, diary: Diary, load: Load, inbox: Inbox, start: Instant) {
    let mut ticks = interval(Duration::from_millis(250));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 1_u32.. {
        ticks.tick().await;
        for victim in platform.observe() {
            diary.problem(format!("{victim} ended by itself"));
        }
        if tick.is_multiple_of(120) {
            let (at, confirmed) = (start.elapsed().as_secs(), load.published.count());
            say(&format!(
                "              {at:3} s: {confirmed} events confirmed, {} requests came",
                inbox.count()
            ));
        }
    }
}

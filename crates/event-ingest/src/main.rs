#![doc = include_str!("../README.md")]

mod bursts;
mod chunks;
mod consume;
mod counted;
mod decode;
mod http;
mod outbox;
mod pipeline;
mod reject;
mod retry;
mod turns;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use broker::{ConsumerConfig, Origin, PublisherConfig};
use isolation::Isolation;
use ring::rand::SystemRandom;
use service::{Context, ServiceInfo, Settings};
use tokio_util::task::TaskTracker;

use crate::bursts::Bursts;
use crate::consume::{Consumption, Rank, Sorting, Storing};
use crate::decode::Decoder;
use crate::outbox::Outbox;
use crate::pipeline::{Pipeline, StatementBounds};
use crate::reject::RejectedQueue;
use crate::retry::Retry;
use crate::turns::Turns;

const INFO: ServiceInfo = ServiceInfo {
    name: "event-ingest",
    about: "takes platform events over AMQP and HTTP, checks, stores and publishes them",
    required: &["database.url", "amqp.url"],
    check,
    open_files,
    admin: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9081),
};

/// Publishers' connections, those to PostgreSQL, and a few more.
fn open_files(settings: &Settings) -> u64 {
    http::OPEN_CONNECTIONS + u64::from(settings.database.pool_size) + 64
}

fn main() -> ExitCode {
    service::run(INFO, ingest)
}

fn check(settings: &Settings) -> Result<(), String> {
    http::check(settings).map_err(|error| error.to_string())?;
    backends::check(settings).map_err(|error| error.to_string())
}

async fn ingest(context: Context) -> anyhow::Result<()> {
    let Context { settings, readiness, shutdown, clock } = context;
    let stopping = shutdown.soft();
    let (database_check, broker_check) = (readiness.check("database"), readiness.check("broker"));

    let store = backends::store(&settings, INFO.name)?;
    let retry = Retry::new(store.clone(), readiness.check("events get through"), stopping.clone());
    if !backends::schema_known(&store, &database_check, stopping).await? {
        return Ok(());
    }
    let broker = backends::broker(&settings, INFO.name, Origin::Anyone)?;
    let background = TaskTracker::new();
    background.spawn(backends::watch_store(store.clone(), database_check, stopping.clone()));
    background.spawn(backends::watch_broker(broker.clone(), broker_check, stopping.clone()));

    let names = Arc::new(backends::names(&settings));
    let outbox = Outbox::new(broker.publisher(PublisherConfig::default()), retry.clone());
    let bounds = StatementBounds::of(&settings.ingest);
    let pipeline = Pipeline::new(store, outbox.clone(), names.clone(), clock.clone(), retry.clone(), bounds);
    let decoder = Decoder::new(names.events_exchange(), clock.clone(), SystemRandom::new());

    let turns = Turns::default();
    let server = http::start(&settings, pipeline.clone(), decoder.clone(), &turns, &shutdown)?;
    let consumer =
        |queue: String, prefetch| broker.consumer(queue, ConsumerConfig { prefetch, tag: INFO.name.into() });
    // What comes in bursts is isolated and set aside with the rest: it is the same stage.
    let isolation = Isolation::new(
        broker.publisher(PublisherConfig::default()),
        (*names).clone(),
        names.ingest_queue(),
        stopping.clone(),
    );
    let (waiting, bulk, isolated) = (
        consumer(names.ingest_queue(), settings.ingest.prefetch),
        consumer(names.bulk_queue(), settings.ingest.bulk_prefetch),
        consumer(isolation.isolated_queue().to_owned(), 1),
    );
    // What moves goes over a channel of its own: what is stored meanwhile does not wait behind it.
    let moving = Outbox::new(broker.publisher(PublisherConfig::default()), retry.clone());
    let bursts = Bursts::new(&settings.ingest, moving, names.bulk_queue());
    let rejected = RejectedQueue::new(outbox, names);
    let storing = Arc::new(Storing { pipeline, decoder, rejected, retry });
    let sorting = Arc::new(Sorting { storing: storing.clone(), bursts });
    let first = Consumption {
        work: sorting,
        isolation: isolation.clone(),
        bounds,
        rank: Rank::First,
        turns: turns.clone(),
    };
    let last =
        Consumption { work: storing.clone(), isolation: isolation.clone(), bounds, rank: Rank::Bulk, turns };
    let tasks = shutdown.tasks();
    let mut consuming = tasks.spawn(first.run(waiting, stopping.clone()));
    let mut consuming_bulk = tasks.spawn(last.run(bulk, stopping.clone()));
    let mut consuming_isolated = tasks.spawn(isolation.run(storing, isolated));

    // Left to itself, a consumer ends only by a panic of its own. Then the process ends too: its messages come back.
    let ended_early = tokio::select! {
        () = stopping.cancelled() => None,
        ended = &mut consuming => Some(ended),
        ended = &mut consuming_bulk => Some(ended),
        ended = &mut consuming_isolated => Some(ended),
    };
    stopping.cancel();
    tokio::join!(server.stop(), shutdown.drained());
    broker.close(shutdown.remaining()).await;
    match ended_early {
        None => Ok(()),
        Some(ended) => ended.context("a consumer panicked"),
    }
}

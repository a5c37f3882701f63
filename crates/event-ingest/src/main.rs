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
use wire::fan_out::MESSAGE_BYTES;

use crate::bursts::Bursts;
use crate::consume::{Consumption, Rank, Sorting, Storing, StoringMoved};
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
    let isolation = |queue| {
        let publisher = broker.publisher(PublisherConfig::default());
        Isolation::new(publisher, (*names).clone(), queue, stopping.clone())
    };
    let (of_waiting, of_bulk) = (isolation(names.ingest_queue()), isolation(names.bulk_queue()));
    let prefetch = &settings.ingest;
    let waiting = consumer(names.ingest_queue(), prefetch.prefetch);
    let bulk = consumer(names.bulk_queue(), prefetch.bulk_prefetch);
    let [isolated, isolated_bulk] =
        [&of_waiting, &of_bulk].map(|isolation| consumer(isolation.isolated_queue().to_owned(), 1));

    let bursts = Bursts::new(&settings.ingest, outbox.clone(), names.bulk_queue());
    let rejected = RejectedQueue::new(outbox, names);
    let storing_moved = Arc::new(StoringMoved {
        pipeline: pipeline.clone(),
        rejected: rejected.clone(),
        isolation: of_bulk.clone(),
    });
    let storing = Arc::new(Storing { pipeline, decoder, rejected, retry });
    let sorting = Arc::new(Sorting { storing: storing.clone(), bursts });
    let consuming = Consumption {
        work: sorting,
        isolation: of_waiting.clone(),
        bounds,
        rank: Rank::First,
        turns: turns.clone(),
    };
    let consuming_bulk = Consumption {
        work: storing_moved.clone(),
        isolation: of_bulk.clone(),
        bounds: StatementBounds { bytes: MESSAGE_BYTES, ..bounds },
        rank: Rank::Bulk,
        turns,
    };
    let tasks = shutdown.tasks();
    let mut consuming = tasks.spawn(consuming.run(waiting, stopping.clone()));
    let mut consuming_bulk = tasks.spawn(consuming_bulk.run(bulk, stopping.clone()));
    // What is worked off alone is not moved again.
    let mut consuming_isolated = tasks.spawn(of_waiting.run(storing, isolated));
    let mut consuming_isolated_bulk = tasks.spawn(of_bulk.run(storing_moved, isolated_bulk));

    // Left to itself, a consumer ends only by a panic of its own. Then the process ends too: its messages come back.
    let ended_early = tokio::select! {
        () = stopping.cancelled() => None,
        ended = &mut consuming => Some(ended),
        ended = &mut consuming_bulk => Some(ended),
        ended = &mut consuming_isolated => Some(ended),
        ended = &mut consuming_isolated_bulk => Some(ended),
    };
    stopping.cancel();
    tokio::join!(server.stop(), shutdown.drained());
    broker.close(shutdown.remaining()).await;
    match ended_early {
        None => Ok(()),
        Some(ended) => ended.context("a consumer panicked"),
    }
}

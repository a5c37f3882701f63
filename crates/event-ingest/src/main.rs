#![doc = include_str!("../README.md")]

mod chunks;
mod consume;
mod counted;
mod decode;
mod http;
mod outbox;
mod pipeline;
mod reject;
mod retry;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use broker::{ConsumerConfig, PublisherConfig};
use isolation::Isolation;
use ring::rand::SystemRandom;
use service::{Context, ServiceInfo, Settings};
use tokio_util::task::TaskTracker;

use crate::consume::Consumption;
use crate::decode::Decoder;
use crate::outbox::Outbox;
use crate::pipeline::{Pipeline, StatementBounds};
use crate::reject::RejectedQueue;
use crate::retry::Retry;

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
    let broker = backends::broker(&settings, INFO.name)?;
    let background = TaskTracker::new();
    background.spawn(backends::watch_store(store.clone(), database_check, stopping.clone()));
    background.spawn(backends::watch_broker(broker.clone(), broker_check, stopping.clone()));

    let names = Arc::new(backends::names(&settings));
    let outbox = Outbox::new(broker.publisher(PublisherConfig::default()), retry.clone());
    let bounds = StatementBounds::of(&settings.ingest);
    let pipeline = Pipeline::new(store, outbox.clone(), names.clone(), clock.clone(), retry.clone(), bounds);
    let decoder = Decoder::new(names.events_exchange(), clock.clone(), SystemRandom::new());

    let server = http::start(&settings, pipeline.clone(), decoder.clone(), &shutdown)?;
    let consumer =
        |queue: String, prefetch| broker.consumer(queue, ConsumerConfig { prefetch, tag: INFO.name.into() });
    let isolation = Isolation::new(
        broker.publisher(PublisherConfig::default()),
        (*names).clone(),
        names.ingest_queue(),
        stopping.clone(),
    );
    let (waiting, isolated) = (
        consumer(names.ingest_queue(), settings.ingest.prefetch),
        consumer(isolation.isolated_queue().to_owned(), 1),
    );
    let rejected = RejectedQueue::new(outbox, names);
    let consumption =
        Arc::new(Consumption { pipeline, decoder, rejected, isolation: isolation.clone(), retry, bounds });
    let mut consuming_isolated = shutdown.tasks().spawn(isolation.run(consumption.clone(), isolated));
    let mut consuming = shutdown.tasks().spawn(consumption.run(waiting, stopping.clone()));

    // Left to itself, a consumer ends only by a panic of its own. Then the process ends too: its messages come back.
    let ended_early = tokio::select! {
        () = stopping.cancelled() => None,
        ended = &mut consuming => Some(ended.and_then(|ended| ended)),
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

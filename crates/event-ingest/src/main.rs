#![doc = include_str!("../README.md")]

mod bursts;
mod chunks;
mod consume;
mod counted;
mod decode;
mod http;
mod moving;
mod outbox;
mod pipeline;
mod plenty;
mod reject;
mod retry;
mod storing;
mod turns;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use broker::{ConsumerConfig, Origin, PublisherConfig};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use isolation::Isolation;
use ring::rand::SystemRandom;
use service::settings::Ingest;
use service::{Context, ServiceInfo, Settings};
use tokio_util::task::TaskTracker;
use wire::moved::GROUP_BYTES;

use crate::bursts::Bursts;
use crate::consume::{Consumption, Rank};
use crate::decode::Decoder;
use crate::moving::{Sorting, StoringMoved};
use crate::outbox::Outbox;
use crate::pipeline::{Pipeline, StatementBounds};
use crate::plenty::Plenty;
use crate::reject::RejectedQueue;
use crate::retry::Retry;
use crate::storing::Storing;
use crate::turns::{Pace, Turns};

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
    let pipeline =
        Pipeline::new(store.clone(), outbox.clone(), names.clone(), clock.clone(), retry.clone(), bounds);
    let decoder = Decoder::new(names.events_exchange(), clock.clone(), SystemRandom::new());

    let turns = Turns::default();
    let server = http::start(&settings, pipeline.clone(), decoder.clone(), &turns, &shutdown)?;
    let consumer = {
        let broker = broker.clone();
        move |queue: String, prefetch| {
            broker.consumer(queue, ConsumerConfig { prefetch, tag: INFO.name.into() })
        }
    };
    let isolation = |queue| {
        let publisher = broker.publisher(PublisherConfig::default());
        Isolation::new(publisher, (*names).clone(), queue, stopping.clone())
    };
    let (queue, bulk_queue) = (names.ingest_queue(), names.bulk_queue());
    let (of_waiting, of_bulk) = (isolation(queue.clone()), isolation(bulk_queue.clone()));
    let [isolated, isolated_bulk] =
        [&of_waiting, &of_bulk].map(|isolation| consumer(isolation.isolated_queue().to_owned(), 1));

    let rejected = RejectedQueue::new(outbox.clone(), names);
    let storing = Arc::new(Storing { pipeline, decoder, rejected, retry });
    let storing_moved = Arc::new(StoringMoved { storing: storing.clone(), isolation: of_bulk.clone() });
    let bursts = Arc::new(Bursts::new(&settings.ingest));
    let plenty = Arc::new(Plenty::new(&settings.ingest));
    let sorting = Sorting {
        storing: storing.clone(),
        bursts: bursts.clone(),
        plenty: plenty.clone(),
        outbox,
        queue: bulk_queue.clone(),
    };
    let waiting = Arc::new(Consumption {
        work: Arc::new(sorting),
        isolation: of_waiting.clone(),
        bounds,
        rank: Rank::First(turns.clone(), bursts),
    });
    let bulk = Consumption {
        work: storing_moved.clone(),
        isolation: of_bulk.clone(),
        bounds: StatementBounds { bytes: GROUP_BYTES, ..bounds },
        rank: Rank::Bulk(Pace { turns, store, clock, ahead: settings.ingest.bulk_ahead }),
    };
    let Ingest { prefetch, small_prefetch, bulk_prefetch, .. } = settings.ingest;
    let (tasks, until) = (shutdown.tasks(), stopping.clone());
    let mut consuming = FuturesUnordered::from_iter([
        tasks.spawn({
            let (waiting, consumer, until) =
                (waiting.clone(), consumer(queue.clone(), prefetch), until.clone());
            async move { waiting.run(consumer, until).await }
        }),
        tasks.spawn({
            let (consumer, until) = (consumer(bulk_queue, bulk_prefetch), until.clone());
            async move { bulk.run(consumer, until).await }
        }),
        tasks.spawn(async move {
            waiting.run_in_plenty(&plenty, || consumer(queue.clone(), small_prefetch), until).await;
        }),
        // What is worked off alone is not moved again.
        tasks.spawn(of_waiting.run(storing, isolated)),
        tasks.spawn(of_bulk.run(storing_moved, isolated_bulk)),
    ]);

    // Left to itself, a consumer ends only by a panic of its own. Then the process ends too: its messages come back.
    let ended_early = tokio::select! {
        () = stopping.cancelled() => None,
        ended = consuming.next() => ended,
    };
    stopping.cancel();
    tokio::join!(server.stop(), shutdown.drained());
    broker.close(shutdown.remaining()).await;
    match ended_early {
        None => Ok(()),
        Some(ended) => ended.context("a consumer panicked"),
    }
}

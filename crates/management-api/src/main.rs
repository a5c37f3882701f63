#![doc = include_str!("../README.md")]

mod answers;
mod api;
mod auth;
mod body;
mod database;
mod deliveries;
mod event_types;
mod fields;
mod jwks;
mod jws;
mod keys;
mod language;
mod observe;
mod problem;
mod query;
mod rate;
mod routes;
mod rules;
mod server;
mod test_event;
mod texts;
mod token;
mod webhooks;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Instant;

use actix_web::web;
use anyhow::Context as _;
use broker::{Broker, Origin, PublisherConfig};
use domain::limits::Limits;
use domain::network::AddressPolicy;
use domain::webhook_url::{Schemes, UrlPolicy};
use ring::rand::SystemRandom;
use service::{Clock, Context, ServiceInfo, Settings};
use store::{ManualLimits, Store};
use tracing::info;

use crate::answers::AnswerMemory;
use crate::api::Api;
use crate::rate::Rates;
use crate::token::Verifier;

const INFO: ServiceInfo = ServiceInfo {
    name: "management-api",
    about: "lets developers manage their webhooks over HTTP",
    required: &["database.url", "amqp.url", "secrets.keys", "auth.hs256_secret|auth.jwks_file|auth.jwks_url"],
    check,
    open_files,
    admin: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9080),
};

/// Clients' connections, those to PostgreSQL, and a few more.
fn open_files(settings: &Settings) -> u64 {
    let api = &settings.api;
    u64::from(api.workers) * u64::from(api.max_connections) + u64::from(settings.database.pool_size) + 64
}

fn main() -> ExitCode {
    service::run(INFO, serve)
}

fn check(settings: &Settings) -> Result<(), String> {
    Verifier::new(&settings.auth).map_err(|error| error.to_string())?;
    backends::check(settings).map_err(|error| error.to_string())
}

async fn serve(context: Context) -> anyhow::Result<()> {
    let Context { settings, readiness, shutdown, clock } = context;
    let stopping = shutdown.soft();
    let (database_check, broker_check) = (readiness.check("database"), readiness.check("broker"));

    let (verifier, keeper) = Verifier::new(&settings.auth)?;
    if let Some(keeper) = keeper {
        tokio::spawn(keeper.run(readiness.check("token keys"), clock.clone(), stopping.clone()));
    }
    let store = backends::store(&settings, INFO.name)?;
    if !backends::schema_known(&store, &database_check, stopping).await? {
        return Ok(());
    }
    let broker = backends::broker(&settings, INFO.name, Origin::Ourselves)?;
    tokio::spawn(backends::watch_store(store.clone(), database_check, stopping.clone()));
    tokio::spawn(backends::watch_broker(broker.clone(), broker_check, stopping.clone()));

    let api = web::Data::new(api(&settings, verifier, store, &broker, clock));
    let (server, address) = server::bind(api, shutdown.draining(), stopping.clone())?;
    let handle = server.handle();
    let mut server = tokio::spawn(server);
    info!(%address, "listening");

    tokio::select! {
        ended = &mut server => ended?.context("the HTTP server ended by itself")?,
        () = stopping.cancelled() => {
            handle.stop(true).await;
            server.await?.context("the HTTP server did not stop")?;
        }
    }
    broker.close(shutdown.remaining()).await;
    Ok(())
}

fn api(settings: &Settings, verifier: Verifier, store: Store, broker: &Broker, clock: Clock) -> Api {
    let (egress, limits) = (&settings.egress, &settings.limits);
    Api {
        store,
        publisher: broker.publisher(PublisherConfig::default()),
        names: backends::names(settings),
        inline_body: settings.delivery.inline_body.0,
        verifier,
        urls: UrlPolicy {
            schemes: if egress.allow_http { Schemes::HttpToo } else { Schemes::HttpsOnly },
            addresses: AddressPolicy::with_exceptions(egress.allowed_networks.0.clone())
                .without(egress.blocked_networks.0.clone())
                .with_ports(egress.allowed_ports.0.clone())
                .with_names(egress.allowed_names.0.clone()),
        },
        limits: Limits {
            webhooks_per_user: limits.webhooks_per_user,
            events_per_webhook: limits.events_per_webhook,
        },
        manual: ManualLimits {
            per_webhook: limits.test_events_per_webhook,
            per_user: limits.test_events_per_user,
            per_user_day: limits.test_events_per_user_day,
        },
        idempotency_keys_per_user: limits.idempotency_keys_per_user,
        answers: AnswerMemory::new(settings.api.answer_memory.0, settings.api.write_timeout.0),
        rates: Rates::new(&settings.api, Instant::now()),
        http: settings.api.clone(),
        clock,
        random: SystemRandom::new(),
    }
}

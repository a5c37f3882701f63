#![doc = include_str!("../README.md")]

mod attempts;
mod claims;
mod deliver;
mod fan_out;
mod first_attempts;
mod gathering;
mod journal;
mod lanes;
mod maintenance;
mod outbox;
mod outcome;
mod reconcile;
mod request;
mod subscriptions;
mod targets;
mod told;

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use backends::Availability;
use broker::{Broker, ConsumerConfig, Origin, PublisherConfig};
use domain::network::AddressPolicy;
use domain::pace::ParkDelays;
use domain::retry::Schedule;
use domain::webhook_url::{Schemes, UrlPolicy};
use egress::{Client, DnsConfig, EgressConfig, Proxy, RESOLV_CONF};
use futures_util::future::select_all;
use isolation::Isolation;
use service::{Context, ServiceInfo, Settings};
use store::Store;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use wire::Names;

use crate::attempts::Attempts;
use crate::claims::Claims;
use crate::deliver::DeliverStage;
use crate::fan_out::{ENTERING, FanOutStage};
use crate::first_attempts::{FirstAttempts, Room};
use crate::gathering::Gathering;
use crate::journal::Journal;
use crate::lanes::{Bounds, Lanes, Overflow};
use crate::outbox::Outbox;
use crate::reconcile::{Probes, Reconciler};
use crate::subscriptions::Subscriptions;
use crate::targets::Targets;
use crate::told::Told;

const INFO: ServiceInfo = ServiceInfo {
    name: "dispatcher",
    about: "fans events out to webhooks, signs, delivers, records and retries",
    required: &["database.url", "amqp.url", "secrets.keys"],
    check,
    open_files,
    admin: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9082),
};

fn main() -> ExitCode {
    service::run(INFO, dispatch)
}

fn check(settings: &Settings) -> Result<(), String> {
    let (grace, timeout) = (settings.shutdown.grace, settings.delivery.timeout);
    let draining = service::shutdown::draining(grace.0);
    if draining <= timeout.0 {
        let draining = service::values::Span(draining);
        return Err(format!(
            "shutdown.grace: {grace} leaves {draining} to an attempt under way, which may take as long as \
             delivery.timeout ({timeout}) and has to be recorded"
        ));
    }
    proxy(settings)?;
    backends::check(settings).map_err(|error| error.to_string())
}

/// Connections to receivers, what looks their names up (four sockets for each family), to PostgreSQL, and a few more.
fn open_files(settings: &Settings) -> u64 {
    let (delivery, egress) = (&settings.delivery, &settings.egress);
    let looked_up = egress.dns_lookups.min(delivery.max_in_flight);
    u64::from(egress.max_connections.max(delivery.max_in_flight))
        + 8 * u64::from(looked_up)
        + u64::from(settings.database.pool_size)
        + 64
}

fn proxy(settings: &Settings) -> Result<Option<Proxy>, String> {
    let proxy = settings.egress.proxy.as_ref().map(|proxy| Proxy::parse(proxy.expose()));
    proxy.transpose().map_err(|error| format!("egress.proxy: {error}"))
}

async fn dispatch(context: Context) -> anyhow::Result<()> {
    let Context { settings, readiness, shutdown, clock } = context;
    let stopping = shutdown.soft();
    let (database_check, broker_check) = (readiness.check("database"), readiness.check("broker"));

    let store = backends::store(&settings, INFO.name)?;
    let client = Client::new(egress_config(&settings)?).context("outgoing requests")?;
    if !backends::schema_known(&store, &database_check, stopping).await? {
        return Ok(());
    }
    let broker = backends::broker(&settings, INFO.name, Origin::Ourselves)?;
    let background = TaskTracker::new();
    background.spawn(backends::watch_store(store.clone(), database_check, stopping.clone()));
    background.spawn(backends::watch_broker(broker.clone(), broker_check, stopping.clone()));
    background.spawn(maintenance::run(
        store.clone(),
        settings.retention.days,
        clock.clone(),
        stopping.clone(),
    ));

    let stages = Stages {
        settings: &settings,
        availability: Availability::new(&store, readiness.check("deliveries get through")),
        store,
        broker: &broker,
        client,
        clock,
        background: &background,
    };
    let stages = stages.start(&shutdown);

    // Left to itself, a stage ends only by a panic of its own. Then the process ends too: its messages come back.
    let ended_early = tokio::select! {
        () = stopping.cancelled() => Ok(()),
        (ended, ..) = select_all(stages) => ended,
    };
    stopping.cancel();
    shutdown.drained().await;
    broker.close(shutdown.remaining()).await;
    ended_early.context("a stage panicked")
}

/// What the stages are made of.
struct Stages<'a> {
    settings: &'a Settings,
    availability: Availability,
    store: Store,
    broker: &'a Broker,
    client: Client,
    clock: service::Clock,
    background: &'a TaskTracker,
}

impl Stages<'_> {
    /// Starts both stages, each with the queues of all shards and its isolated queue. They end after `shutdown` said so,
    /// when their work is done.
    fn start(self, shutdown: &service::Shutdown) -> Vec<JoinHandle<()>> {
        let (delivery, tasks, stopping) = (&self.settings.delivery, shutdown.tasks(), shutdown.soft());
        let names = Arc::new(backends::names(self.settings));
        let isolation = |queue| Isolation::new(self.publisher(), (*names).clone(), queue, stopping.clone());
        let isolated = |isolation: &Isolation| self.consumer(isolation.isolated_queue().to_owned(), 1);
        let (of_events, of_jobs) = (isolation(names.fan_out_queue()), isolation(names.deliver_queue()));
        let (isolated_events, isolated_jobs) = (isolated(&of_events), isolated(&of_jobs));

        let attempts = Arc::new(self.attempts(&names, stopping.clone()));
        let first_attempts = Arc::new(FirstAttempts {
            attempts: attempts.clone(),
            isolation: of_jobs.clone(),
            hold: delivery.hold.0,
            room: Room::new(delivery.prefetch.into()),
            tasks: tasks.clone(),
        });
        let fan_out = Arc::new(self.fan_out(&names, attempts.clone(), first_attempts, of_events.clone()));
        let events = names.all_shards().map(|shard| shard.fan_out_queue()).collect();
        let events = self.consumers(events, delivery.fan_out_prefetch);
        let deliver = Arc::new(DeliverStage {
            attempts,
            probes: Probes::new(self.store.clone()),
            isolation: of_jobs.clone(),
            patience: delivery.timeout.0,
        });
        let jobs = names.all_shards().map(|shard| shard.deliver_queue()).collect();
        let jobs = self.consumers(jobs, delivery.prefetch);

        self.background.spawn(fan_out.subscriptions.clone().follow_changes(stopping.clone()));
        self.background.spawn(self.reconciler(&names).run(stopping.clone()));
        let mut running = vec![
            tasks.spawn(of_events.run(fan_out.clone(), isolated_events)),
            tasks.spawn(of_jobs.run(deliver.clone(), isolated_jobs)),
        ];
        for (events, jobs) in events.into_iter().zip(jobs) {
            running.push(tasks.spawn(fan_out.clone().run(events, stopping.clone())));
            running.push(tasks.spawn(deliver.clone().run(jobs, tasks.clone())));
        }
        running
    }

    fn reconciler(&self, names: &Arc<Names>) -> Reconciler {
        Reconciler {
            session: self.store.recovery(),
            publisher: self.publisher(),
            names: names.clone(),
            clock: self.clock.clone(),
            interval: self.settings.recovery.interval.0,
            holding: backends::late(self.settings),
            entering: self.settings.recovery.slack.0,
        }
    }

    fn park_delays(&self) -> ParkDelays {
        backends::park_delays(self.settings)
    }

    /// A quarter of what each consumer takes ahead that is given the fewest.
    fn parked_together(&self) -> usize {
        let delivery = &self.settings.delivery;
        let fewest = delivery.fan_out_prefetch.min(delivery.prefetch) / self.settings.amqp.shards.max(1);
        usize::from(fewest / 4)
    }

    fn outbox(&self, names: &Arc<Names>) -> Outbox {
        let delivery = &self.settings.delivery;
        Outbox::new(self.publisher(), names.clone(), self.park_delays()).for_requests_of(delivery.timeout.0)
    }

    fn fan_out(
        &self,
        names: &Arc<Names>,
        attempts: Arc<Attempts>,
        first_attempts: Arc<FirstAttempts>,
        isolation: Isolation,
    ) -> FanOutStage {
        let (cache, delivery) = (&self.settings.cache, &self.settings.delivery);
        FanOutStage {
            store: self.store.clone(),
            availability: self.availability.clone(),
            subscriptions: Subscriptions::new(
                self.store.clone(),
                self.availability.clone(),
                cache.subscriptions,
                cache.max_age.0,
            ),
            outbox: self.outbox(names),
            probes: Probes::new(self.store.clone()),
            isolation,
            clock: self.clock.clone(),
            attempts,
            first_attempts,
            entering: Semaphore::new(ENTERING),
            // Shorter, a backlog of events for many webhooks each would become jobs.
            patience: delivery.timeout.0,
            spreading: Semaphore::new(1),
            inline_fan_out: delivery.inline_fan_out as usize,
            batch_messages: delivery.fan_out_prefetch.into(),
            inline_body: delivery.inline_body.0,
        }
    }

    fn attempts(&self, names: &Arc<Names>, stopping: tokio_util::sync::CancellationToken) -> Attempts {
        let delivery = &self.settings.delivery;
        let waiting = NonZeroUsize::new(delivery.prefetch.into()).unwrap_or(NonZeroUsize::MIN);
        let bounds = Bounds {
            requests: delivery.max_in_flight as usize,
            requests_per_webhook: delivery.max_in_flight_per_webhook as usize,
            memory: delivery.body_memory.0,
        };
        let park_delays = self.park_delays();
        let unreadable = park_delays.delay(0);
        let overflow = Overflow { max_wait: delivery.max_wait.0, park_delays };
        Attempts {
            journal: Journal::start(&self.store, &self.availability, waiting, self.background),
            outbox: self.outbox(names),
            claims: Claims::default(),
            lanes: Lanes::with_overflow(bounds, overflow),
            parking: Gathering::new(delivery.park_together.0, self.parked_together()),
            targets: Targets::new(
                self.settings.cache.webhooks,
                unreadable,
                url_policy(self.settings),
                self.clock.clone(),
            ),
            told: Told::default(),
            client: self.client.clone(),
            schedule: Schedule::new(delivery.retry_delays.0.iter().map(|delay| delay.0).collect()),
            clock: self.clock.clone(),
            stopping,
        }
    }

    /// Each stage has a channel of its own: a large fan-out must not hold up the retries of others.
    fn publisher(&self) -> broker::Publisher {
        self.broker.publisher(PublisherConfig::default())
    }

    fn consumer(&self, queue: String, prefetch: u16) -> broker::Consumer {
        self.broker.consumer(queue, ConsumerConfig { prefetch, tag: INFO.name.to_owned() })
    }

    /// Consumers that take ahead together what one would.
    fn consumers(&self, queues: Vec<String>, prefetch: u16) -> Vec<broker::Consumer> {
        let parts = parts(prefetch, queues.len());
        queues.into_iter().zip(parts).map(|(queue, prefetch)| self.consumer(queue, prefetch)).collect()
    }
}

/// Divides what may be taken ahead: each part is one at least.
fn parts(whole: u16, count: usize) -> impl Iterator<Item = u16> {
    let count = u16::try_from(count).unwrap_or(u16::MAX).max(1);
    (0..count).map(move |part| (whole / count + u16::from(part < whole % count)).max(1))
}

fn address_policy(settings: &Settings) -> AddressPolicy {
    let egress = &settings.egress;
    AddressPolicy::with_exceptions(egress.allowed_networks.0.clone())
        .without(egress.blocked_networks.0.clone())
        .with_ports(egress.allowed_ports.0.clone())
        .with_names(egress.allowed_names.0.clone())
}

/// The rules that webhooks' URLs are checked by when they are created, checked again: the configuration may have
/// changed since.
fn url_policy(settings: &Settings) -> UrlPolicy {
    let schemes = if settings.egress.allow_http { Schemes::HttpToo } else { Schemes::HttpsOnly };
    UrlPolicy { schemes, addresses: address_policy(settings) }
}

fn egress_config(settings: &Settings) -> anyhow::Result<EgressConfig> {
    let (delivery, egress) = (&settings.delivery, &settings.egress);
    Ok(EgressConfig {
        timeout: delivery.timeout.0,
        connect_timeout: egress.connect_timeout.0,
        response_limit: delivery.response_limit.0,
        idle_timeout: egress.idle_timeout.0,
        // Many webhooks may be at one host.
        max_idle_per_host: delivery.max_in_flight as usize,
        max_connections: egress.max_connections,
        connection_lifetime: egress.connection_lifetime.0,
        proxy: proxy(settings).map_err(anyhow::Error::msg)?,
        addresses: address_policy(settings),
        dns: DnsConfig {
            name_servers: egress.name_servers.0.clone(),
            resolv_conf: RESOLV_CONF.into(),
            timeout: egress.dns_timeout.0,
            max_lookups: egress.dns_lookups as usize,
            cached_names: egress.dns_cache.into(),
            max_ttl: egress.dns_max_ttl.0,
            max_negative_ttl: egress.dns_max_negative_ttl.0,
        },
        ca_file: egress.ca_file.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_consumers_take_ahead_what_one_would_and_each_takes_something() {
        let parts = |whole, count| parts(whole, count).collect::<Vec<_>>();
        assert_eq!(parts(2000, 1), [2000]);
        assert_eq!(parts(64, 4), [16; 4]);
        assert_eq!(parts(11, 4), [3, 3, 3, 2]);
        assert_eq!(parts(2, 4), [1; 4]);
    }
}

//! The platform that a scenario measures: real services, webhooks, a receiver, a publisher.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use broker::{Broker, PublisherConfig};
use service::Clock;
use testkit::{DEADLINE, Stack, eventually, queues, servers};
use tokio_postgres::Client;

use crate::cpus::{Dispatchers, halves};
use crate::load::{Load, padding};
use crate::outcome::Outcome;
use crate::processes::{self, Usage};
use crate::receiver::{Answer, Receiver, Speaks};
use crate::sampler::{Sampler, Watched};
use crate::seed::{self, Webhook};
use crate::series;
use crate::tally::{Counts, Tally};
use crate::tls::{Protocol, Tls};

/// The longest that one phase may take.
pub(crate) const PHASE_LIMIT: Duration = Duration::from_secs(600);

/// The time between two looks at whether everything is recorded: cheap, but not for nothing.
const RECORDED_INTERVAL: Duration = Duration::from_millis(200);

/// What a scenario needs.
pub(crate) struct Needs {
    /// Events of all its phases, warming up included.
    pub(crate) events: usize,
    /// Webhooks of one user.
    pub(crate) fan_out: usize,
    /// Users with webhooks.
    pub(crate) users: usize,
    pub(crate) dispatchers: Dispatchers,
    /// How webhook `index` answers.
    pub(crate) answers: fn(usize) -> Answer,
    /// With TLS, the version of HTTP spoken over it.
    pub(crate) tls: Option<Protocol>,
    /// Bytes of an event's data; 0 is about 350.
    pub(crate) data_bytes: usize,
    /// Settings of the services.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Needs {
    /// One dispatcher, plain HTTP/1.1, receivers that answer well.
    pub(crate) fn new(events: usize, fan_out: usize, users: usize) -> Self {
        Self {
            events,
            fan_out,
            users,
            dispatchers: Dispatchers::Anywhere(1),
            answers: |_| Answer::Well,
            tls: None,
            data_bytes: 0,
            environment: Vec::new(),
        }
    }
}

/// It, running. Dropped, it is all gone.
pub(crate) struct Platform {
    pub(crate) stack: Stack,
    pub(crate) database: Client,
    pub(crate) receiver: Receiver,
    pub(crate) tally: Arc<Tally>,
    pub(crate) webhooks: Vec<Webhook>,
    pub(crate) load: Load,
    publishers: Vec<Broker>,
    users: usize,
    /// Removed with the platform.
    _authority: Option<tempfile::NamedTempFile>,
}

impl Platform {
    pub(crate) async fn start(needs: &Needs) -> anyhow::Result<Self> {
        let tally = Arc::new(Tally::new(needs.events, needs.fan_out, needs.users));
        let tls = needs.tls.map(Tls::new).transpose()?;
        let speaks = Speaks {
            tls: tls.as_ref().map(|tls| tls.acceptor.clone()),
            protocol: needs.tls.unwrap_or(Protocol::Http1),
        };
        let receiver = Receiver::start(tally.clone(), speaks).await?;
        // What the stack of the tests sets lower than the services' default.
        let mut stack = Stack::builder().no_api().env("LOK__DATABASE__POOL_SIZE", "16");
        for (name, value) in &needs.environment {
            stack = stack.env(name, value);
        }
        let mut authority = None;
        if let Some(tls) = tls {
            let file = tempfile::NamedTempFile::new()?;
            std::fs::write(file.path(), tls.authority)?;
            stack = stack.env("LOK__EGRESS__CA_FILE", file.path().to_string_lossy());
            authority = Some(file);
        }
        let stack = match needs.dispatchers {
            Dispatchers::Anywhere(count) => stack.dispatchers(count),
            Dispatchers::OnHalves(count) => stack.dispatchers_on(halves()?.into_iter().take(count)),
        };
        let stack = stack.start().await;
        let database = stack.database.connect().await;
        let now = Clock::system().now();
        let webhooks =
            seed::webhooks(&database, tally.webhooks(), needs.fan_out, now, |index| receiver.url(index));
        let webhooks = webhooks.await?;
        let secrets: Vec<String> = webhooks.iter().map(|webhook| webhook.secret.clone()).collect();
        receiver.set_hooks(&secrets, needs.answers)?;
        let publisher = broker(&stack);
        let load = Load {
            publisher: publisher.publisher(PublisherConfig::default()),
            exchange: stack.queues().names().events_exchange(),
            tally: tally.clone(),
            run: format!("bench{}", now.timestamp_millis()),
            padding: padding(needs.data_bytes),
        };
        let (users, publishers) = (needs.users, vec![publisher]);
        Ok(Self {
            stack,
            database,
            receiver,
            tally,
            webhooks,
            load,
            publishers,
            users,
            _authority: authority,
        })
    }

    /// Another internal service that publishes: over a connection of its own.
    pub(crate) fn another_publisher(&mut self) -> Load {
        let broker = broker(&self.stack);
        let load = Load { publisher: broker.publisher(PublisherConfig::default()), ..self.load.clone() };
        self.publishers.push(broker);
        load
    }

    /// Whom an event goes to where all users take turns.
    pub(crate) fn in_turn(&self) -> impl Fn(usize) -> usize + use<> {
        let users = self.users;
        move |event| event % users
    }

    /// Events that nobody measures: connections, prepared statements and caches are there afterwards. A few for
    /// every user, one after the other, so that connections are opened as they are at any time; then all at once.
    pub(crate) async fn warm_up(&self, events: Range<usize>) -> anyhow::Result<()> {
        let middle = events.start + events.len() / 2;
        let interval = Duration::from_millis(2);
        self.load.steady(events.start..middle, interval, self.in_turn()).await?;
        self.load.burst(middle..events.end, self.in_turn()).await?;
        let counts = self.tally.wait(events.clone(), PHASE_LIMIT).await;
        ensure!(counts.missing == 0, "{} of {} deliveries did not arrive", counts.missing, counts.expected);
        self.recorded(counts.expected).await;
        Ok(())
    }

    /// Waits until so many deliveries of the scenario are recorded as successes: that is part of the work.
    pub(crate) async fn recorded(&self, deliveries: usize) {
        let statement = "SELECT COALESCE(sum(success), 0)::bigint FROM webhook_statistics";
        eventually("every delivery is recorded as a success", PHASE_LIMIT, async || {
            let row = self.database.query_one(statement, &[]).await.expect("statistics can be read");
            let recorded = usize::try_from(row.get::<_, i64>(0));
            if recorded != Ok(deliveries) {
                tokio::time::sleep(RECORDED_INTERVAL).await;
                return None;
            }
            Some(())
        })
        .await;
    }

    /// The services' process ids, by name.
    pub(crate) fn services(&self) -> BTreeMap<String, u32> {
        let mut services = BTreeMap::new();
        for kind in [&self.stack.ingests, &self.stack.dispatchers] {
            for (index, service) in kind.iter().enumerate() {
                let number = if kind.len() > 1 { format!("-{}", index + 1) } else { String::new() };
                services.insert(format!("{}{number}", service.name()), service.pid());
            }
        }
        services
    }

    /// What every process used so far.
    pub(crate) fn usages(&self) -> BTreeMap<String, Usage> {
        processes::usages(self.services())
    }

    /// Looks at queues and memory from now on.
    pub(crate) fn sampler(&self) -> Sampler {
        let (names, topology) = (self.stack.queues().names(), self.stack.queues().topology());
        let parked = topology.queue_names().filter(|name| name.contains("webhooks.park."));
        let queues = [
            ("ingest.events", vec![names.ingest_queue()]),
            ("ingest.events.bulk", vec![names.bulk_queue()]),
            ("webhooks.fanout", names.all_shards().map(|shard| shard.fan_out_queue()).collect()),
            ("webhooks.deliver", names.all_shards().map(|shard| shard.deliver_queue()).collect()),
            ("webhooks.park", parked.map(str::to_owned).collect()),
        ];
        Sampler::start(Watched {
            amqp_url: servers::amqp_url(),
            queues: queues.map(|(name, queues)| (name.to_owned(), queues)).into(),
            processes: self.services(),
            tally: self.tally.clone(),
        })
    }

    /// Publishes as fast as it goes and waits for the last receipt and the last record. The first `recorded`
    /// deliveries were recorded before.
    pub(crate) async fn measure_burst(
        &self,
        outcome: &mut Outcome,
        events: Range<usize>,
        user_of: impl Fn(usize) -> usize,
        recorded: usize,
    ) -> anyhow::Result<Counts> {
        let (before, sampler) = (self.usages(), self.sampler());
        self.load.burst(events.clone(), user_of).await?;
        let counts = self.tally.wait(events.clone(), PHASE_LIMIT).await;
        if counts.missing == 0 {
            self.recorded(recorded + counts.expected).await;
        }
        outcome.set_usage(&before, &self.usages(), counts.received);
        outcome.series.extend(sampler.stop().await?);
        outcome.series.extend(series::of_receipts(&self.tally, events, ""));
        Ok(counts)
    }

    /// Adds what the receiver refused, and ends everything in order.
    pub(crate) async fn end(self, outcome: &mut Outcome) {
        outcome.invalid_requests += self.tally.invalid();
        let mut stack = self.stack;
        for service in stack.services() {
            service.signal_terminate();
        }
        for service in stack.services() {
            service.wait_ended(DEADLINE).await;
        }
    }
}

fn broker(stack: &Stack) -> Broker {
    queues::connect_to(&servers::amqp_url(), stack.queues().topology())
}

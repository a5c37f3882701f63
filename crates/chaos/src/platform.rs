//! The platform under test: private servers, two of each service that may have two, and between every process and
//! every server a proxy of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use broker::{Broker, Publisher, PublisherConfig};
use bytes::Bytes;
use testkit::{ApiClient, FaultProxy, HttpClient, Memory, Service, Stack, queues, token};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use crate::schedule::{Link, Victim};

/// Processes of event-ingest.
pub(crate) const INGESTS: usize = 2;

/// Processes of dispatcher.
pub(crate) const DISPATCHERS: usize = 2;

/// One attempt, at most.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Attempts of a delivery: one more than waits below.
pub(crate) const ATTEMPTS: u32 = 3;

/// From SIGTERM to the end: the services' own bound and some for a machine that does everything else at once.
pub(crate) const MAX_SHUTDOWN: Duration = Duration::from_secs(15 + 5);

/// Short waits, so that a run ends, and servers that are given up soon. A dispatcher that is killed has to repeat what
/// it has on the wire: with the default of 768 a short run would have more of that than of anything else.
const ENVIRONMENT: [(&str, &str); 12] = [
    ("LOK__DELIVERY__RETRY_DELAYS", "2s,5s"),
    ("LOK__DELIVERY__TIMEOUT", "2s"),
    ("LOK__DELIVERY__PARK_DELAYS", "2s,30s"),
    ("LOK__DELIVERY__MAX_IN_FLIGHT", "64"),
    ("LOK__DELIVERY__MAX_IN_FLIGHT_PER_WEBHOOK", "16"),
    ("LOK__AMQP__HEARTBEAT", "2s"),
    // One user, at one address, reads the whole history in the end.
    ("LOK__API__USER_RATE", "100000"),
    ("LOK__API__USER_BURST", "100000"),
    ("LOK__API__ADDRESS_RATE", "100000"),
    ("LOK__API__ADDRESS_BURST", "100000"),
    ("LOK__RECOVERY__INTERVAL", "2s"),
    ("LOK__RECOVERY__SLACK", "15s"),
];

/// One process and its connections.
#[derive(Debug)]
pub(crate) struct Part {
    /// The process.
    pub(crate) service: Service,
    /// Its largest resident set so far, over all restarts.
    pub(crate) peak_rss: u64,
    links: BTreeMap<Link, FaultProxy>,
}

impl Part {
    /// A connection.
    pub(crate) fn link(&self, link: Link) -> &FaultProxy {
        &self.links[&link]
    }

    /// Looks at the size of the process, which ends with it.
    pub(crate) fn measure(&mut self) {
        let memory = Memory::of(self.service.pid());
        self.peak_rss = self.peak_rss.max(memory.map_or(0, |memory| memory.peak));
    }

    /// Waits until the process says that it is ready; whether it did within `limit`.
    pub(crate) async fn ready_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(url) = self.service.admin_url_now()
                && let Ok(request) = http::Request::get(format!("{url}/readyz")).body(Bytes::new())
                && HttpClient::default().try_send(request).await.is_ok_and(|answer| answer.status == 200)
            {
                return true;
            }
            sleep(Duration::from_millis(50)).await;
        }
        false
    }
}

/// The platform. Dropped, it is all gone.
pub(crate) struct Platform {
    // Fields are dropped in their order: processes before what they use.
    parts: BTreeMap<Victim, Mutex<Part>>,
    publishers_link: Mutex<FaultProxy>,
    /// Whoever does something to a server has this.
    servers: BTreeMap<Victim, Mutex<()>>,
    /// Where each event-ingest listens now, as far as it is known.
    ingest_urls: watch::Sender<[Option<String>; INGESTS]>,
    /// The servers, a database and queues.
    pub(crate) stack: Stack,
    /// The connection of the events' publisher, and of whoever looks at queues.
    broker: Broker,
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Platform").field(&self.stack).finish()
    }
}

impl Platform {
    /// Starts everything, with so many shards, and waits until it is ready.
    pub(crate) async fn start(shards: u16) -> anyhow::Result<Self> {
        let mut builder = Stack::builder().private_servers().no_api().ingests(0).dispatchers(0);
        builder = builder.env("LOK__AMQP__SHARDS", shards.to_string());
        for (name, value) in ENVIRONMENT {
            builder = builder.env(name, value);
        }
        if let Ok(filter) = std::env::var("RUST_LOG") {
            builder = builder.env("RUST_LOG", filter);
        }
        let stack = builder.start().await;
        let mut amqp_url = stack.servers().rabbitmq.url().to_string();
        let publishers_link = FaultProxy::put_before(&mut amqp_url, 5672).await;
        let broker = queues::connect_to(&amqp_url, stack.queues().topology());

        let mut parts = BTreeMap::new();
        let ingests = (0..INGESTS).map(|n| (Victim::Ingest(n), "event-ingest"));
        let dispatchers = (0..DISPATCHERS).map(|n| (Victim::Dispatcher(n), "dispatcher"));
        for (victim, binary) in ingests.chain(dispatchers).chain([(Victim::Api, "management-api")]) {
            parts.insert(victim, Mutex::new(start_part(&stack, binary).await));
        }
        let servers = [Victim::Postgres, Victim::Rabbitmq].map(|victim| (victim, Mutex::default())).into();
        let ingest_urls = watch::Sender::default();
        let platform =
            Self { parts, publishers_link: publishers_link.into(), servers, ingest_urls, stack, broker };
        platform.all_ready().await?;
        platform.observe();
        Ok(platform)
    }

    /// The processes.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Victim, &Mutex<Part>)> {
        self.parts.iter().map(|(victim, part)| (*victim, part))
    }

    /// A process.
    pub(crate) fn part(&self, victim: Victim) -> anyhow::Result<&Mutex<Part>> {
        self.parts.get(&victim).with_context(|| format!("{victim} is no process"))
    }

    /// The connection of the events' publisher.
    pub(crate) fn publishers_link(&self) -> &Mutex<FaultProxy> {
        &self.publishers_link
    }

    /// The right to do something to a server.
    pub(crate) fn server(&self, victim: Victim) -> anyhow::Result<&Mutex<()>> {
        self.servers.get(&victim).with_context(|| format!("{victim} is no server"))
    }

    /// Publishes the events.
    pub(crate) fn publisher(&self) -> Publisher {
        self.broker.publisher(PublisherConfig::default())
    }

    /// Messages that wait to be taken by event-ingest.
    pub(crate) async fn ingest_backlog(&self) -> anyhow::Result<u32> {
        let names = self.stack.queues().names();
        let mut backlog = 0;
        // In the order in which messages move: what moves meanwhile is counted, or in somebody's hands.
        for queue in [names.ingest_queue(), names.bulk_queue()] {
            // Each end of an event-ingest gives messages back, and what came back many times is isolated.
            let isolated = names.isolated_queue(&queue);
            for queue in [queue, isolated] {
                backlog += self.broker.inspector().depth(&queue).await?.unwrap_or(0);
            }
        }
        Ok(backlog)
    }

    /// The HTTP side of an event-ingest, if it is known where it listens.
    pub(crate) fn ingest(&self, n: usize) -> Option<String> {
        self.ingest_urls.borrow()[n % INGESTS].clone()
    }

    /// The management API as a user sees it.
    pub(crate) async fn api(&self, user: &str) -> anyhow::Result<ApiClient> {
        let part = self.part(Victim::Api)?.lock().await;
        let url = part.service.url_now().context("management-api listens nowhere")?;
        let token = token::hs256(self.stack.hs256_secret(), user);
        Ok(ApiClient::new(HttpClient::default(), url).bearer(&token))
    }

    /// Waits until every process is ready.
    ///
    /// # Errors
    /// One is not within half a minute.
    pub(crate) async fn all_ready(&self) -> anyhow::Result<()> {
        for (victim, part) in self.parts() {
            let part = part.lock().await;
            let ready = part.ready_within(Duration::from_secs(30)).await;
            anyhow::ensure!(ready, "{victim} is not ready within 30 s though nothing disturbs it");
        }
        Ok(())
    }

    /// Looks at every process that nothing is being done to: how large it is, where it listens, whether it runs.
    /// Returns those that ended by themselves, after starting them again.
    pub(crate) fn observe(&self) -> Vec<Victim> {
        let mut ended = Vec::new();
        for (victim, part) in self.parts() {
            let Ok(mut part) = part.try_lock() else { continue };
            part.measure();
            if part.service.ended().is_some() {
                ended.push(victim);
                part.service.start_again();
            }
            if let (Victim::Ingest(n), Some(url)) = (victim, part.service.url_now()) {
                self.ingest_urls.send_modify(|urls| urls[n] = Some(url));
            }
        }
        ended
    }

    /// Ends all processes as an operator does, one service after the other.
    ///
    /// # Errors
    /// One does not exit with 0 in time.
    pub(crate) async fn shut_down(&self) -> anyhow::Result<()> {
        for (victim, part) in self.parts() {
            let mut part = part.lock().await;
            if !part.service.is_running() {
                continue;
            }
            part.measure();
            terminate(victim, &mut part.service).await?;
        }
        Ok(())
    }

    /// Ends what makes attempts.
    pub(crate) async fn end_dispatchers(&self) {
        for (victim, part) in self.parts() {
            if matches!(victim, Victim::Dispatcher(_)) {
                part.lock().await.service.kill9();
            }
        }
    }

    /// Writes the logs of all processes and servers into a folder.
    pub(crate) async fn write_logs(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (victim, part) in self.parts() {
            std::fs::write(folder.join(format!("{victim}.log")), part.lock().await.service.log())?;
        }
        for server in [&self.stack.servers().postgres, &self.stack.servers().rabbitmq] {
            for entry in std::fs::read_dir(server.log_directory())? {
                let path = entry?.path();
                if let Some(name) = path.file_name() {
                    std::fs::copy(
                        &path,
                        folder.join(format!("{}-{}", server.kind().as_str(), name.display())),
                    )?;
                }
            }
        }
        Ok(())
    }
}

async fn start_part(stack: &Stack, binary: &str) -> Part {
    let mut database_url = stack.database.url().to_owned();
    let mut amqp_url = stack.servers().rabbitmq.url().to_string();
    let links = BTreeMap::from([
        (Link::Database, FaultProxy::put_before(&mut database_url, 5432).await),
        (Link::Broker, FaultProxy::put_before(&mut amqp_url, 5672).await),
    ]);
    let binary = stack.binary(binary).env("LOK__DATABASE__URL", database_url).env("LOK__AMQP__URL", amqp_url);
    Part { service: binary.spawn(), peak_rss: 0, links }
}

/// Sends SIGTERM and waits for an end with exit code 0 in time.
pub(crate) async fn terminate(victim: Victim, service: &mut Service) -> anyhow::Result<()> {
    // One that has just been started has nothing to drain, and does not listen to signals before it says where it
    // listens.
    let started = Instant::now() + MAX_SHUTDOWN;
    while service.admin_url_now().is_none() && Instant::now() < started {
        sleep(Duration::from_millis(20)).await;
    }
    service.signal_terminate();
    let end = Instant::now() + MAX_SHUTDOWN;
    let status = loop {
        if let Some(status) = service.ended() {
            break status;
        }
        if Instant::now() > end {
            service.kill9();
            anyhow::bail!("{victim} did not end within {MAX_SHUTDOWN:?} after SIGTERM");
        }
        sleep(Duration::from_millis(20)).await;
    };
    anyhow::ensure!(status.success(), "{victim} ended with {status} after SIGTERM");
    Ok(())
}

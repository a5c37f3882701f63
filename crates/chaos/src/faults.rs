//! Makes the planned faults happen, and remembers when they did.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{bail, ensure};
use domain::Timestamp;
use serde::Serialize;
use service::Clock;
use testkit::{FaultProxy, PrivateServer};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::load::Gate;
use crate::platform::{INGESTS, Part, Platform, terminate};
use crate::report::say;
use crate::schedule::{Kind, Planned, Victim};

/// The latency of a delayed connection, each way.
const LATENCY: Duration = Duration::from_millis(150);

/// The longest that a process may take to be ready again while others are disturbed.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// The longest wait for the ingest queue to run empty before the broker is wiped.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);

/// A fault that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Fault {
    /// When it began.
    pub(crate) began: Timestamp,
    /// When all was as before: whoever was ended is ready again.
    pub(crate) ended: Timestamp,
    /// Whom it hit.
    pub(crate) victim: Victim,
    /// What it was.
    pub(crate) kind: Kind,
}

/// What happened so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Diary(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    faults: Vec<Fault>,
    problems: Vec<String>,
}

impl Diary {
    /// The faults that are over.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        self.lock().faults.clone()
    }

    /// What a fault must not cause and did, for example a process that ended by itself.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.lock().problems.clone()
    }

    /// Writes down what must not be, and says so.
    pub(crate) fn problem(&self, text: String) {
        say(&format!("           PROBLEM: {text}"));
        self.lock().problems.push(text);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Lists are whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that faults need.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    /// What is disturbed.
    pub(crate) platform: Arc<Platform>,
    /// Where it is written down.
    pub(crate) diary: Diary,
    /// Holds the publishers while the broker is wiped.
    pub(crate) gate: Gate,
    /// When the run began.
    pub(crate) start: Instant,
}

impl Faults {
    /// Makes everything planned happen, and returns when all is healed.
    pub(crate) async fn cause(&self, planned: Vec<Planned>) {
        let mut running = JoinSet::new();
        for fault in planned {
            sleep_until(self.start + fault.at).await;
            let faults = self.clone();
            running.spawn(async move { faults.one(fault).await });
        }
        while let Some(ended) = running.join_next().await {
            if let Err(error) = ended {
                self.diary.problem(format!("a fault could not be caused: {error}"));
            }
        }
    }

    async fn one(&self, planned: Planned) {
        let Planned { victim, kind, lasts, .. } = planned;
        if let Err(error) = self.cause_one(victim, kind, lasts).await {
            self.diary.problem(format!("{kind} of {victim}: {error:#}"));
        }
    }

    async fn cause_one(&self, victim: Victim, kind: Kind, lasts: Duration) -> anyhow::Result<()> {
        match victim {
            Victim::Publisher => {
                let link = self.platform.publishers_link().lock().await;
                self.during(victim, kind, lasts, disturb(&link, kind, lasts)).await
            }
            Victim::Postgres | Victim::Rabbitmq => {
                let _mine = self.platform.server(victim)?.lock().await;
                let servers = self.platform.stack.servers();
                let server = if victim == Victim::Postgres { &servers.postgres } else { &servers.rabbitmq };
                if kind == Kind::Wipe {
                    return self.wipe(server).await;
                }
                self.during(victim, kind, lasts, hit_server(server, kind, lasts)).await
            }
            Victim::Api | Victim::Ingest(_) | Victim::Dispatcher(_) => {
                let mut part = self.platform.part(victim)?.lock().await;
                part.measure();
                self.during(victim, kind, lasts, hit_part(&mut part, victim, kind, lasts)).await
            }
        }
    }

    /// Tells and writes down a fault around what causes it.
    async fn during(
        &self,
        victim: Victim,
        kind: Kind,
        lasts: Duration,
        fault: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let began = Clock::system().now();
        let happens = Planned { at: self.start.elapsed(), lasts, victim, kind };
        say(&format!("{}  {happens}", began.format("%H:%M:%S%.3f")));
        let done = fault.await;
        let ended = Clock::system().now();
        self.diary.lock().faults.push(Fault { began, ended, victim, kind });
        done
    }

    /// Deletes everything the broker has. A confirmed event that event-ingest has not stored yet exists only there:
    /// those are what a lost broker loses, so the publishers wait and the queue is drained first. What is left on the
    /// broker then, the platform has to know itself.
    async fn wipe(&self, broker: &PrivateServer) -> anyhow::Result<()> {
        let mut ingests = Vec::new();
        for n in 0..INGESTS {
            ingests.push((Victim::Ingest(n), self.platform.part(Victim::Ingest(n))?.lock().await));
        }
        let _closed = self.gate.close().await;
        let end = Instant::now() + DRAINED_WITHIN;
        loop {
            while self.platform.ingest_backlog().await.unwrap_or(u32::MAX) > 0 {
                ensure!(Instant::now() < end, "the ingest queue did not run empty within {DRAINED_WITHIN:?}");
                sleep(Duration::from_millis(100)).await;
            }
            // A queue does not count what is being worked on. Who goes down finishes that or gives it back.
            for (victim, ingest) in &mut ingests {
                terminate(*victim, &mut ingest.service).await?;
            }
            if self.platform.ingest_backlog().await.is_ok_and(|backlog| backlog == 0) {
                break;
            }
            for (_, ingest) in &mut ingests {
                ingest.service.start_again();
            }
        }
        let wiped = async {
            broker.kill9().await;
            broker.wipe().await;
            broker.start_again().await;
            for (_, ingest) in &mut ingests {
                ingest.service.start_again();
            }
            Ok(())
        };
        self.during(Victim::Rabbitmq, Kind::Wipe, Duration::ZERO, wiped).await
    }
}

async fn disturb(link: &FaultProxy, kind: Kind, lasts: Duration) -> anyhow::Result<()> {
    match kind {
        Kind::Cut(_) => link.cut(),
        Kind::Freeze(_) => link.freeze(),
        Kind::Delay(_) => link.delay(LATENCY),
        Kind::Kill | Kind::Pause | Kind::Restart | Kind::Wipe => bail!("this happens to processes"),
    }
    sleep(lasts).await;
    link.restore();
    Ok(())
}

async fn hit_server(server: &PrivateServer, kind: Kind, lasts: Duration) -> anyhow::Result<()> {
    match kind {
        Kind::Pause => {
            server.pause().await;
            sleep(lasts).await;
            server.resume().await;
            return Ok(());
        }
        Kind::Kill => server.kill9().await,
        Kind::Restart => server.stop().await,
        Kind::Wipe | Kind::Cut(_) | Kind::Freeze(_) | Kind::Delay(_) => {
            bail!("this does not happen to servers")
        }
    }
    sleep(lasts).await;
    server.start_again().await;
    Ok(())
}

async fn hit_part(part: &mut Part, victim: Victim, kind: Kind, lasts: Duration) -> anyhow::Result<()> {
    match kind {
        Kind::Cut(link) | Kind::Freeze(link) | Kind::Delay(link) => {
            return disturb(part.link(link), kind, lasts).await;
        }
        Kind::Pause => {
            part.service.stop();
            sleep(lasts).await;
            part.service.cont();
            return Ok(());
        }
        Kind::Kill => {
            part.service.kill9();
            sleep(lasts).await;
            part.service.start_again();
        }
        Kind::Restart => {
            let ended = terminate(victim, &mut part.service).await;
            part.service.start_again();
            ended?;
        }
        Kind::Wipe => bail!("this happens to the broker"),
    }
    // Servers may be away at the same time: then it is ready when they are, and nobody waits for that here.
    part.ready_within(READY_WITHIN).await;
    Ok(())
}

//! Queue depths and memory, looked at a few times a second while a scenario runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use testkit::Memory;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::series::Series;
use crate::stats::mebibytes;
use crate::tally::Tally;

/// The time between two looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// What is looked at.
pub(crate) struct Watched {
    pub(crate) amqp_url: String,
    /// The full names of queues whose messages are added up, by the name in the plot.
    pub(crate) queues: BTreeMap<String, Vec<String>>,
    /// Process ids by name.
    pub(crate) processes: BTreeMap<String, u32>,
    /// Its clock is everybody's.
    pub(crate) tally: Arc<Tally>,
}

/// Looks until it is stopped.
pub(crate) struct Sampler {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<Vec<Series>>>,
}

impl Sampler {
    pub(crate) fn start(watched: Watched) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: tokio::spawn(sample(watched, stopped)) }
    }

    /// What was seen.
    pub(crate) async fn stop(self) -> anyhow::Result<Vec<Series>> {
        self.stop.send_replace(true);
        self.task.await?
    }
}

async fn sample(watched: Watched, mut stopped: watch::Receiver<bool>) -> anyhow::Result<Vec<Series>> {
    let connection = Connection::connect(&watched.amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut depths: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut memory: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => break,
            _ = ticks.tick() => {}
        }
        let at = watched.tally.elapsed().as_secs_f64();
        for (name, queues) in &watched.queues {
            let mut ready = 0;
            for queue in queues {
                ready += depth(&channel, queue).await?;
            }
            depths.entry(name.clone()).or_default().push((at, f64::from(ready)));
        }
        for (name, pid) in &watched.processes {
            if let Some(taken) = Memory::of(*pid) {
                memory.entry(name.clone()).or_default().push((at, mebibytes(taken.resident)));
            }
        }
    }
    connection.close(200, "OK".into()).await?;
    let series = |panel: &'static str, of: BTreeMap<String, Vec<(f64, f64)>>| {
        of.into_iter().map(move |(name, points)| Series::new(panel, &name, points))
    };
    Ok(series("messages ready", depths).chain(series("resident memory (MiB)", memory)).collect())
}

async fn depth(channel: &Channel, queue: &str) -> lapin::Result<u32> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    Ok(channel.queue_declare(queue.into(), options, FieldTable::default()).await?.message_count())
}

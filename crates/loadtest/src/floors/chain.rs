//! The naive chain: publish, then n quorum queues, rows written in groups, and a signed POST from the last.
//!
//! One message an event. Every queue but the last: consume, write a row, publish to the next and wait for the confirm,
//! acknowledge. The last: consume, write a delivery, post, update the delivery, acknowledge.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use service::Clock;
use testkit::{TestDatabase, servers};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use super::WEBHOOKS;
use super::grouped::{Grouped, TABLES};
use crate::load::{IN_FLIGHT, data};
use crate::poster::Poster;
use crate::tally::Tally;

/// Messages that a consumer takes ahead.
const PREFETCH: u16 = 500;

/// It, running.
pub(super) struct Chain {
    queues: Vec<String>,
    publisher: ChainPublisher,
    tally: Arc<Tally>,
    padding: Arc<str>,
    tasks: JoinSet<anyhow::Result<()>>,
    connections: Vec<Connection>,
    writers: TaskTracker,
    // After everything that is connected to it.
    _database: TestDatabase,
}

impl Chain {
    /// Declares the queues, makes the tables, and starts a consumer for each queue.
    pub(super) async fn start(
        hops: u32,
        poster: Arc<Poster>,
        tally: Arc<Tally>,
        padding: Arc<str>,
    ) -> anyhow::Result<Self> {
        let database = TestDatabase::create().await;
        database.connect().await.batch_execute(TABLES).await?;
        // One connection to publish, one to consume: as the services have.
        let (publishing, consuming) = (connect().await?, connect().await?);
        let run = Clock::system().now().timestamp_millis();
        let queues: Vec<String> = (1..=hops).map(|hop| format!("floor.{run}.{hop}")).collect();
        let channel = publishing.create_channel().await?;
        for queue in &queues {
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare(queue.as_str().into(), options, arguments).await?;
        }
        let writers = TaskTracker::new();
        let first = queues.first().context("a chain has a queue")?;
        let publisher = ChainPublisher::start(&publishing, first).await?;
        let mut tasks = JoinSet::new();
        for (hop, queue) in queues.iter().enumerate() {
            let work = match queues.get(hop + 1) {
                Some(next) => Work::Pass {
                    hop: i64::try_from(hop)?,
                    rows: Grouped::events(&database, &writers).await?,
                    next: ChainPublisher::start(&publishing, next).await?,
                },
                None => Work::Deliver {
                    deliveries: Grouped::deliveries(&database, &writers).await?,
                    outcomes: Grouped::outcomes(&database, &writers).await?,
                    poster: poster.clone(),
                },
            };
            let channel = consuming.create_channel().await?;
            tasks.spawn(consume(channel, queue.clone(), Arc::new(work)));
        }
        writers.close();
        let connections = vec![publishing, consuming];
        Ok(Self { queues, publisher, tally, padding, tasks, connections, writers, _database: database })
    }

    /// Publishes as fast as confirms come.
    pub(super) async fn burst(&self, events: Range<usize>) -> anyhow::Result<()> {
        stream::iter(events)
            .map(|event| {
                self.tally.note_sent(event, event % WEBHOOKS);
                self.publisher.publish(self.body(event))
            })
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await
    }

    /// Publishes once every `interval`, however long the earlier ones take.
    pub(super) async fn steady(&self, events: Range<usize>, interval: Duration) -> anyhow::Result<()> {
        let (mut publishing, mut next) = (JoinSet::new(), Instant::now());
        for event in events {
            sleep_until(next).await;
            next += interval;
            let (publisher, tally, body) = (self.publisher.clone(), self.tally.clone(), self.body(event));
            publishing.spawn(async move {
                tally.note_sent(event, event % WEBHOOKS);
                publisher.publish(body).await
            });
        }
        while let Some(published) = publishing.join_next().await {
            published??;
        }
        Ok(())
    }

    /// The event's number, and a body as large as an event's.
    fn body(&self, event: usize) -> Bytes {
        format!("{event} {}", data(event, &self.padding)).into()
    }

    /// Ends it and deletes its queues.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        let channel = self.connections[0].create_channel().await?;
        for queue in &self.queues {
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        }
        // Without their queues the consumers end by themselves.
        drop(self.publisher);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        self.writers.wait().await;
        for connection in self.connections {
            connection.close(200, "OK".into()).await?;
        }
        Ok(())
    }
}

async fn connect() -> anyhow::Result<Connection> {
    let url = servers::amqp_url();
    let connecting = Connection::connect(&url, ConnectionProperties::default());
    connecting.await.context("the broker does not answer")
}

/// What is done with a message.
enum Work {
    /// Stored, and passed on.
    Pass { hop: i64, rows: Grouped, next: ChainPublisher },
    /// Posted, with a row before and after.
    Deliver { deliveries: Grouped, outcomes: Grouped, poster: Arc<Poster> },
}

impl Work {
    async fn do_with(&self, message: Vec<u8>) -> anyhow::Result<()> {
        let text = String::from_utf8(message)?;
        let (number, body) = text.split_once(' ').context("a message begins with its number")?;
        let event: i64 = number.parse()?;
        match self {
            Self::Pass { hop, rows, next } => {
                rows.write(*hop, event, body.to_owned()).await?;
                next.publish(text.into()).await
            }
            Self::Deliver { deliveries, outcomes, poster } => {
                let webhook = usize::try_from(event)? % WEBHOOKS;
                let row = i64::try_from(webhook)?;
                deliveries.write(event, row, String::new()).await?;
                poster.post(&format!("bench-{event}"), webhook, Bytes::from(body.to_owned())).await?;
                outcomes.write(event, row, String::new()).await
            }
        }
    }
}

/// Works on as many messages at once as are taken ahead; acknowledges each by itself, without waiting for the socket.
async fn consume(channel: Channel, queue: String, work: Arc<Work>) -> anyhow::Result<()> {
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let consuming = channel.basic_consume(
        queue.as_str().into(),
        queue.as_str().into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut messages = consuming.await?;
    let mut working: JoinSet<anyhow::Result<()>> = JoinSet::new();
    while let Some(message) = messages.next().await {
        // The queue was deleted: the end.
        let Ok(message) = message else { break };
        let (channel, work) = (channel.clone(), work.clone());
        working.spawn(async move {
            work.do_with(message.data).await?;
            channel.basic_ack(message.delivery_tag, BasicAckOptions::default()).await?;
            Ok(())
        });
        while let Some(done) = working.try_join_next() {
            done??;
        }
    }
    while let Some(done) = working.join_next().await {
        done??;
    }
    Ok(())
}

/// One task publishes on one channel, many in flight.
#[derive(Clone)]
struct ChainPublisher {
    requests: mpsc::Sender<(Bytes, oneshot::Sender<()>)>,
}

impl ChainPublisher {
    async fn start(connection: &Connection, queue: &str) -> anyhow::Result<Self> {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (requests, waiting) = mpsc::channel(IN_FLIGHT);
        tokio::spawn(publish(channel, queue.to_owned(), waiting));
        Ok(Self { requests })
    }

    /// Waits for the confirm.
    async fn publish(&self, body: Bytes) -> anyhow::Result<()> {
        let (reply, confirmed) = oneshot::channel();
        self.requests.send((body, reply)).await.ok().context("the chain's publisher ended")?;
        confirmed.await.context("the broker did not confirm")
    }
}

async fn publish(channel: Channel, queue: String, mut waiting: mpsc::Receiver<(Bytes, oneshot::Sender<()>)>) {
    let mut confirms = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(confirmed) = confirms.next(), if !confirms.is_empty() => {
                if !matches!(confirmed, Some(Confirmation::Ack(None))) {
                    // Whoever waits is told by the end of the channel.
                    return;
                }
            }
            request = waiting.recv(), if confirms.len() < IN_FLIGHT => {
                let Some((body, reply)) = request else { break };
                let (channel, queue) = (channel.clone(), queue.clone());
                let mut sent = async move {
                    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
                    let properties = BasicProperties::default().with_delivery_mode(2);
                    let publishing =
                        channel.basic_publish("".into(), queue.as_str().into(), options, &body, properties);
                    let confirm = publishing.await.ok()?.await.ok()?;
                    let _ = reply.send(());
                    Some(confirm)
                }
                .boxed();
                // Polled here, publishes keep their order, and none waits for the socket before the next.
                match (&mut sent).now_or_never() {
                    Some(confirmed) => confirms.push(futures_util::future::ready(confirmed).boxed()),
                    None => confirms.push(sent),
                }
            }
        }
    }
    while confirms.next().await.is_some() {}
}

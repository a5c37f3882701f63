//! A stage whose work does what the test tells it, and the queues around it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::{Broker, Confirmed, Consumer, ConsumerConfig, Message, Publisher, PublisherConfig, Received};
use bytes::Bytes;
use isolation::{Isolation, Stopping, Work};
use testkit::{DEADLINE, FaultProxy, TestQueues, eventually_ok, queues, servers};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::Names;

/// Messages taken together.
const BATCH: usize = 100;

/// What one message is, and what became of it. A message is its text; one of several parts has commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worked {
    pub(crate) text: String,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) redelivered: bool,
    /// How many messages it was worked off with, itself included.
    pub(crate) together: usize,
}

/// None to begin with.
#[derive(Debug)]
pub(crate) struct Permits(pub(crate) Semaphore);

impl Default for Permits {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

/// Work that fails as it is told.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    /// Texts of which any part makes it panic.
    pub(crate) panics: BTreeSet<&'static str>,
    /// Makes every message panic.
    pub(crate) always_panics: AtomicBool,
    /// Texts that keep it busy for ever: only the end of the process ends them.
    pub(crate) hangs: BTreeSet<&'static str>,
    /// Makes giving up panic.
    pub(crate) give_up_panics: bool,
    pub(crate) hanging: AtomicUsize,
    /// Texts that each need a permit to be worked off.
    pub(crate) slow: BTreeSet<&'static str>,
    pub(crate) permits: Permits,
    pub(crate) worked: Mutex<Vec<Worked>>,
    pub(crate) given_up: Mutex<Vec<(String, String)>>,
}

fn text(message: &Received) -> String {
    String::from_utf8(message.body.to_vec()).unwrap()
}

impl Scripted {
    pub(crate) fn texts(&self) -> Vec<String> {
        self.worked.lock().unwrap().iter().map(|worked| worked.text.clone()).collect()
    }

    pub(crate) fn worked(&self, text: &str) -> Vec<Worked> {
        self.worked.lock().unwrap().iter().filter(|worked| worked.text == text).cloned().collect()
    }

    fn is_among(texts: &BTreeSet<&'static str>, message: &Received) -> bool {
        text(message).split(',').any(|part| texts.contains(part))
    }
}

impl Work for Scripted {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, Stopping> {
        let panics = messages.iter().any(|message| Self::is_among(&self.panics, message));
        assert!(!panics && !self.always_panics.load(Ordering::Relaxed), "on purpose");
        if messages.iter().any(|message| Self::is_among(&self.hangs, message)) {
            self.hanging.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
        if messages.iter().any(|message| Self::is_among(&self.slow, message)) {
            self.hanging.fetch_add(1, Ordering::Relaxed);
            self.permits.0.acquire().await.unwrap().forget();
        }
        let worked = messages.iter().map(|message| Worked {
            text: text(message),
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            redelivered: message.redelivered,
            together: messages.len(),
        });
        self.worked.lock().unwrap().extend(worked);
        Ok(Confirmed::nothing_to_publish())
    }

    fn parts(&self, message: &Received) -> Vec<Bytes> {
        text(message).split(',').map(|part| Bytes::from(part.to_owned())).collect()
    }

    async fn give_up(&self, message: &Received, reason: &str) -> Result<(), Stopping> {
        assert!(!self.give_up_panics, "on purpose");
        self.given_up.lock().unwrap().push((text(message), reason.to_owned()));
        Ok(())
    }
}

/// Queues of one test.
pub(crate) struct Bench {
    pub(crate) broker: Broker,
    pub(crate) names: Names,
    publisher: Publisher,
    queues: TestQueues,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let queues = TestQueues::reserve(vec![Duration::from_secs(60)], Duration::from_secs(5)).await;
        let broker = queues::connect(queues.topology());
        broker.ready().await;
        let publisher = broker.publisher(PublisherConfig::default());
        Self { broker, names: queues.names(), publisher, queues }
    }

    /// The queue of the stage under test.
    pub(crate) fn queue(&self) -> String {
        self.names.deliver_queue()
    }

    pub(crate) fn isolated_queue(&self) -> String {
        self.names.isolated_queue(&self.queue())
    }

    pub(crate) async fn publish(&self, texts: impl IntoIterator<Item = impl ToString>) {
        let messages = texts.into_iter().map(|text| Message::to_queue(self.queue(), text.to_string().into()));
        self.publish_messages(messages).await;
    }

    pub(crate) async fn publish_messages(&self, messages: impl IntoIterator<Item = Message>) {
        let _ = self.publisher.publish_all(messages).await.unwrap();
    }

    /// The stage's isolation, without a stage.
    pub(crate) fn isolation(&self) -> Isolation {
        let publisher = self.broker.publisher(PublisherConfig::default());
        Isolation::new(publisher, self.names.clone(), self.queue(), CancellationToken::new())
    }

    pub(crate) fn consumer(&self, queue: String, prefetch: u16) -> Consumer {
        self.broker.consumer(queue, ConsumerConfig { prefetch, tag: "test".to_owned() })
    }

    /// Takes the messages of a queue and drops them, as a process that ends does, `times` times.
    pub(crate) async fn take_and_drop(&self, queue: &str, count: usize, times: usize) {
        for time in 0..times {
            let mut consumer = self.consumer(queue.to_owned(), 1000);
            for _ in 0..count {
                let taken = tokio::time::timeout(DEADLINE, consumer.next()).await;
                let delivery = taken.expect("a message comes").unwrap();
                assert!(delivery.received.delivery_count >= time as u64);
            }
        }
    }

    /// Waits until a queue has so many messages, none of them out.
    pub(crate) async fn depth(&self, queue: &str, expected: u32) {
        eventually_ok(&format!("{expected} in {queue}"), DEADLINE, async || {
            match self.broker.inspector().depth(queue).await.unwrap() {
                Some(depth) if depth == expected => Ok(()),
                depth => Err(format!("{depth:?}")),
            }
        })
        .await;
    }

    /// What is in the rejected queue.
    pub(crate) async fn rejected(&self, count: u32) -> Vec<Received> {
        self.depth(&self.names.rejected_queue(), count).await;
        let pulled = self.broker.inspector().pull(&self.names.rejected_queue(), 1000).await.unwrap();
        let rejected = pulled.messages().cloned().collect();
        pulled.close().await.unwrap();
        rejected
    }

    pub(crate) async fn end(self) {
        // The broker waits for its publishers to end.
        drop(self.publisher);
        self.broker.close(DEADLINE).await;
        drop(self.queues);
    }
}

/// A stage as a process runs it.
pub(crate) struct Process {
    broker: Broker,
    /// Batches that were taken, and those that were acknowledged.
    batches: Arc<[AtomicUsize; 2]>,
    queue: String,
    stopping: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(bench: &Bench, work: &Arc<Scripted>) -> Self {
        Self::start_on(queues::connect(bench.queues.topology()), bench, work)
    }

    /// One whose connections can be cut.
    pub(crate) async fn start_behind_proxy(bench: &Bench, work: &Arc<Scripted>) -> (Self, FaultProxy) {
        let mut url = servers::amqp_url();
        let proxy = FaultProxy::put_before(&mut url, 5672).await;
        (Self::start_on(queues::connect_to(&url, bench.queues.topology()), bench, work), proxy)
    }

    fn start_on(broker: Broker, bench: &Bench, work: &Arc<Scripted>) -> Self {
        let stopping = CancellationToken::new();
        let publisher = broker.publisher(PublisherConfig::default());
        let isolation = Isolation::new(publisher, bench.names.clone(), bench.queue(), stopping.clone());
        let batches = Arc::<[AtomicUsize; 2]>::default();
        let config = |prefetch| ConsumerConfig { prefetch, tag: "stage".to_owned() };
        let waiting = broker.consumer(bench.queue(), config(1000));
        let isolated = broker.consumer(isolation.isolated_queue(), config(1));
        let tasks = vec![
            tokio::spawn(isolation.clone().run(work.clone(), isolated)),
            tokio::spawn(run(isolation, work.clone(), waiting, stopping.clone(), batches.clone())),
        ];
        Self { broker, batches, queue: bench.queue(), stopping, tasks }
    }

    /// Waits until everything that was moved is confirmed, and what was acknowledged has reached the broker: what comes
    /// back after an end is then what was at work, and nothing twice.
    pub(crate) async fn settle(&self) {
        let [taken, acknowledged] = &*self.batches;
        until("no batch is at work", || {
            taken.load(Ordering::Relaxed) == acknowledged.load(Ordering::Relaxed)
        })
        .await;
        // Asked on the same connection, and so answered after it.
        for _ in 0..2 {
            self.broker.inspector().depth(&self.queue).await.unwrap();
        }
    }

    /// Ends as a killed process does: nothing is acknowledged any more.
    pub(crate) async fn kill(self) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            let _ = task.await;
        }
        self.broker.close(DEADLINE).await;
    }

    /// Ends as a process does that was asked to.
    pub(crate) async fn stop(self) {
        self.stopping.cancel();
        for task in self.tasks {
            tokio::time::timeout(DEADLINE, task).await.expect("a stopping stage ends").unwrap();
        }
        self.broker.close(DEADLINE).await;
    }
}

async fn run(
    isolation: Isolation,
    work: Arc<Scripted>,
    mut consumer: Consumer,
    stopping: CancellationToken,
    batches: Arc<[AtomicUsize; 2]>,
) {
    let [taken, acknowledged] = &*batches;
    loop {
        let batch = tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            batch = consumer.next_batch(BATCH, usize::MAX) => batch,
        };
        let Some(batch) = batch else { break };
        taken.fetch_add(1, Ordering::Relaxed);
        match isolation.work_off(&*work, batch.messages()).await {
            Ok(proof) => {
                batch.ack(proof);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(Stopping) => break,
        }
    }
    consumer.cancel().await;
}

/// What was logged in this process since [`log`].
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Logged;

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts logging.
pub(crate) fn log() {
    tracing_subscriber::fmt().with_ansi(false).with_writer(|| Logged).init();
}

/// How many lines about a queue say so.
pub(crate) fn logged(queue: &str, what: &str) -> usize {
    let log = String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned();
    log.lines().filter(|line| line.contains(queue) && line.contains(what)).count()
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    testkit::eventually(what, DEADLINE, async || is_so().then_some(())).await;
}

//! What the tests share.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use broker::{Backoff, Broker, BrokerConfig, Consumer, ConsumerConfig, Message, Origin, Topology};
use futures_util::FutureExt as _;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use testkit::servers;

/// How long anything may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Names that no other test uses, and a connection of its own to look and to interfere. What was named is deleted at
/// the end.
pub(crate) struct Bench {
    prefix: String,
    _connection: Connection,
    channel: Channel,
}

/// Runs a test with a bench, and cleans up also when it fails.
pub(crate) async fn with_bench<F>(test: impl FnOnce(std::sync::Arc<Bench>) -> F)
where
    F: Future<Output = ()>,
{
    let connection =
        Connection::connect(&servers::amqp_url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let prefix = format!("broker_test_{}.", uuid::Uuid::new_v4().simple());
    let bench = std::sync::Arc::new(Bench { prefix, _connection: connection, channel });
    let ended =
        AssertUnwindSafe(tokio::time::timeout(DEADLINE * 3, test(bench.clone()))).catch_unwind().await;
    for queue in ["delay", "work", "other", "aside"] {
        let _ = bench.channel.queue_delete(bench.name(queue).into(), QueueDeleteOptions::default()).await;
    }
    let _ = bench.channel.exchange_delete(bench.name("topic").into(), ExchangeDeleteOptions::default()).await;
    match ended {
        Ok(in_time) => in_time.expect("the test ends in time"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Bench {
    /// `delay`, `work`, `other`, `aside` or `topic` with the test's prefix.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Messages that are ready in a queue.
    pub(crate) async fn depth(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let name = self.name(queue);
        self.channel.queue_declare(name.into(), options, FieldTable::default()).await.unwrap().message_count()
    }

    /// Takes every message that is there for good.
    pub(crate) async fn drain(&self, queue: &str) -> Vec<lapin::message::Delivery> {
        let mut taken = Vec::new();
        while let Some(got) =
            self.channel.basic_get(self.name(queue).into(), BasicGetOptions::default()).await.unwrap()
        {
            self.channel.basic_ack(got.delivery_tag, BasicAckOptions::default()).await.unwrap();
            taken.push(got.delivery);
        }
        taken
    }

    pub(crate) async fn delete(&self, queue: &str) {
        self.channel.queue_delete(self.name(queue).into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// A channel to do what the crate does not offer.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// A message to a queue with its number as payload.
    pub(crate) fn message(&self, queue: &str, number: usize) -> Message {
        Message::to_queue(self.name(queue), number.to_string().into())
    }
}

/// Where RabbitMQ listens.
pub(crate) fn server() -> SocketAddr {
    let url = url::Url::parse(&servers::amqp_url()).unwrap();
    let host = (url.host_str().unwrap(), url.port().unwrap_or(5672));
    host.to_socket_addrs().unwrap().next().unwrap()
}

pub(crate) fn config() -> BrokerConfig {
    BrokerConfig {
        url: servers::amqp_url(),
        name: "broker-tests".to_owned(),
        heartbeat: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
        publish_timeout: DEADLINE,
        backoff: Backoff::new(Duration::from_millis(10), Duration::from_millis(200)),
        ca_file: None,
        consumes: Origin::Anyone,
    }
}

/// The configuration by way of another address.
pub(crate) fn config_by_way_of(address: SocketAddr) -> BrokerConfig {
    let mut url = url::Url::parse(&servers::amqp_url()).unwrap();
    url.set_ip_host(address.ip()).unwrap();
    url.set_port(Some(address.port())).unwrap();
    BrokerConfig { url: url.to_string(), ..config() }
}

/// A connected broker with this topology.
pub(crate) async fn connect(topology: Topology) -> Broker {
    connect_with(config(), topology).await
}

pub(crate) async fn connect_with(config: BrokerConfig, topology: Topology) -> Broker {
    let broker = Broker::connect(config, topology).unwrap();
    tokio::time::timeout(DEADLINE, broker.ready()).await.expect("the broker is reached");
    broker
}

pub(crate) fn consumer(broker: &Broker, bench: &Bench, queue: &str, prefetch: u16) -> Consumer {
    broker.consumer(bench.name(queue), ConsumerConfig { prefetch, tag: "test".to_owned() })
}

/// The number in a payload.
pub(crate) fn number(body: &[u8]) -> usize {
    std::str::from_utf8(body).unwrap().parse().unwrap()
}

/// The next message within the deadline.
pub(crate) async fn next(consumer: &mut Consumer) -> broker::Delivery {
    tokio::time::timeout(DEADLINE, consumer.next()).await.expect("a message comes").expect("not closed")
}

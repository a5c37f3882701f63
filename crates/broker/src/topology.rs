//! Exchanges, queues and bindings, as data.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind, ExchangeKind};

use crate::BrokerError;

/// What has to exist before anyone publishes or consumes. Declaring is idempotent and is done after every
/// connect, so that a broker that lost everything is set up again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    topic_exchanges: Vec<String>,
    queues: Vec<Queue>,
    bindings: Vec<Binding>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Binding {
    queue: String,
    exchange: String,
    routing_key: String,
}

/// A durable quorum queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    name: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Work { set_aside: Option<SetAside> },
    Delay { ttl: Duration, target: String },
    Feed { max_messages: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SetAside {
    after_deliveries: u32,
    queue: String,
}

impl Queue {
    /// A queue that is worked off; nothing leaves it but by acknowledgement.
    pub fn work(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: Kind::Work { set_aside: None } }
    }

    /// A work queue whose messages move to another queue when they came back unacknowledged
    /// `after_deliveries` times: a message that makes its consumers crash must not do so for ever.
    pub fn work_setting_aside(
        name: impl Into<String>,
        after_deliveries: u32,
        queue: impl Into<String>,
    ) -> Self {
        let set_aside = Some(SetAside { after_deliveries, queue: queue.into() });
        Self { name: name.into(), kind: Kind::Work { set_aside } }
    }

    /// A queue that holds every message for `ttl` and then moves it, at least once, to `target`.
    pub fn delay(name: impl Into<String>, ttl: Duration, target: impl Into<String>) -> Self {
        Self { name: name.into(), kind: Kind::Delay { ttl, target: target.into() } }
    }

    /// A feed for people: beyond `max_messages` the oldest are dropped.
    pub fn feed(name: impl Into<String>, max_messages: u32) -> Self {
        Self { name: name.into(), kind: Kind::Feed { max_messages } }
    }

    fn arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        let mut set = |key: &str, value: AMQPValue| {
            arguments.insert(key.into(), value);
        };
        set("x-queue-type", text("quorum"));
        match &self.kind {
            // RabbitMQ 4 drops a message that came back 20 times, looking at it included, unless another limit is said.
            Kind::Work { set_aside: None } => {
                set("x-delivery-limit", AMQPValue::LongLongInt(i32::MAX.into()));
            }
            Kind::Work { set_aside: Some(set_aside) } => {
                set("x-delivery-limit", AMQPValue::LongLongInt(set_aside.after_deliveries.into()));
                dead_letter_at_least_once(&set_aside.queue, &mut set);
            }
            Kind::Delay { ttl, target } => {
                let millis = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
                set("x-message-ttl", AMQPValue::LongLongInt(millis));
                dead_letter_at_least_once(target, &mut set);
            }
            Kind::Feed { max_messages } => {
                set("x-max-length", AMQPValue::LongLongInt((*max_messages).into()));
            }
        }
        arguments
    }
}

fn not_declared(queue: &Queue, error: lapin::Error) -> BrokerError {
    const PRECONDITION_FAILED: u16 = 406;
    match error.kind() {
        ErrorKind::ProtocolError(reason) if reason.get_id() == PRECONDITION_FAILED => {
            BrokerError::DeclaredOtherwise { queue: queue.name.clone(), source: error }
        }
        _ => error.into(),
    }
}

/// Without `reject-publish` RabbitMQ accepts the declaration and silently falls back to at most once.
fn dead_letter_at_least_once(target: &str, set: &mut impl FnMut(&str, AMQPValue)) {
    set("x-dead-letter-exchange", text(""));
    set("x-dead-letter-routing-key", text(target));
    set("x-dead-letter-strategy", text("at-least-once"));
    set("x-overflow", text("reject-publish"));
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

impl Topology {
    /// Adds a durable topic exchange.
    #[must_use]
    pub fn topic_exchange(mut self, name: impl Into<String>) -> Self {
        self.topic_exchanges.push(name.into());
        self
    }

    /// Adds a queue. Add the target of dead letters before the queue that sends them there: RabbitMQ tries
    /// a missing target again only every few minutes.
    #[must_use]
    pub fn queue(mut self, queue: Queue) -> Self {
        self.queues.push(queue);
        self
    }

    /// Binds a queue to a topic exchange.
    #[must_use]
    pub fn bind(
        mut self,
        queue: impl Into<String>,
        exchange: impl Into<String>,
        routing_key: impl Into<String>,
    ) -> Self {
        let (queue, exchange, routing_key) = (queue.into(), exchange.into(), routing_key.into());
        self.bindings.push(Binding { queue, exchange, routing_key });
        self
    }

    /// The names of all queues.
    pub fn queue_names(&self) -> impl Iterator<Item = &str> {
        self.queues.iter().map(|queue| queue.name.as_str())
    }

    pub(crate) async fn declare(&self, channel: &Channel) -> Result<(), BrokerError> {
        for exchange in &self.topic_exchanges {
            let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
            channel
                .exchange_declare(
                    exchange.as_str().into(),
                    ExchangeKind::Topic,
                    options,
                    FieldTable::default(),
                )
                .await?;
        }
        for queue in &self.queues {
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            let declared =
                channel.queue_declare(queue.name.as_str().into(), options, queue.arguments()).await;
            declared.map_err(|error| not_declared(queue, error))?;
        }
        for Binding { queue, exchange, routing_key } in &self.bindings {
            channel
                .queue_bind(
                    queue.as_str().into(),
                    exchange.as_str().into(),
                    routing_key.as_str().into(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await?;
        }
        Ok(())
    }
}

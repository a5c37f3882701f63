//! Taking messages from a queue.

mod subscription;

use std::sync::Arc;

use bytes::Bytes;
use lapin::ChannelStatus;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::subscription::Subscription;
use crate::link::Link;
use crate::message::{Headers, Message};
use crate::publisher::Confirmed;

/// How a consumer takes messages.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// Messages that may be unacknowledged at once, and the most that whoever takes them holds, those of lost channels
    /// included. As many again may lie before the consumer after a channel was lost: RabbitMQ sends them anew.
    pub prefetch: u16,
    /// The consumer tag operators see.
    pub tag: String,
}

/// A received message's content.
#[derive(Debug, Clone)]
pub struct Received {
    /// The payload.
    pub body: Bytes,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// The MIME type of the payload.
    pub content_type: Option<String>,
    /// How the payload is encoded.
    pub content_encoding: Option<String>,
    /// The application's id of the message.
    pub message_id: Option<String>,
    /// Further headers.
    pub headers: Headers,
    /// Whether it was delivered before and not acknowledged: an earlier holder may have done part of the work. Stays so
    /// when the message is moved ([`Received::forward_to`]).
    pub redelivered: bool,
    /// Whether it was published again because nobody knew whether the broker had taken it: the first of the two may have
    /// come out just before it, and be in somebody's hands. Not said of what was moved since, which took its time.
    pub may_be_copy: bool,
    /// How often its queue delivered it before in vain. RabbitMQ before 4.3 counts every return, later versions those
    /// by the end of a channel, not those given back.
    pub delivery_count: u64,
}

/// Most bytes of headers that go along when a message is moved. A message's headers have to fit into one frame (64 KiB of what
/// we publish), and so have those of the move.
const MAX_MOVED_HEADER_BYTES: usize = 32 * 1024;

impl Received {
    pub(crate) fn new(
        body: Vec<u8>,
        exchange: &str,
        routing_key: &str,
        redelivered: bool,
        properties: &lapin::BasicProperties,
    ) -> Self {
        let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
        let headers = Headers::of(properties);
        // What publishers send comes through an exchange of ours: what they write into these headers says nothing.
        let is_ours = exchange.is_empty();
        let came_back_elsewhere = is_ours && headers.says_redelivered();
        let may_be_copy = is_ours && headers.says_copy();
        // The broker writes the count into what it delivers again; on a first delivery it would be the publisher's word.
        let delivery_count = if redelivered { headers.delivery_count() } else { 0 };
        Self {
            body: body.into(),
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
            content_type: text(properties.content_type()),
            content_encoding: text(properties.content_encoding()),
            message_id: text(properties.message_id()),
            headers,
            redelivered: redelivered || came_back_elsewhere,
            may_be_copy,
            delivery_count,
        }
    }

    /// The same content as a message to another queue, and to no other: without `CC` and `BCC`, which make RabbitMQ
    /// send copies elsewhere. Whoever takes it from there is told if it came back here. Headers over 32 KiB in all stay
    /// behind.
    pub fn forward_to(&self, queue: impl Into<String>) -> Message {
        let mut message = Message::to_queue(queue, self.body.clone());
        message.content_type.clone_from(&self.content_type);
        message.content_encoding.clone_from(&self.content_encoding);
        message.message_id.clone_from(&self.message_id);
        let header_bytes: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if header_bytes <= MAX_MOVED_HEADER_BYTES {
            message.headers = self.headers.clone();
        }
        message.headers.remove_what_is_not_moved();
        if self.redelivered { message.redelivered() } else { message }
    }
}

/// A message as whoever takes it first gets it.
impl From<Message> for Received {
    fn from(message: Message) -> Self {
        let Message { exchange, routing_key, body, content_type, content_encoding, message_id, headers } =
            message;
        Self {
            body,
            exchange,
            routing_key,
            content_type,
            content_encoding,
            message_id,
            headers,
            redelivered: false,
            may_be_copy: false,
            delivery_count: 0,
        }
    }
}

/// A message with its acknowledgement.
#[derive(Debug)]
pub struct Delivery {
    /// What was received.
    pub received: Received,
    /// The right to acknowledge it.
    pub acker: Acker,
}

/// The right to acknowledge one message, once. Dropped unused, the message stays unacknowledged and comes
/// back when the channel closes.
#[derive(Debug)]
#[must_use = "a message that is never acknowledged comes back"]
pub struct Acker {
    tag: u64,
    answers: mpsc::UnboundedSender<Answer>,
    held: Held,
    place: Place,
}

/// Whether the broker still counts on whoever took a message. Clones watch the same.
#[derive(Debug, Clone)]
pub struct Held {
    subscription_ended: CancellationToken,
    /// Told of by lapin itself: with all places taken nobody asks the subscription for more, and it cannot tell.
    channel: ChannelStatus,
}

impl Held {
    /// Whether the message's channel is known to have ended: the broker gives its messages to others.
    pub fn is_lost(&self) -> bool {
        self.subscription_ended.is_cancelled() || !self.channel.connected()
    }
}

/// The place of a message among those that a consumer may have out.
type Place = OwnedSemaphorePermit;

impl Acker {
    /// Acknowledges the message: everything it caused is durable. Does not wait; has no effect when the
    /// channel was lost meanwhile, and then the message is delivered again.
    pub fn ack(self, _proof: Confirmed) {
        let _ = self.answers.send(Answer::Ack { tag: self.tag, multiple: false });
    }

    /// Gives the message back to its queue.
    pub fn requeue(self) {
        let _ = self.answers.send(Answer::Requeue { tag: self.tag });
    }
}

/// Messages that were there together, with one acknowledgement for all.
#[derive(Debug)]
#[must_use = "messages that are never acknowledged come back"]
pub struct Batch {
    messages: Vec<Received>,
    /// Of the first message; those of the others follow on it.
    first_tag: u64,
    last: Acker,
}

impl Batch {
    /// What was received, oldest first; at least one message.
    pub fn messages(&self) -> &[Received] {
        &self.messages
    }

    /// Tells whether the messages are still this consumer's.
    pub fn held(&self) -> Held {
        self.last.held.clone()
    }

    /// Acknowledges all messages of this batch *and of every batch before it*: batches of a consumer are
    /// worked off one after another.
    pub fn ack(self, _proof: Confirmed) {
        let _ = self.last.answers.send(Answer::Ack { tag: self.last.tag, multiple: true });
    }

    /// Acknowledges the messages of this batch and no others: for batches that end in any order.
    pub fn ack_alone(self, _proof: Confirmed) {
        for tag in self.first_tag..=self.last.tag {
            let _ = self.last.answers.send(Answer::Ack { tag, multiple: false });
        }
    }
}

/// How a message is answered. The channel is unbounded because the number of unanswered messages is not:
/// it is the prefetch.
#[derive(Debug)]
enum Answer {
    Ack { tag: u64, multiple: bool },
    Requeue { tag: u64 },
}

/// Takes messages from one queue, across reconnects.
#[derive(Debug)]
pub struct Consumer {
    deliveries: mpsc::Receiver<Delivery>,
    /// The first message of the next batch, when it did not fit into the last.
    held: Option<Delivery>,
    cancel: CancellationToken,
}

impl Consumer {
    pub(crate) fn start(
        link: Link,
        queue: String,
        config: ConsumerConfig,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        let (sender, deliveries) = mpsc::channel(config.prefetch.max(1).into());
        let cancel = CancellationToken::new();
        let subscription = Subscription {
            link,
            queue,
            places: Arc::new(Semaphore::new(config.prefetch.max(1).into())),
            config,
            sender,
            cancel: cancel.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = subscription.run() => {}
            }
        });
        Self { deliveries, held: None, cancel }
    }

    /// The next message; `None` after [`Consumer::cancel`] or [`crate::Broker::close`].
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        match self.held.take() {
            Some(delivery) => Some(delivery),
            None => self.deliveries.recv().await,
        }
    }

    /// Waits for one message and takes what is already there with it: at most `max_messages` and, beyond
    /// the first, `max_bytes` of payload. `None` as for [`Consumer::next`].
    ///
    /// Cancel safe. Do not mix with `next`: a batch's acknowledgement covers every message before it.
    pub async fn next_batch(&mut self, max_messages: usize, max_bytes: usize) -> Option<Batch> {
        let first = self.next().await?;
        let mut bytes = first.received.body.len();
        let first_tag = first.acker.tag;
        let (mut messages, mut last) = (vec![first.received], first.acker);
        while messages.len() < max_messages
            && let Ok(delivery) = self.deliveries.try_recv()
        {
            let same_channel = last.answers.same_channel(&delivery.acker.answers);
            bytes += delivery.received.body.len();
            if bytes > max_bytes || !same_channel {
                self.held = Some(delivery);
                break;
            }
            messages.push(delivery.received);
            let before = std::mem::replace(&mut last, delivery.acker);
            last.place.merge(before.place);
        }
        Some(Batch { messages, first_tag, last })
    }

    /// Takes no more messages and gives back those not handed out yet. Acknowledgements of messages handed
    /// out before still work.
    pub async fn cancel(&mut self) {
        self.cancel.cancel();
        let mut held: Vec<_> = self.held.take().into_iter().collect();
        // Ends when the broker has cancelled the subscription: what is given back before would come again.
        while let Some(delivery) = self.deliveries.recv().await {
            held.push(delivery);
        }
        for delivery in held {
            delivery.acker.requeue();
        }
    }
}

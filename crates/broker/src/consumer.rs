//! Taking messages from a queue.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, ChannelStatus};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::link::Link;
use crate::message::{Headers, Message};
use crate::publisher::Confirmed;

/// After so long without a message, and with none out, a consumer subscribes again on a new channel. RabbitMQ (3.10)
/// does not tell a consumer whose queue was deleted if the queue is declared again at once, as a publisher does that
/// finds it missing; the consumer would wait for ever, and so would any other on its channel.
const SUBSCRIPTION_CHECK: Duration = Duration::from_secs(5);

/// The longest wait for the broker to end the subscription of a consumer that is cancelled.
const FAREWELL: Duration = Duration::from_secs(2);

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

/// Most bytes of headers that go along when a message is moved. The broker refuses a message whose headers do not fit
/// into one frame (128 KiB), and those of the move have to fit too.
const MAX_MOVED_HEADER_BYTES: usize = 64 * 1024;

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
    /// send copies elsewhere. Whoever takes it from there is told if it came back here. Headers over 64 KiB in all stay
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

/// The task behind a consumer.
struct Subscription {
    link: Link,
    queue: String,
    config: ConsumerConfig,
    /// One for every message that may be out, whatever channel it came on: when a channel is lost, the broker sends its
    /// messages again while those that it sent first are still being worked on, perhaps for long.
    places: Arc<Semaphore>,
    sender: mpsc::Sender<Delivery>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// Why a subscription is no longer there.
struct Lost(String);

/// Why a subscription is ended.
enum Ended {
    /// The consumer was cancelled or dropped.
    Unwanted,
    /// Nothing came for a while.
    Idle,
}

impl From<lapin::Error> for Lost {
    fn from(error: lapin::Error) -> Self {
        Self(error.to_string())
    }
}

impl Subscription {
    async fn run(self) {
        let mut backoff = Backoff::default();
        // One log line a change of state: subscribing again because nothing came is none.
        let mut told = false;
        while let Some(Some(channel)) = self.while_wanted(self.link.channel(&mut backoff)).await {
            let reason = match self.consume(&channel, &mut backoff, &mut told).await {
                Ok(Ended::Unwanted) => return,
                Ok(Ended::Idle) => continue,
                Err(Lost(reason)) => reason,
            };
            told = false;
            warn!(queue = self.queue, reason, "consumer lost; subscribing again");
            // The queue may have been deleted under our feet.
            let declaring = async {
                backoff.wait().await;
                self.link.declare_topology().await
            };
            if let Some(Err(error)) = self.while_wanted(declaring).await {
                warn!(queue = self.queue, %error, "the topology could not be declared again");
            }
        }
    }

    /// What `answer` gives; `None` if nobody wants messages any more, however long the broker is silent.
    async fn while_wanted<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            () = self.unwanted() => None,
            answer = answer => Some(answer),
        }
    }

    /// Ends when the consumer was cancelled, or dropped without: then nobody wants messages either.
    async fn unwanted(&self) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.sender.closed() => {}
        }
    }

    /// Consumes until there is a reason not to.
    async fn consume(
        &self,
        channel: &Channel,
        backoff: &mut Backoff,
        told: &mut bool,
    ) -> Result<Ended, Lost> {
        let limit = self.link.timeout();
        let late = |_| Lost(format!("no answer from the broker within {limit:?}"));
        let subscribing = timeout(limit, self.subscribe(channel));
        let Some(subscribed) = self.while_wanted(subscribing).await else { return Ok(Ended::Unwanted) };
        let mut consumer = subscribed.map_err(late)??;
        let (answers, queue) = mpsc::unbounded_channel();
        self.tasks.spawn(answer(channel.clone(), queue));
        let held = Held { subscription_ended: CancellationToken::new(), channel: channel.status().clone() };
        let _ended = held.subscription_ended.clone().drop_guard();
        if !std::mem::replace(told, true) {
            info!(queue = self.queue, prefetch = self.config.prefetch, "consuming");
        }

        loop {
            let Some(place) = self.while_wanted(self.place()).await else { break };
            let delivery = tokio::select! {
                () = self.unwanted() => break,
                delivery = timeout(SUBSCRIPTION_CHECK, consumer.next()) => delivery,
            };
            let delivery = match delivery {
                Ok(Some(delivery)) => delivery?,
                Ok(None) => return Err(Lost("cancelled by the broker".to_owned())),
                // Whatever holds an acker holds a sender: with messages out the prefetch may be used up.
                Err(_) if answers.strong_count() > 1 => continue,
                Err(_) => {
                    let leaving = timeout(limit, self.leave(channel, consumer, &answers, &held));
                    leaving.await.map_err(late)??;
                    return Ok(Ended::Idle);
                }
            };
            backoff.reset();
            let tag = delivery.delivery_tag;
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    let _ = answers.send(Answer::Requeue { tag });
                    break;
                }
                sent = self.sender.send(received(delivery, &answers, &held, place)) => if sent.is_err() { break },
            }
        }
        let _ = timeout(FAREWELL.min(limit), unsubscribe(channel, consumer, &answers)).await;
        Ok(Ended::Unwanted)
    }

    /// Ends a subscription that was idle, and hands on what came meanwhile: given back, it would come again marked as
    /// one that someone may have worked on.
    async fn leave(
        &self,
        channel: &Channel,
        mut consumer: lapin::Consumer,
        answers: &mpsc::UnboundedSender<Answer>,
        held: &Held,
    ) -> lapin::Result<()> {
        channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
        while let Some(delivery) = consumer.next().await {
            let place = self.place().await;
            if self.sender.send(received(delivery?, answers, held, place)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    #[expect(clippy::expect_used, reason = "nobody closes this semaphore")]
    async fn place(&self) -> Place {
        self.places.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    async fn subscribe(&self, channel: &Channel) -> Result<lapin::Consumer, Lost> {
        channel.basic_qos(self.config.prefetch, BasicQosOptions::default()).await?;
        let (queue, tag) = (self.queue.as_str().into(), self.config.tag.as_str().into());
        let options = BasicConsumeOptions::default();
        Ok(channel.basic_consume(queue, tag, options, FieldTable::default()).await?)
    }
}

fn received(
    delivery: lapin::message::Delivery,
    answers: &mpsc::UnboundedSender<Answer>,
    held: &Held,
    place: Place,
) -> Delivery {
    let tag = delivery.delivery_tag;
    let acker = Acker { tag, answers: answers.clone(), held: held.clone(), place };
    let received = Received::new(
        delivery.data,
        delivery.exchange.as_str(),
        delivery.routing_key.as_str(),
        delivery.redelivered,
        &delivery.properties,
    );
    Delivery { received, acker }
}

/// Ends a subscription and gives back what the broker had sent before it knew. The messages that are handed out can
/// still be answered, and keep the channel open: without this, what lies in lapin's buffer would wait for them.
async fn unsubscribe(
    channel: &Channel,
    mut consumer: lapin::Consumer,
    answers: &mpsc::UnboundedSender<Answer>,
) -> lapin::Result<()> {
    channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
    while let Some(delivery) = consumer.next().await {
        let _ = answers.send(Answer::Requeue { tag: delivery?.delivery_tag });
    }
    Ok(())
}

/// Answers messages on their channel without awaiting one answer before the next. Ends when the consumer
/// and every acker of the channel are gone; then the channel closes.
async fn answer(channel: Channel, mut queue: mpsc::UnboundedReceiver<Answer>) {
    let mut sending = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(sent) = sending.next(), if !sending.is_empty() => {
                let sent: lapin::Result<()> = sent;
                if sent.is_err() {
                    // The channel is gone: its messages come back to the queue by themselves.
                    return;
                }
            }
            answer = queue.recv() => match answer {
                Some(answer) => sending.push(send(&channel, answer)),
                None => break,
            }
        }
    }
    while sending.next().await.is_some() {}
    let _ = channel.close(200, "OK".into()).await;
}

async fn send(channel: &Channel, answer: Answer) -> lapin::Result<()> {
    match answer {
        Answer::Ack { tag, multiple } => channel.basic_ack(tag, BasicAckOptions { multiple }).await,
        Answer::Requeue { tag } => {
            channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await
        }
    }
}

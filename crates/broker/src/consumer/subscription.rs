//! The task behind a consumer: subscribed across reconnects, messages in, answers out.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lapin::Channel;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::{Acker, Answer, ConsumerConfig, Delivery, Held, Place, Received};
use crate::backoff::Backoff;
use crate::link::Link;

/// After so long without a message, and with none out, a consumer subscribes again on a new channel. RabbitMQ (3.10)
/// does not tell a consumer whose queue was deleted if the queue is declared again at once, as a publisher does that
/// finds it missing; the consumer would wait for ever, and so would any other on its channel.
const SUBSCRIPTION_CHECK: Duration = Duration::from_secs(5);

/// The longest wait for the broker to end the subscription of a consumer that is cancelled.
const FAREWELL: Duration = Duration::from_secs(2);

/// The task behind a consumer.
pub(super) struct Subscription {
    pub(super) link: Link,
    pub(super) queue: String,
    pub(super) config: ConsumerConfig,
    /// One for every message that may be out, whatever channel it came on: when a channel is lost, the broker sends its
    /// messages again while those that it sent first are still being worked on, perhaps for long.
    pub(super) places: Arc<Semaphore>,
    pub(super) sender: mpsc::Sender<Delivery>,
    pub(super) cancel: CancellationToken,
    pub(super) tasks: TaskTracker,
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
    pub(super) async fn run(self) {
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

//! Confirmed publishes, many in flight.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, ready, try_join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::error::{BrokerError, PublishError};
use crate::link::Link;
use crate::message::Message;

/// Tries of one message that the broker returns or refuses.
const MAX_TRIES: u32 = 3;

/// How much a publisher may have in flight.
#[derive(Debug, Clone, Copy)]
pub struct PublisherConfig {
    /// Messages not confirmed yet.
    pub window: usize,
    /// Bytes of payload not confirmed yet; one message may exceed it alone.
    pub window_bytes: usize,
}

impl Default for PublisherConfig {
    fn default() -> Self {
        Self { window: 1024, window_bytes: 16 * 1024 * 1024 }
    }
}

/// Proof that everything which had to be published is confirmed. What acknowledges a message asks for it.
#[derive(Debug)]
#[must_use = "acknowledge with it"]
pub struct Confirmed(());

impl Confirmed {
    /// The proof for a message that caused no publish.
    pub fn nothing_to_publish() -> Self {
        Self(())
    }

    /// The proof for two steps together.
    pub fn and(self, _other: Self) -> Self {
        self
    }
}

/// Publishes messages; clones share one channel and one task.
#[derive(Debug, Clone)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    timeout: Duration,
    /// Whether the log says that messages are not confirmed.
    told: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Request {
    message: Message,
    tries: u32,
    reply: oneshot::Sender<Result<(), PublishError>>,
}

impl Request {
    /// The broker may have taken it, or not.
    fn in_doubt(self) -> Self {
        Self { message: self.message.may_be_copy(), ..self }
    }
}

impl Publisher {
    pub(crate) fn start(
        link: Link,
        config: PublisherConfig,
        timeout: Duration,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        let (requests, queue) = mpsc::channel(config.window);
        let state = State {
            queue,
            config,
            link,
            again: VecDeque::new(),
            open: BTreeMap::new(),
            open_bytes: 0,
            next_sequence: 0,
        };
        tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = state.run() => {}
            }
        });
        Self { requests, timeout, told: Arc::default() }
    }

    /// Publishes a message and waits for its confirm, across reconnects, for at most the broker's
    /// `publish_timeout`.
    ///
    /// Cancellation: a message already sent may still arrive.
    pub async fn publish(&self, message: Message) -> Result<Confirmed, PublishError> {
        let publishing = async {
            let (reply, confirmed) = oneshot::channel();
            let request = Request { message, tries: 0, reply };
            self.requests.send(request).await.map_err(|_| PublishError::Closed)?;
            confirmed.await.map_err(|_| PublishError::Closed)?
        };
        timeout(self.timeout, publishing).await.map_err(|_| PublishError::Timeout(self.timeout))??;
        Ok(Confirmed(()))
    }

    /// Publishes messages, pipelined; the proof is for all of them. On an error some may have been
    /// published.
    pub async fn publish_all(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Result<Confirmed, PublishError> {
        try_join_all(messages.into_iter().map(|message| self.publish(message))).await?;
        Ok(Confirmed(()))
    }
}

impl Publisher {
    /// Publishes a message again and again until it is confirmed, with growing waits in between; one log line when
    /// messages are no longer confirmed and one when they are again, however many there are. Ends only by the confirm:
    /// whoever may not wait drops the future.
    pub async fn publish_until_confirmed(&self, mut message: Message) -> Confirmed {
        let mut backoff = Backoff::default();
        loop {
            match self.publish(message.clone()).await {
                Ok(confirmed) => {
                    if self.told.swap(false, Ordering::Relaxed) {
                        info!(routing_key = message.routing_key, "published after all");
                    }
                    return confirmed;
                }
                Err(error) => {
                    if !self.told.swap(true, Ordering::Relaxed) {
                        warn!(%error, routing_key = message.routing_key, "not published; trying again");
                    }
                    // What the broker returned is in no queue.
                    if !matches!(error, PublishError::Unroutable { .. }) {
                        message = message.may_be_copy();
                    }
                    backoff.wait().await;
                }
            }
        }
    }
}

/// Why a channel is no longer used.
enum ChannelEnd {
    /// All publishers are gone and everything is confirmed.
    Finished,
    /// It cannot be used.
    Lost(BrokerError),
    /// The broker returned a message: the topology is not what it should be.
    Returned { sequence: Option<u64> },
}

/// A publish that was sent, until its confirm, with its number.
type Sent = BoxFuture<'static, (u64, lapin::Result<Confirmation>)>;

type Confirms = FuturesUnordered<Sent>;

struct State {
    queue: mpsc::Receiver<Request>,
    config: PublisherConfig,
    link: Link,
    /// To be published again before anything new.
    again: VecDeque<Request>,
    /// Sent on this channel and not confirmed, by sequence number.
    open: BTreeMap<u64, Request>,
    open_bytes: usize,
    next_sequence: u64,
}

impl State {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        while let Some(channel) = self.link.channel(&mut backoff).await {
            let limit = self.link.timeout();
            let selecting = timeout(limit, channel.confirm_select(ConfirmSelectOptions::default()));
            let end = match selecting.await {
                Ok(Ok(())) => self.publish_on(&channel, &mut backoff).await,
                Ok(Err(error)) => ChannelEnd::Lost(error.into()),
                Err(_) => ChannelEnd::Lost(BrokerError::Timeout(limit)),
            };
            match end {
                ChannelEnd::Finished => return,
                ChannelEnd::Lost(error) => {
                    warn!(%error, unconfirmed = self.open.len(), "publishing channel lost");
                }
                ChannelEnd::Returned { sequence } => self.after_return(sequence),
            }
            self.take_back_open();
            let _ = timeout(limit, channel.close(200, "OK".into())).await;
            // A queue or an exchange may have been deleted under our feet: a message for a missing exchange closes the
            // channel.
            if let Err(error) = self.link.declare_topology().await {
                warn!(%error, "the topology could not be declared again");
            }
            backoff.wait().await;
        }
    }

    async fn publish_on(&mut self, channel: &Channel, backoff: &mut Backoff) -> ChannelEnd {
        let mut confirms = Confirms::new();
        loop {
            if confirms.is_empty() && self.again.is_empty() && self.queue.is_closed() && self.queue.is_empty()
            {
                return ChannelEnd::Finished;
            }
            tokio::select! {
                biased;
                Some(first) = confirms.next(), if !confirms.is_empty() => {
                    if let Some(end) = self.settle(first, &mut confirms) {
                        return end;
                    }
                    backoff.reset();
                }
                Some(request) = next_request(&mut self.again, &mut self.queue), if self.has_room() => {
                    if !channel.status().connected() {
                        // It is not sent, and no copy of anything on the next channel.
                        self.again.push_front(request);
                        return ChannelEnd::Lost(BrokerError::ChannelEnded);
                    }
                    confirms.extend(self.send(channel, request));
                }
                // Every publisher is gone since the loop began.
                else => {}
            }
        }
    }

    fn has_room(&self) -> bool {
        self.open.len() < self.config.window
            && (self.open.is_empty() || self.open_bytes < self.config.window_bytes)
    }

    /// Sends a request; `None` if nobody waits for it any more.
    fn send(&mut self, channel: &Channel, request: Request) -> Option<Sent> {
        if request.reply.is_closed() {
            return None;
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.open_bytes += request.message.body.len();
        let (channel, message) = (channel.clone(), request.message.clone());
        self.open.insert(sequence, request);
        let mut sent = async move {
            let options = BasicPublishOptions { mandatory: true, immediate: false };
            let (exchange, routing_key) =
                (message.exchange.as_str().into(), message.routing_key.as_str().into());
            let properties = message.properties(sequence);
            match channel.basic_publish(exchange, routing_key, options, &message.body, properties).await {
                Ok(confirm) => (sequence, confirm.await),
                Err(error) => (sequence, Err(error)),
            }
        }
        .boxed();
        // lapin numbers a publish and puts it in line when its future is polled first, and is ready when the socket has
        // taken it: polled here, publishes keep their order, and none waits for the one before it.
        match (&mut sent).now_or_never() {
            Some(settled) => Some(ready(settled).boxed()),
            None => Some(sent),
        }
    }

    /// Takes every confirm that is there. None of them is believed if one carries a return: lapin may have
    /// attached it to another message's confirm.
    fn settle(
        &mut self,
        first: (u64, lapin::Result<Confirmation>),
        confirms: &mut Confirms,
    ) -> Option<ChannelEnd> {
        let mut settled = vec![first];
        while let Some(Some(next)) = confirms.next().now_or_never() {
            settled.push(next);
        }
        for (_, result) in &settled {
            match result {
                Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned))) => {
                    let id = returned.properties.correlation_id().as_ref();
                    let sequence = id.and_then(|id| id.as_str().parse().ok());
                    return Some(ChannelEnd::Returned { sequence });
                }
                Err(error) => return Some(ChannelEnd::Lost(error.clone().into())),
                Ok(_) => {}
            }
        }
        for (sequence, result) in settled {
            let Some(request) = self.open.remove(&sequence) else { continue };
            self.open_bytes -= request.message.body.len();
            match result {
                Ok(Confirmation::Nack(_)) => {
                    self.try_again_or(request.in_doubt(), |message| PublishError::Refused {
                        routing_key: message.routing_key.clone(),
                    });
                }
                // Whoever gave up waiting does not want the answer.
                _ => drop(request.reply.send(Ok(()))),
            }
        }
        None
    }

    fn try_again_or(&mut self, mut request: Request, error: impl FnOnce(&Message) -> PublishError) {
        request.tries += 1;
        if request.tries < MAX_TRIES {
            self.again.push_back(request);
        } else {
            let error = error(&request.message);
            let _ = request.reply.send(Err(error));
        }
    }

    fn after_return(&mut self, sequence: Option<u64>) {
        if let Some(request) = sequence.and_then(|sequence| self.open.remove(&sequence)) {
            warn!(
                exchange = request.message.exchange,
                routing_key = request.message.routing_key,
                "the broker returned a message as unroutable; declaring the topology again"
            );
            self.try_again_or(request, |message| PublishError::Unroutable {
                exchange: message.exchange.clone(),
                routing_key: message.routing_key.clone(),
            });
        }
    }

    /// What is open on a channel that is no longer used is published again, in its order.
    fn take_back_open(&mut self) {
        for request in std::mem::take(&mut self.open).into_values().rev() {
            self.again.push_front(request.in_doubt());
        }
        self.open_bytes = 0;
    }
}

async fn next_request(again: &mut VecDeque<Request>, queue: &mut mpsc::Receiver<Request>) -> Option<Request> {
    match again.pop_front() {
        Some(request) => Some(request),
        None => queue.recv().await,
    }
}

//! Publishes events until each is confirmed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::Publisher;
use domain::Timestamp;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use service::Clock;
use testkit::HttpClient;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::platform::Platform;
use crate::world::{EventPlan, Way};

/// Events on their way to be confirmed; then the publisher waits, as one with a bounded buffer does.
const MAX_UNCONFIRMED: usize = 5000;

/// The longest wait for one confirm or answer; then the event is published again, with the same id.
const CONFIRM_WITHIN: Duration = Duration::from_secs(12);

/// Between the first two tries of an event; each time as much longer, up to [`AGAIN_AFTER_AT_MOST`].
const AGAIN_AFTER: Duration = Duration::from_millis(300);

/// Between two tries of an event, at most.
const AGAIN_AFTER_AT_MOST: Duration = Duration::from_secs(3);

/// Holds publishers back. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<RwLock<()>>);

impl Gate {
    /// Closes it, and returns when no try is under way; it opens when what is returned is dropped.
    pub(crate) async fn close(&self) -> OwnedRwLockWriteGuard<()> {
        self.0.clone().write_owned().await
    }
}

/// An event that the platform has accepted.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    /// What was published.
    pub(crate) event: EventPlan,
    /// When it was first tried: from then on a message about it may be somewhere.
    pub(crate) since: Timestamp,
}

/// Events that were confirmed, and how often one was published again because its confirm did not come.
#[derive(Debug, Default)]
pub(crate) struct Published {
    confirmed: Mutex<Vec<Accepted>>,
    repetitions: AtomicU64,
}

impl Published {
    /// What the platform has accepted.
    pub(crate) fn confirmed(&self) -> Vec<Accepted> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many were confirmed so far.
    pub(crate) fn count(&self) -> usize {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Tries after an event's first.
    pub(crate) fn repetitions(&self) -> u64 {
        self.repetitions.load(Ordering::Relaxed)
    }
}

/// The publisher of a run's events.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// Where they are published.
    pub(crate) platform: Arc<Platform>,
    /// Which events.
    pub(crate) seed: u64,
    /// Holds it back.
    pub(crate) gate: Gate,
    /// What was confirmed.
    pub(crate) published: Arc<Published>,
    publisher: Publisher,
    http: HttpClient,
}

impl Load {
    /// A publisher of the seed's events.
    pub(crate) fn new(platform: Arc<Platform>, seed: u64, gate: Gate) -> Self {
        let publisher = platform.publisher();
        Self { platform, seed, gate, published: Arc::default(), publisher, http: HttpClient::default() }
    }

    /// Publishes `rate` events a second for this long, and returns when all are confirmed.
    pub(crate) async fn run(&self, rate: u32, length: Duration) {
        let end = Instant::now() + length;
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let places = Arc::new(Semaphore::new(MAX_UNCONFIRMED));
        let mut publishing = JoinSet::new();
        for number in 0.. {
            let Ok(place) = places.clone().acquire_owned().await else { break };
            ticks.tick().await;
            if Instant::now() >= end {
                break;
            }
            let load = self.clone();
            publishing.spawn(async move {
                load.publish(EventPlan::of(load.seed, number)).await;
                drop(place);
            });
            while publishing.try_join_next().is_some() {}
        }
        while publishing.join_next().await.is_some() {}
    }

    /// Publishes an event, again and again with the same id, until it is confirmed.
    async fn publish(&self, event: EventPlan) {
        let since = Clock::system().now();
        for attempt in 1_u32.. {
            let open = self.gate.0.read().await;
            let confirmed = match event.way {
                Way::Amqp => self.over_amqp(&event).await,
                Way::Http => self.over_http(&event, attempt).await,
            };
            drop(open);
            if confirmed {
                self.published
                    .confirmed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(Accepted { event, since });
                return;
            }
            self.published.repetitions.fetch_add(1, Ordering::Relaxed);
            sleep((AGAIN_AFTER * attempt).min(AGAIN_AFTER_AT_MOST)).await;
        }
    }

    async fn over_amqp(&self, event: &EventPlan) -> bool {
        let publishing = self.publisher.publish(self.platform.stack.message(&event.event()));
        timeout(CONFIRM_WITHIN, publishing).await.is_ok_and(|published| published.is_ok())
    }

    /// `POST /v1/events` to one of the processes, after a failure to the other.
    async fn over_http(&self, event: &EventPlan, attempt: u32) -> bool {
        let first = event.id.bytes().next_back().map_or(0, usize::from);
        let Some(url) = self.platform.ingest(first + attempt as usize) else { return false };
        let request = http::Request::post(format!("{url}/v1/events"))
            .header(AUTHORIZATION, format!("Bearer {}", self.platform.stack.ingest_token()))
            .header(CONTENT_TYPE, "application/json")
            .body(event.event().to_json().into());
        let Ok(request) = request else { return false };
        let answer = timeout(CONFIRM_WITHIN, self.http.try_send(request)).await;
        answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 202))
    }
}

//! Requests on the wire, and the bodies read for them: bounded per webhook, so that one receiver cannot hurt another, and
//! per dispatcher.
//!
//! How many requests a webhook may have on the wire follows how its receiver takes them (`domain::pace`) and how much is
//! taken. A quarter of a dispatcher is left to webhooks that have nothing on the wire, one request each, and whose requests
//! do not take long: they find a place whatever hangs. Of what is free of the other three quarters, a webhook may have a
//! quarter more: the more is taken, the less those get who want many.

mod memory;
mod places;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::WebhookId;
use domain::limits::MAX_MESSAGE_BYTES;
use domain::pace::ParkDelays;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use memory::{Memory, acquire};
use places::{Asked, Places, Ticket};

/// One of so many parts of all requests is left to webhooks that have none on the wire.
const LEFT_TO_NEWCOMERS: usize = 4;

/// How much may be on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Requests in all.
    pub(crate) requests: usize,
    /// Requests to one webhook.
    pub(crate) requests_per_webhook: usize,
    /// Bytes of the bodies that are read for requests: those that do not travel with their job. One webhook's part of
    /// them is as its part of the requests, but never less than the largest body.
    pub(crate) memory: usize,
}

/// What becomes of jobs that find no place.
#[derive(Debug, Clone)]
pub(crate) struct Overflow {
    /// Longest wait for the webhook's other requests before a job is parked.
    pub(crate) max_wait: Duration,
    /// How long it is parked then.
    pub(crate) park_delays: ParkDelays,
}

/// The bounds, and who is within them. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Lanes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests: Arc<Semaphore>,
    /// Of the requests, those to webhooks whose requests take long.
    slow: Arc<Semaphore>,
    memory: Memory,
    overflow: Overflow,
    places: Mutex<Places>,
}

/// What to do with a job that may have to wait for its webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Congestion {
    /// How long to wait for a place. Nothing where waiting is in vain: then whoever is not given a place at once is
    /// parked at once, and holds neither memory nor prefetch meanwhile.
    pub(crate) max_wait: Duration,
    /// How long to park it then: the rung of the ladder, from 0.
    pub(crate) park: usize,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The receiver answered, whatever it said, after this long.
    Answered(Duration),
    /// The receiver did not answer; this long it took to find out.
    NotAnswered(Duration),
    /// Nothing was sent, or nothing can be told about the receiver.
    NotSent,
}

/// A place among the requests of one webhook.
#[derive(Debug)]
pub(crate) struct Place {
    bytes: usize,
    memory_of_webhook: OwnedSemaphorePermit,
    slow: Option<OwnedSemaphorePermit>,
    lane: LaneUse,
}

/// The right to have one request to a webhook on the wire, and its body in memory. Dropped, it has [`Ended::NotSent`].
#[derive(Debug)]
pub(crate) struct Turn {
    _permits: [OwnedSemaphorePermit; 3],
    _slow: Option<OwnedSemaphorePermit>,
    lane: LaneUse,
}

/// A use of a webhook's lane, from the wait for memory to the end of the request.
#[derive(Debug)]
struct LaneUse {
    webhook: WebhookId,
    shared: Arc<Shared>,
    /// Whether it has one of the lane's places.
    has_place: bool,
    ended: Ended,
}

/// Somebody who waits for a place in their lane.
struct InLine<'a> {
    lane: &'a mut LaneUse,
    ticket: Ticket,
    called: oneshot::Receiver<()>,
}

impl Lanes {
    /// Nobody is on the wire. Each bound is taken as 1 at least.
    pub(crate) fn with_overflow(bounds: Bounds, overflow: Overflow) -> Self {
        let requests = bounds.requests.max(1);
        let shared = Shared {
            requests: Arc::new(Semaphore::new(requests)),
            slow: Arc::new(Semaphore::new(bounds.shared_requests())),
            memory: Memory::new(bounds.memory),
            overflow,
            places: Mutex::new(Places::new(bounds)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits for a place with a body of which `bytes` have to be read, 0 if it is there; first come, first served within a
    /// webhook. What is scarcer is waited for with less in hand: who waits for their webhook's part of the memory holds
    /// none of its requests, and who waits for their webhook holds nothing of what others use, and who waits among the slow
    /// nothing of what the others do. The order is the same for everybody, and what is held is on its way to the end of a
    /// request, so that nobody waits for ever.
    ///
    /// Cancel safe: dropping the future gives up the place in the line.
    pub(crate) async fn place(&self, webhook: WebhookId, bytes: usize) -> Place {
        let memory = self.shared.places().enter(webhook);
        let mut lane =
            LaneUse { webhook, shared: self.shared.clone(), has_place: false, ended: Ended::NotSent };
        let memory_of_webhook = memory.take(bytes).await;
        lane.take_place().await;
        let is_slow = self.shared.places().is_slow(webhook);
        let slow = if is_slow { Some(acquire(self.shared.slow.clone(), 1).await) } else { None };
        Place { bytes, memory_of_webhook, slow, lane }
    }

    /// How a job is to wait that comes now.
    pub(crate) fn congestion(&self, webhook: WebhookId) -> Congestion {
        let Overflow { max_wait, park_delays } = &self.shared.overflow;
        let condition = self.shared.places().condition(webhook);
        Congestion {
            max_wait: if condition.wait > *max_wait { Duration::ZERO } else { *max_wait },
            park: park_delays.rung_after(condition.pace.failing_for()),
        }
    }
}

impl Place {
    /// Waits for what all share, first come, first served among all webhooks.
    ///
    /// Cancel safe: dropping the future gives up the place too.
    pub(crate) async fn turn(self) -> Turn {
        let Self { bytes, memory_of_webhook, slow, mut lane } = self;
        let memory = lane.shared.memory.clone();
        let memory_of_all = if let Some(memory_of_all) = memory.try_take(bytes) {
            memory_of_all
        } else {
            // Whoever waits for memory has nothing on the wire: others do not wait for them.
            lane.lend_place();
            let memory_of_all = memory.take(bytes).await;
            lane.take_place_back();
            memory_of_all
        };
        let request_of_all = acquire(lane.shared.requests.clone(), 1).await;
        Turn { _permits: [memory_of_webhook, memory_of_all, request_of_all], _slow: slow, lane }
    }
}

impl Turn {
    /// Ends the turn, and lets the lane know what its receiver did.
    pub(crate) fn ended(mut self, how: Ended) {
        self.lane.ended = how;
    }
}

impl Bounds {
    /// The requests that are not left to those who have none.
    fn shared_requests(self) -> usize {
        let requests = self.requests.max(1);
        requests - requests / LEFT_TO_NEWCOMERS
    }

    /// What one webhook may use of the memory.
    fn memory_per_webhook(self) -> usize {
        let part = self.memory.saturating_mul(self.requests_per_webhook) / self.requests.max(1);
        part.max(MAX_MESSAGE_BYTES)
    }
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, Places> {
        // Nothing panics halfway.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneUse {
    fn lend_place(&mut self) {
        self.shared.places().give_back(self.webhook, Ended::NotSent);
        self.has_place = false;
    }

    /// Whoever has it now keeps it too: a webhook is above its bound by as many as its part of the memory holds at most. To wait
    /// for a place with memory and a place among the slow in hand could be for ever.
    fn take_place_back(&mut self) {
        self.shared.places().take(self.webhook);
        self.has_place = true;
    }

    async fn take_place(&mut self) {
        let asked = self.shared.places().ask(self.webhook);
        match asked {
            Asked::Taken => self.has_place = true,
            Asked::InLine(ticket, called) => InLine { lane: self, ticket, called }.wait().await,
        }
    }
}

impl Drop for LaneUse {
    fn drop(&mut self) {
        let mut places = self.shared.places();
        if self.has_place {
            places.give_back(self.webhook, self.ended);
        }
        places.exit(self.webhook);
    }
}

impl InLine<'_> {
    /// The place is theirs when this returns: the lane is never forgotten while they stand in it, so that they are called.
    async fn wait(mut self) {
        let _ = (&mut self.called).await;
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        // Whoever stands in line no more was called, and has a place whether they came to know or not.
        let still_waiting = self.lane.shared.places().leave_line(self.lane.webhook, self.ticket);
        self.lane.has_place = !still_waiting;
    }
}

//! Who has a place among the requests of their webhook, and who stands in line for one.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use domain::WebhookId;
use domain::pace::Pace;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::memory::Memory;
use super::{Bounds, Ended};

/// A webhook may have one of so many parts of what else is free: the more is taken, the less those get who want many.
const PART_OF_FREE: usize = 4;

/// Webhooks that are not well and that nobody uses, whose pace is remembered.
const REMEMBERED: u64 = 10_000;

/// How long that is remembered: longer than their jobs are parked.
const REMEMBERED_FOR: Duration = Duration::from_mins(15);

/// All lanes, and the places that are taken.
#[derive(Debug)]
pub(super) struct Places {
    bounds: Bounds,
    /// Only webhooks that somebody uses or waits for.
    lanes: HashMap<WebhookId, Lane>,
    /// Other webhooks that are not well: they start where they ended.
    remembered: Cache<WebhookId, Pace>,
    taken: usize,
    started: Instant,
    next_ticket: Ticket,
}

/// The requests of one webhook.
#[derive(Debug)]
struct Lane {
    pace: Pace,
    /// Those who have a place, wait for one, or are about to.
    users: usize,
    taken: usize,
    /// Those who wait for a place, first come first.
    line: BTreeMap<Ticket, oneshot::Sender<()>>,
    /// When a place was taken last while none was, or given back.
    moved: Instant,
    memory: Memory,
}

/// Where one stands in line.
pub(super) type Ticket = u64;

/// What came of asking for a place.
pub(super) enum Asked {
    /// It is taken.
    Taken,
    /// It will be when the channel says so.
    InLine(Ticket, oneshot::Receiver<()>),
}

/// How a lane is.
pub(super) struct Condition {
    pub(super) pace: Pace,
    /// How long one waits for a place who asks now; nothing where one is free.
    pub(super) wait: Duration,
}

impl Places {
    pub(super) fn new(bounds: Bounds) -> Self {
        let remembered = Cache::builder()
            .max_capacity(REMEMBERED)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(REMEMBERED_FOR)
            .build();
        Self { bounds, lanes: HashMap::new(), remembered, taken: 0, started: Instant::now(), next_ticket: 0 }
    }

    /// Somebody is about to use a webhook's lane: here is its part of the memory.
    pub(super) fn enter(&mut self, webhook: WebhookId) -> Memory {
        let (remembered, bounds) = (&self.remembered, self.bounds);
        let new = || Lane {
            pace: remembered.remove(&webhook).unwrap_or_else(|| Pace::new(bounds.requests_per_webhook)),
            users: 0,
            taken: 0,
            line: BTreeMap::new(),
            moved: Instant::now(),
            memory: Memory::new(bounds.memory_per_webhook()),
        };
        let lane = self.lanes.entry(webhook).or_insert_with(new);
        lane.users += 1;
        lane.memory.clone()
    }

    /// Asks for a place in a lane that was entered.
    pub(super) fn ask(&mut self, webhook: WebhookId) -> Asked {
        let part = self.part();
        let Some(lane) = self.lanes.get_mut(&webhook) else { return Asked::Taken };
        if lane.line.is_empty() && lane.has_place(part) {
            self.take(webhook);
            return Asked::Taken;
        }
        let (sender, receiver) = oneshot::channel();
        self.next_ticket += 1;
        lane.line.insert(self.next_ticket, sender);
        Asked::InLine(self.next_ticket, receiver)
    }

    /// Takes a place, whoever else has one.
    pub(super) fn take(&mut self, webhook: WebhookId) {
        let Some(lane) = self.lanes.get_mut(&webhook) else { return };
        if lane.taken == 0 {
            lane.moved = Instant::now();
        }
        lane.taken += 1;
        self.taken += 1;
    }

    /// Leaves the line; `false` if one was called already and has a place.
    pub(super) fn leave_line(&mut self, webhook: WebhookId, ticket: Ticket) -> bool {
        self.lanes.get_mut(&webhook).is_some_and(|lane| lane.line.remove(&ticket).is_some())
    }

    /// Gives a place back. Those who stand in line get what there is.
    pub(super) fn give_back(&mut self, webhook: WebhookId, ended: Ended) {
        let now = Instant::now();
        self.taken -= 1;
        if let Some(lane) = self.lanes.get_mut(&webhook) {
            lane.taken -= 1;
            lane.moved = now;
            match ended {
                Ended::Answered(took) => lane.pace.answered(took),
                Ended::NotAnswered(took) => lane.pace.not_answered(took, now - self.started),
                Ended::NotSent => {}
            }
        }
        loop {
            let part = self.part();
            let Some(lane) = self.lanes.get_mut(&webhook) else { break };
            if !lane.has_place(part) {
                break;
            }
            let Some((_, called)) = lane.line.pop_first() else { break };
            // Whoever stands in line leaves it before they stop listening.
            let _ = called.send(());
            lane.taken += 1;
            self.taken += 1;
        }
    }

    /// Somebody uses a webhook's lane no more. A lane that nobody uses is forgotten, but for the pace of one that is not
    /// well.
    pub(super) fn exit(&mut self, webhook: WebhookId) {
        let Some(lane) = self.lanes.get_mut(&webhook) else { return };
        lane.users -= 1;
        if lane.users > 0 {
            return;
        }
        if !lane.pace.is_well() {
            self.remembered.insert(webhook, lane.pace);
        }
        self.lanes.remove(&webhook);
    }

    pub(super) fn condition(&self, webhook: WebhookId) -> Condition {
        let Some(lane) = self.lanes.get(&webhook) else {
            let remembered = self.remembered.get(&webhook);
            let pace = remembered.unwrap_or_else(|| Pace::new(self.bounds.requests_per_webhook));
            return Condition { pace, wait: Duration::ZERO };
        };
        let part = self.part();
        let wait = if lane.line.is_empty() && lane.has_place(part) {
            Duration::ZERO
        } else {
            // What has not moved for so long is taken to need as long again.
            lane.pace.expected_wait(lane.line.len(), lane.at_once(part)).max(lane.moved.elapsed())
        };
        Condition { pace: lane.pace, wait }
    }

    /// Whether a webhook's requests hold their places for long, as far as is known.
    pub(super) fn is_slow(&self, webhook: WebhookId) -> bool {
        self.lanes.get(&webhook).is_some_and(|lane| lane.pace.is_slow())
    }

    /// Webhooks with a lane.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Webhooks without a lane whose pace is remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.remembered.iter().count()
    }

    /// What one webhook may have of the places, by how many are taken.
    fn part(&self) -> usize {
        self.bounds.shared_requests().saturating_sub(self.taken) / PART_OF_FREE
    }
}

impl Lane {
    fn at_once(&self, part: usize) -> usize {
        self.pace.limit().min(part).max(1)
    }

    fn has_place(&self, part: usize) -> bool {
        self.taken < self.at_once(part)
    }
}

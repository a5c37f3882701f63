//! What the queues hold when many dispatchers deliver to receivers of which some hang, fail or are slow: a discrete
//! simulation, in virtual time, of the platform's own rules.
//!
//! `domain::retry` and `domain::pace` are the platform's, and so are the bounds, `service::settings`' defaults; what of
//! `dispatcher::lanes` matters is modelled. Messages go the way they go on the broker: events in groups over the fan-out queue
//! to dispatchers in turn, which hold no more than their prefetch; jobs over the delay queues to `webhooks.deliver`. A
//! dispatcher has a core of its own, and takes [`COST`] of it for everything that it looks at. Database and broker answer after
//! [`BEFORE`], whatever the load: how much of them it takes is the scaling model's.

mod agenda;
mod dispatcher;
mod observed;
mod queues;
mod receivers;
#[cfg(test)]
mod tests;
mod world;

use std::time::Duration;

use domain::pace::ParkDelays;
use domain::retry::Schedule;
use service::settings::Delivery;

pub(crate) use observed::{Observed, compare, report};
pub(crate) use receivers::Bad;
pub(crate) use world::run;

/// CPU time of a dispatcher for a delivery: what is measured at fan-out 10, rounded up.
pub(crate) const COST: Duration = Duration::from_micros(60);

/// The time between two groups of events that event-ingest stores.
pub(crate) const GROUPS: Duration = Duration::from_millis(5);

/// From when a group is full to when a dispatcher has found out whom it concerns: storing, confirming, looking up.
pub(crate) const BEFORE: Duration = Duration::from_millis(5);

/// What is simulated.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) events_per_second: u32,
    /// Webhooks of each user; every event concerns one user.
    pub(crate) fan_out: usize,
    pub(crate) users: usize,
    pub(crate) dispatchers: usize,
    pub(crate) bad: Bad,
    /// How long events are published.
    pub(crate) load: Duration,
    /// How long it goes on.
    pub(crate) time: Duration,
    /// Of all that happens by chance.
    pub(crate) seed: u64,
    pub(crate) rules: Rules,
}

/// The bounds of a dispatcher.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    schedule: Schedule,
    timeout: Duration,
    requests: usize,
    requests_per_webhook: usize,
    max_wait: Duration,
    park_delays: ParkDelays,
    hold: Duration,
    prefetch: usize,
    fan_out_prefetch: usize,
}

impl Setup {
    /// 10,000 events a second, three deliveries each, 5 % of the receivers bad.
    pub(crate) fn large(dispatchers: usize, time: Duration, seed: u64) -> Self {
        Self {
            events_per_second: 10_000,
            fan_out: 3,
            users: 3360,
            dispatchers,
            bad: Bad::FIVE_PERCENT,
            load: time,
            time,
            seed,
            rules: Rules::default(),
        }
    }

    pub(crate) fn with_dispatchers(self, dispatchers: usize) -> Self {
        Self { dispatchers, ..self }
    }

    /// The same while every receiver is healthy.
    pub(crate) fn healthy(self, time: Duration) -> Self {
        Self { bad: Bad::NOBODY, load: time, time, ..self }
    }

    fn webhooks(&self) -> usize {
        self.users * self.fan_out
    }
}

impl Default for Rules {
    fn default() -> Self {
        let delivery = Delivery::default();
        Self {
            schedule: Schedule::new(delivery.retry_delays.0.iter().map(|delay| delay.0).collect()),
            timeout: delivery.timeout.0,
            requests: delivery.max_in_flight as usize,
            requests_per_webhook: delivery.max_in_flight_per_webhook as usize,
            max_wait: delivery.max_wait.0,
            park_delays: ParkDelays::new(delivery.park_delays.0.iter().map(|delay| delay.0)),
            hold: delivery.hold.0,
            prefetch: delivery.prefetch.into(),
            fan_out_prefetch: delivery.fan_out_prefetch.into(),
        }
    }
}

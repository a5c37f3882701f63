//! Which scenarios there are, and which of them a run makes.

use crate::cpus::Dispatchers;
use crate::floors::Floor;
use crate::outcome::Outcome;
use crate::results::Measured;
use crate::scenarios::{backlog, beside, flat, latency, shards, throughput};
use crate::size::Size;

/// One scenario.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What is measured, in a sentence.
    pub(crate) what: &'static str,
    /// The smallest run that makes it.
    from: From,
    /// What it is compared with: measured before it, once a run.
    pub(crate) floors: &'static [Floor],
    pub(crate) kind: Kind,
}

/// The smallest run that makes a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Short,
    Normal,
    All,
}

/// How it is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Burst(Burst),
    /// 95 % of events match nobody.
    ManyUsers,
    /// 100,000 webhooks over 50,000 users.
    ManyWebhooks,
    /// Events a second.
    Latency(u32),
    /// A healthy receiver beside another.
    Beside(beside::Other),
    /// One user's burst beside another's single events.
    BurstBeside,
    Backlog,
    /// One shard of the queues and four.
    Shards,
    /// What a delivery costs as the database grows.
    Flat,
}

use throughput::Burst;

const KIB: usize = 1024;

const BURST: Burst = Burst::new(60_000, 1, 20);

const BURST_TO_TEN: Burst = Burst::new(20_000, 10, 5);

/// In the order in which they are made.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fan-out-1",
        what: "events to one webhook each, published as fast as the broker confirms them",
        from: From::Short,
        floors: &[Floor::BARE, Floor::ONE_HOP, Floor::TWO_HOPS],
        kind: Kind::Burst(BURST),
    },
    Scenario {
        name: "fan-out-10",
        what: "the same, ten webhooks each",
        from: From::Short,
        floors: &[Floor::BARE, Floor::TWO_HOPS],
        kind: Kind::Burst(BURST_TO_TEN),
    },
    Scenario {
        name: "fan-out-100",
        what: "the same, a hundred webhooks each",
        from: From::Normal,
        floors: &[Floor::BARE, Floor::TWO_HOPS],
        kind: Kind::Burst(Burst::new(1000, 100, 2)),
    },
    Scenario {
        name: "latency-50",
        what: "from publish to receipt at 50 events a second, an open loop",
        from: From::Normal,
        floors: &[Floor::TWO_HOPS],
        kind: Kind::Latency(50),
    },
    Scenario {
        name: "latency-200",
        what: "the same at 200",
        from: From::Short,
        floors: &[Floor::TWO_HOPS],
        kind: Kind::Latency(200),
    },
    Scenario {
        name: "latency-1000",
        what: "the same at 1,000",
        from: From::Normal,
        floors: &[Floor::TWO_HOPS],
        kind: Kind::Latency(1000),
    },
    Scenario {
        name: "many-users",
        what: "95 % of the events concern users without webhooks: events a second until all are fanned out",
        from: From::Normal,
        floors: &[],
        kind: Kind::ManyUsers,
    },
    Scenario {
        name: "many-webhooks",
        what: "100,000 webhooks of 50,000 users: an event to each, twice",
        from: From::Normal,
        floors: &[],
        kind: Kind::ManyWebhooks,
    },
    Scenario {
        name: "hanging",
        what: "a healthy receiver at 200/s, alone, beside events for nobody and beside one that never answers, 200/s too",
        from: From::Short,
        floors: &[],
        kind: Kind::Beside(beside::Other::Hanging),
    },
    Scenario {
        name: "slow",
        what: "the same beside one that takes 2 s",
        from: From::Normal,
        floors: &[],
        kind: Kind::Beside(beside::Other::Slow),
    },
    Scenario {
        name: "failing",
        what: "the same beside one that answers 500",
        from: From::Normal,
        floors: &[],
        kind: Kind::Beside(beside::Other::Failing),
    },
    Scenario {
        name: "burst",
        what: "an event every 100 ms to one user, alone and beside 100,000 events at once to another",
        from: From::Normal,
        floors: &[],
        kind: Kind::BurstBeside,
    },
    Scenario {
        name: "backlog",
        what: "200,000 events published while no dispatcher runs, then drained; memory before and meanwhile",
        from: From::Normal,
        floors: &[],
        kind: Kind::Backlog,
    },
    Scenario {
        name: "dispatchers-2",
        what: "fan-out-1 with two dispatchers",
        from: From::Normal,
        floors: &[Floor::TWO_HOPS],
        kind: Kind::Burst(BURST.dispatchers(Dispatchers::Anywhere(2))),
    },
    Scenario {
        name: "dispatchers-4",
        what: "fan-out-1 with four dispatchers",
        from: From::Normal,
        floors: &[Floor::TWO_HOPS],
        kind: Kind::Burst(BURST.dispatchers(Dispatchers::Anywhere(4))),
    },
    Scenario {
        name: "pinned-1",
        what: "fan-out-10 with one dispatcher, on one half of the CPUs",
        from: From::Normal,
        floors: &[],
        kind: Kind::Burst(BURST_TO_TEN.dispatchers(Dispatchers::OnHalves(1))),
    },
    Scenario {
        name: "pinned-2",
        what: "the same with two, each on a half of its own",
        from: From::Normal,
        floors: &[],
        kind: Kind::Burst(BURST_TO_TEN.dispatchers(Dispatchers::OnHalves(2))),
    },
    Scenario {
        name: "shards-4",
        what: "ten webhooks each, every delivery over webhooks.deliver: four shards of the queues beside one",
        from: From::Normal,
        floors: &[],
        kind: Kind::Shards,
    },
    Scenario {
        name: "body-4k",
        what: "fan-out-1 with bodies of 4 KiB",
        from: From::Normal,
        floors: &[Floor::TWO_HOPS.data(4 * KIB, 30_000)],
        kind: Kind::Burst(Burst::new(30_000, 1, 20).data(4 * KIB)),
    },
    Scenario {
        name: "body-250k",
        what: "fan-out-1 with bodies of 250 KiB, near the limit of a message",
        from: From::Normal,
        floors: &[Floor::TWO_HOPS.data(250 * KIB, 1000)],
        kind: Kind::Burst(Burst::new(1000, 1, 20).data(250 * KIB)),
    },
    Scenario {
        name: "tls-http1",
        what: "fan-out-1 to receivers with TLS and HTTP/1.1",
        from: From::Normal,
        floors: &[Floor::TWO_HOPS],
        kind: Kind::Burst(Burst::new(40_000, 1, 20).tls(crate::tls::Protocol::Http1)),
    },
    Scenario {
        name: "tls-http2",
        what: "the same with HTTP/2",
        from: From::Normal,
        floors: &[Floor::TWO_HOPS],
        kind: Kind::Burst(Burst::new(40_000, 1, 20).tls(crate::tls::Protocol::Http2)),
    },
    Scenario {
        name: "flat",
        what: "fan-out-1 with 10 webhooks, with 100,000, and with 5,000,000 deliveries of earlier today",
        from: From::All,
        floors: &[],
        kind: Kind::Flat,
    },
];

impl Scenario {
    fn is_in(&self, size: Size) -> bool {
        match size {
            Size::Short => self.from == From::Short,
            Size::Normal => self.from <= From::Normal,
            Size::All => true,
        }
    }

    /// Measures it; `measured` holds what was measured before.
    pub(crate) async fn measure(&self, size: Size, measured: &Measured) -> anyhow::Result<Outcome> {
        match self.kind {
            Kind::Burst(burst) => burst.measure(size, self.floors, measured).await,
            Kind::ManyUsers => throughput::many_users(size).await,
            Kind::ManyWebhooks => throughput::many_webhooks(size).await,
            Kind::Latency(rate) => latency::measure(size, rate, measured).await,
            Kind::Beside(other) => beside::other_receiver(size, other).await,
            Kind::BurstBeside => beside::burst(size).await,
            Kind::Backlog => backlog::measure(size).await,
            Kind::Shards => shards::measure(size).await,
            Kind::Flat => flat::measure(size).await,
        }
    }
}

/// The scenarios of a run: those named, or those of its size.
pub(crate) fn chosen(only: &[String], size: Size) -> Result<Vec<&'static Scenario>, UnknownScenario> {
    for name in only {
        if !SCENARIOS.iter().any(|scenario| scenario.name == name) {
            return Err(UnknownScenario(name.clone()));
        }
    }
    let is_chosen = |scenario: &&Scenario| match only {
        [] => scenario.is_in(size),
        only => only.iter().any(|name| name == scenario.name),
    };
    Ok(SCENARIOS.iter().filter(is_chosen).collect())
}

/// There is no such scenario.
#[derive(Debug, thiserror::Error)]
#[error("there is no scenario `{0}`; `--list` shows all")]
pub(crate) struct UnknownScenario(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn names(only: &[&str], size: Size) -> Vec<&'static str> {
        let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
        chosen(&only, size).unwrap().iter().map(|scenario| scenario.name).collect()
    }

    #[test]
    fn a_larger_run_makes_whatever_a_smaller_one_does() {
        let [short, normal, all] = [Size::Short, Size::Normal, Size::All].map(|size| names(&[], size));
        assert_eq!(short, ["fan-out-1", "fan-out-10", "latency-200", "hanging"]);
        assert!(short.iter().all(|name| normal.contains(name)));
        assert!(normal.iter().all(|name| all.contains(name)));
        assert!(!normal.contains(&"flat"));
        assert_eq!(all.len(), SCENARIOS.len());
    }

    #[test]
    fn those_that_are_named_are_made_whatever_the_size_and_in_their_order() {
        assert_eq!(names(&["flat", "fan-out-1"], Size::Short), ["fan-out-1", "flat"]);
        assert!(chosen(&["fan-out-2".to_owned()], Size::Normal).is_err());
    }
}

//! Which faults happen when: a pure function of the seed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::{Serialize, Serializer};

/// Storms and calms alternate. What happens in a calm has no fault near it that could explain it.
const STORM: Duration = Duration::from_secs(35);

/// The rest of a round. It is longer than [`LONGEST`] and what a fault explains afterwards together.
const CALM: Duration = Duration::from_secs(25);

/// Nothing happens before there is something to be disturbed.
const QUIET_START: Duration = Duration::from_secs(3);

/// The longest fault.
const LONGEST: Duration = Duration::from_secs(7);

/// Between two faults of a storm, at most.
const LONGEST_GAP: Duration = Duration::from_secs(4);

/// How long a victim is left alone after a fault: it has to start again.
const RESTING: Duration = Duration::from_secs(6);

/// What can be hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Victim {
    /// management-api.
    Api,
    /// One of the processes of event-ingest.
    Ingest(usize),
    /// One of the processes of dispatcher.
    Dispatcher(usize),
    /// The publisher of the events: its connection to the broker.
    Publisher,
    /// The database server.
    Postgres,
    /// The broker.
    Rabbitmq,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("management-api"),
            Self::Ingest(n) => write!(f, "event-ingest-{n}"),
            Self::Dispatcher(n) => write!(f, "dispatcher-{n}"),
            Self::Publisher => f.write_str("publisher"),
            Self::Postgres => f.write_str("postgresql"),
            Self::Rabbitmq => f.write_str("rabbitmq"),
        }
    }
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// SIGKILL, and started again at the end.
    Kill,
    /// SIGSTOP, and SIGCONT at the end.
    Pause,
    /// SIGTERM, which has to be obeyed, and started again at the end.
    Restart,
    /// Killed, its data folder deleted, started empty.
    Wipe,
    /// A connection is closed, and every new one, until the end.
    Cut(Link),
    /// A connection passes nothing on until the end.
    Freeze(Link),
    /// A connection takes its time until the end.
    Delay(Link),
}

/// Which connection of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Link {
    /// To PostgreSQL.
    Database,
    /// To RabbitMQ.
    Broker,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, link) = match self {
            Self::Kill => return f.write_str("kill -9"),
            Self::Pause => return f.write_str("stop/cont"),
            Self::Restart => return f.write_str("restart"),
            Self::Wipe => return f.write_str("wipe"),
            Self::Cut(link) => ("cut", link),
            Self::Freeze(link) => ("freeze", link),
            Self::Delay(link) => ("delay", link),
        };
        let link = match link {
            Link::Database => "database",
            Link::Broker => "broker",
        };
        write!(f, "{what} {link}")
    }
}

/// As people read it, in the summary too.
macro_rules! serialize_as_shown {
    ($($type:ty),*) => {
        $(impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        })*
    };
}

serialize_as_shown!(Victim, Kind);

/// A fault that is going to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Planned {
    /// When it begins, from the start.
    pub(crate) at: Duration,
    /// How long until it is healed.
    pub(crate) lasts: Duration,
    /// Whom it hits.
    pub(crate) victim: Victim,
    /// What it is.
    pub(crate) kind: Kind,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, lasts, .. } = self;
        let (victim, kind) = (self.victim.to_string(), self.kind.to_string());
        write!(f, "{:7.1} s  {kind:<16} {victim:<16} for {:.1} s", at.as_secs_f64(), lasts.as_secs_f64())
    }
}

/// What the faults may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Processes of event-ingest.
    pub(crate) ingests: usize,
    /// Processes of dispatcher.
    pub(crate) dispatchers: usize,
    /// Whether the broker's data may be deleted.
    pub(crate) wipe: bool,
}

/// The faults of a run of this length, in their order. The same seed, length and options give the same faults.
/// A victim is hit by one fault at a time; those of different victims overlap.
pub(crate) fn plan(seed: u64, length: Duration, options: Options) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut free: BTreeMap<Victim, Duration> = BTreeMap::new();
    let mut planned = Vec::new();
    let mut at = QUIET_START;
    loop {
        at = into_storm(at + between(&mut random, Duration::from_millis(300), LONGEST_GAP));
        let lasts = between(&mut random, Duration::from_millis(200), LONGEST);
        let (victim, kind) = choose(&mut random, options);
        if at + lasts + RESTING > length {
            return planned;
        }
        let is_free = free.get(&victim).is_none_or(|free| *free <= at);
        if is_free {
            free.insert(victim, at + lasts + RESTING);
            planned.push(Planned { at, lasts, victim, kind });
        }
    }
}

/// This instant if it is in a storm, else the beginning of the next.
fn into_storm(at: Duration) -> Duration {
    let round = STORM + CALM;
    let rounds = u32::try_from(at.as_millis() / round.as_millis()).unwrap_or(u32::MAX);
    if at < round * rounds + STORM { at } else { round * (rounds + 1) }
}

fn between(random: &mut StdRng, from: Duration, to: Duration) -> Duration {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.random_range(millis(from)..=millis(to)))
}

fn choose(random: &mut StdRng, options: Options) -> (Victim, Kind) {
    let mut victims = vec![Victim::Api, Victim::Publisher, Victim::Postgres, Victim::Rabbitmq];
    victims.extend((0..options.ingests).map(Victim::Ingest));
    // Where most can go wrong.
    victims.extend((0..options.dispatchers).flat_map(|n| [Victim::Dispatcher(n); 2]));
    let victim = pick(random, &victims);
    let kinds = kinds_of(victim, options);
    (victim, pick(random, &kinds))
}

fn kinds_of(victim: Victim, options: Options) -> Vec<Kind> {
    use Kind::{Cut, Delay, Freeze, Kill, Pause, Restart, Wipe};
    let links = |link| [Cut(link), Freeze(link), Delay(link)];
    match victim {
        Victim::Publisher => links(Link::Broker).into(),
        Victim::Rabbitmq if options.wipe => vec![Kill, Pause, Restart, Wipe, Wipe],
        Victim::Postgres | Victim::Rabbitmq => vec![Kill, Pause, Restart],
        Victim::Api | Victim::Ingest(_) | Victim::Dispatcher(_) => {
            let mut kinds = vec![Kill, Kill, Pause, Pause, Restart, Restart];
            kinds.extend(links(Link::Database));
            kinds.extend(links(Link::Broker));
            kinds
        }
    }
}

#[expect(clippy::expect_used, reason = "the lists above are not empty")]
fn pick<T: Copy>(random: &mut StdRng, of: &[T]) -> T {
    *of.choose(random).expect("there is something to choose from")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options { ingests: 2, dispatchers: 2, wipe: true };
    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_seed_gives_the_same_faults_again_and_another_seed_others() {
        assert_eq!(plan(7, HOUR, OPTIONS), plan(7, HOUR, OPTIONS));
        assert_ne!(plan(7, HOUR, OPTIONS), plan(8, HOUR, OPTIONS));
    }

    #[test]
    fn a_longer_run_begins_like_a_shorter_one() {
        let (short, long) = (plan(7, HOUR / 10, OPTIONS), plan(7, HOUR, OPTIONS));
        assert_eq!(long[..short.len()], short[..]);
    }

    #[test]
    fn one_fault_at_a_time_hits_a_victim_and_several_victims_are_hit_at_once() {
        let planned = plan(1, HOUR, OPTIONS);
        let mut overlapping = 0;
        for (n, fault) in planned.iter().enumerate() {
            for later in &planned[n + 1..] {
                let overlap = later.at < fault.at + fault.lasts;
                assert!(!(overlap && later.victim == fault.victim), "{fault:?} {later:?}");
                overlapping += usize::from(overlap);
            }
        }
        assert!(overlapping > planned.len() / 10, "{overlapping} of {}", planned.len());
    }

    #[test]
    fn every_victim_and_every_kind_has_its_turn_in_storms_alone() {
        let planned = plan(3, HOUR, OPTIONS);
        let expected: usize =
            [Victim::Api, Victim::Ingest(0), Victim::Ingest(1), Victim::Dispatcher(0), Victim::Dispatcher(1)]
                .into_iter()
                .chain([Victim::Publisher, Victim::Postgres, Victim::Rabbitmq])
                .map(|victim| {
                    let mut kinds = kinds_of(victim, OPTIONS);
                    kinds.sort_unstable();
                    kinds.dedup();
                    kinds.len()
                })
                .sum();
        let mut seen: Vec<_> = planned.iter().map(|fault| (fault.victim, fault.kind)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), expected);
        let calm = |fault: &&Planned| fault.at.as_millis() % (STORM + CALM).as_millis() >= STORM.as_millis();
        assert_eq!(planned.iter().find(calm), None);
    }

    #[test]
    fn nothing_is_wiped_without_being_asked_for() {
        let planned = plan(3, HOUR, Options { wipe: false, ..OPTIONS });
        assert_eq!(planned.iter().find(|fault| fault.kind == Kind::Wipe), None);
    }

    #[test]
    fn all_is_healed_within_the_run() {
        for seed in 0..50 {
            let length = Duration::from_secs(60);
            let planned = plan(seed, length, OPTIONS);
            assert!(planned.len() >= 5, "seed {seed}: {planned:?}");
            assert!(planned.iter().all(|fault| fault.at + fault.lasts < length));
        }
    }
}

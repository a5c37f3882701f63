//! What is seen of a simulation.

use std::fmt::Write as _;
use std::time::Duration;

use super::queues::DelayQueue;
use super::receivers::Kind;
use super::world::Job;
use super::{COST, Setup};
use crate::histogram::Histogram;
use crate::markdown::{self, grouped};
use crate::series::Series;
use crate::stats::millis;

/// Rates are those of the last one of so many parts of the time: queues have filled by then.
const LAST_PART: u32 = 3;

/// What happened to deliveries of one kind of receivers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) created: u64,
    /// Times that a turn was asked for.
    pub(crate) asked: u64,
    /// Times that this ended with the job parked.
    pub(crate) parked: u64,
    pub(crate) requests: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) on_the_wire: u64,
}

/// By kind of the receivers.
type ByKind<T> = [T; 4];

/// Notes what happens.
pub(super) struct Recorder {
    kinds: Vec<Kind>,
    counts: ByKind<Counts>,
    looks: Vec<(Duration, ByKind<Counts>)>,
    /// Pieces of work that dispatchers had CPU time for.
    pub(super) worked: u64,
    waits: Histogram,
    waits_since_look: Histogram,
    /// In the order in which they are noted first.
    lines: Vec<Series>,
    most_messages: usize,
    most_jobs: usize,
}

/// A queue of jobs in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) queue: String,
    /// What stands in for requests on the wire is apart.
    pub(crate) jobs: ByKind<usize>,
    pub(crate) stand_ins: usize,
    pub(crate) most: usize,
}

/// A simulation that is over.
#[derive(Debug)]
pub(crate) struct Observed {
    setup: Setup,
    webhooks: ByKind<usize>,
    /// Of all of the time, and of its last part by second.
    pub(crate) counts: ByKind<Counts>,
    lately: ByKind<Counts>,
    lately_seconds: f64,
    pub(crate) depths: Vec<Depth>,
    /// Messages that were ready in `webhooks.fanout` at most.
    most_events: usize,
    /// Messages and jobs that dispatchers hold in the end.
    pub(super) held: usize,
    /// From when an event is accepted to when the request to a healthy receiver starts.
    waits: Histogram,
    /// The share of the dispatchers' CPU time that was used.
    busy: f64,
    pub(crate) most_messages: usize,
    pub(crate) most_jobs: usize,
    pub(crate) series: Vec<Series>,
}

impl Recorder {
    pub(super) fn new(kinds: &[Kind]) -> Self {
        Self {
            kinds: kinds.to_owned(),
            counts: ByKind::default(),
            looks: Vec::new(),
            worked: 0,
            waits: Histogram::default(),
            waits_since_look: Histogram::default(),
            lines: Vec::new(),
            most_messages: 0,
            most_jobs: 0,
        }
    }

    pub(super) fn created(&mut self, webhook: usize) {
        self.of(webhook).created += 1;
    }

    pub(super) fn asked(&mut self, webhook: usize) {
        self.of(webhook).asked += 1;
    }

    pub(super) fn parked(&mut self, webhook: usize) {
        self.of(webhook).parked += 1;
    }

    pub(super) fn succeeded(&mut self, webhook: usize) {
        self.of(webhook).succeeded += 1;
    }

    pub(super) fn failed(&mut self, webhook: usize) {
        self.of(webhook).failed += 1;
    }

    /// A request starts; a first attempt `waited` for so long.
    pub(super) fn started(&mut self, kind: Kind, waited: Option<Duration>) {
        self.counts[kind.index()].requests += 1;
        self.counts[kind.index()].on_the_wire += 1;
        if let Some(waited) = waited.filter(|_| kind == Kind::Healthy) {
            self.waits.add(waited);
            self.waits_since_look.add(waited);
        }
    }

    pub(super) fn ended(&mut self, kind: Kind) {
        self.counts[kind.index()].on_the_wire -= 1;
    }

    fn of(&mut self, webhook: usize) -> &mut Counts {
        &mut self.counts[self.kinds[webhook].index()]
    }

    /// Notes how everything is: what was ready at most, what is delayed, messages and jobs that each dispatcher holds.
    pub(super) fn look(
        &mut self,
        now: Duration,
        ready: [(&str, usize); 2],
        delayed: &[DelayQueue<Job>],
        held: impl Iterator<Item = (usize, usize)>,
    ) {
        self.looks.push((now, self.counts));
        for (name, most) in ready {
            self.point(now, "messages ready, at most within 5 s", name, most);
        }
        for queue in delayed {
            let is_retry = queue.name.contains("retry");
            let panel = if is_retry { "messages waiting for their retry" } else { "messages parked" };
            self.point(now, panel, &queue.name, queue.len());
        }
        for kind in Kind::ALL {
            let on_the_wire = self.counts[kind.index()].on_the_wire;
            self.point(now, "requests on the wire, to receivers that are", kind.name(), on_the_wire);
        }
        let waits = std::mem::take(&mut self.waits_since_look);
        for (name, permille) in [("p50", 500), ("p99", 990)] {
            if let Some(waited) = waits.at(permille) {
                let panel = "healthy receivers: ms from accepted to requested";
                self.line(panel, name).push((now.as_secs_f64(), millis(waited)));
            }
        }
        for (messages, jobs) in held {
            self.most_messages = self.most_messages.max(messages);
            self.most_jobs = self.most_jobs.max(jobs);
        }
    }

    fn point(&mut self, now: Duration, panel: &str, name: &str, value: impl TryInto<u32>) {
        let value = value.try_into().unwrap_or(u32::MAX);
        self.line(panel, name).push((now.as_secs_f64(), f64::from(value)));
    }

    fn line(&mut self, panel: &str, name: &str) -> &mut Vec<(f64, f64)> {
        let known = self.lines.iter().position(|line| line.panel == panel && line.name == name);
        let line = known.unwrap_or_else(|| {
            self.lines.push(Series::new(panel, name, Vec::new()));
            self.lines.len() - 1
        });
        &mut self.lines[line].points
    }

    pub(super) fn depth<'a>(&self, queue: &str, most: usize, jobs: impl Iterator<Item = &'a Job>) -> Depth {
        let mut depth = Depth { queue: queue.to_owned(), jobs: ByKind::default(), stand_ins: 0, most };
        for job in jobs {
            if job.stands_in {
                depth.stand_ins += 1;
            } else {
                depth.jobs[self.kinds[job.webhook].index()] += 1;
            }
        }
        depth
    }

    pub(super) fn observed(
        self,
        setup: &Setup,
        depths: Vec<Depth>,
        most_events: usize,
        held: usize,
    ) -> Observed {
        let since = setup.time.saturating_sub(setup.time / LAST_PART);
        let before = self.looks.iter().rev().find(|(at, _)| *at <= since).copied().unwrap_or_default();
        let lately = std::array::from_fn(|kind| self.counts[kind].since(before.1[kind]));
        let mut webhooks = ByKind::default();
        self.kinds.iter().for_each(|kind| webhooks[kind.index()] += 1);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let (worked, dispatchers) = (self.worked as f64, setup.dispatchers as f64);
        Observed {
            setup: setup.clone(),
            webhooks,
            counts: self.counts,
            lately,
            lately_seconds: setup.time.saturating_sub(before.0).as_secs_f64(),
            depths,
            most_events,
            held,
            waits: self.waits,
            busy: worked * COST.as_secs_f64() / (setup.time.as_secs_f64() * dispatchers),
            most_messages: self.most_messages,
            most_jobs: self.most_jobs,
            series: self.lines,
        }
    }
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            created: self.created - before.created,
            asked: self.asked - before.asked,
            parked: self.parked - before.parked,
            requests: self.requests - before.requests,
            succeeded: self.succeeded - before.succeeded,
            failed: self.failed - before.failed,
            on_the_wire: self.on_the_wire,
        }
    }
}

impl Observed {
    pub(crate) fn of(&self, kind: Kind) -> Counts {
        self.counts[kind.index()]
    }

    pub(crate) fn dispatchers(&self) -> usize {
        self.setup.dispatchers
    }

    /// Of a thousand healthy receivers' first attempts, so many waited for no longer than this.
    pub(crate) fn waited(&self, permille: u64) -> Duration {
        self.waits.at(permille).unwrap_or_default()
    }

    fn a_second(&self, count: u64) -> String {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let count = count as f64;
        grouped(count / self.lately_seconds)
    }
}

/// For people: the platform with bad receivers, and `alone` without.
pub(crate) fn report(observed: &Observed, alone: &Observed) -> String {
    let mut text = String::new();
    let setup = &observed.setup;
    let _ = writeln!(
        text,
        "{} dispatchers, {} webhooks, {} events/s to {} webhooks each; {} s; seed {}.\n",
        setup.dispatchers,
        grouped_count(setup.webhooks() as u64),
        grouped_count(u64::from(setup.events_per_second)),
        setup.fan_out,
        setup.time.as_secs(),
        setup.seed,
    );
    text.push_str(&of_receivers(observed));
    text.push('\n');
    text.push_str(&of_queues(observed));
    let waits = |of: &Observed| [500, 990, 999].map(|permille| format!("{:.1}", millis(of.waited(permille))));
    let ([p50, p99, p999], [alone_p50, alone_p99, alone_p999]) = (waits(observed), waits(alone));
    let _ = writeln!(
        text,
        "\nFrom accepted to requested, healthy receivers: p50 {p50} ms, p99 {p99} ms, p99.9 {p999} ms; while \
         nobody is bad {alone_p50}, {alone_p99} and {alone_p999} ms. The dispatchers' cores were busy for {:.0} % \
         of the time. A dispatcher held {} of {} fan-out messages and {} of {} jobs at most; {} messages waited in \
         `webhooks.fanout` at most. In the end all of them together held {}.",
        observed.busy * 100.0,
        observed.most_messages,
        setup.rules.fan_out_prefetch,
        observed.most_jobs,
        setup.rules.prefetch,
        observed.most_events,
        grouped_count(observed.held as u64),
    );
    text
}

/// For people: how much what is seen depends on the number of dispatchers.
pub(crate) fn compare(all: &[&Observed]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|observed| {
            let (hanging, slow) = (Kind::Hanging.index(), Kind::Slow.index());
            let of_jobs = observed.depths.first().map_or(0, |deliver| deliver.most);
            let mut row = vec![observed.setup.dispatchers.to_string()];
            row.extend([500, 990, 999].map(|permille| format!("{:.1}", millis(observed.waited(permille)))));
            row.push(grouped_count(observed.lately[hanging].on_the_wire));
            row.push(percent(observed.lately[slow].parked, observed.lately[slow].asked));
            row.push(percent(observed.counts[slow].succeeded, observed.counts[slow].created));
            row.push(grouped_count(of_jobs as u64));
            row.push(format!("{:.0} %", observed.busy * 100.0));
            row
        })
        .collect();
    let head = [
        "dispatchers",
        "healthy: p50, ms",
        "p99",
        "p99.9",
        "requests to the hanging",
        "slow: asked and parked",
        "slow: delivered",
        "`webhooks.deliver` at most",
        "cores busy",
    ];
    markdown::table(&head, &rows)
}

fn of_receivers(observed: &Observed) -> String {
    let rows = Kind::ALL.map(|kind| {
        let (of_all, lately) = (observed.of(kind), observed.lately[kind.index()]);
        let parked: usize = observed.depths.iter().map(|depth| depth.parked(kind)).sum();
        vec![
            kind.name().to_owned(),
            grouped_count(observed.webhooks[kind.index()] as u64),
            observed.a_second(lately.created),
            observed.a_second(lately.requests),
            grouped_count(lately.on_the_wire),
            observed.a_second(lately.asked),
            percent(lately.parked, lately.asked),
            grouped_count(parked as u64),
            percent(of_all.succeeded, of_all.created),
            percent(of_all.failed, of_all.created),
        ]
    });
    let head = [
        "receivers",
        "webhooks",
        "deliveries/s",
        "requests/s",
        "on the wire",
        "asked for a turn/s",
        "of these, parked",
        "parked in the end",
        "delivered",
        "failed",
    ];
    markdown::table(&head, &rows)
}

impl Depth {
    fn is_parking(&self) -> bool {
        self.queue.contains(".park.")
    }

    fn parked(&self, kind: Kind) -> usize {
        if self.is_parking() { self.jobs[kind.index()] } else { 0 }
    }
}

fn of_queues(observed: &Observed) -> String {
    let rows: Vec<_> = observed
        .depths
        .iter()
        .map(|depth| {
            let mut row = vec![format!("`{}`", depth.queue)];
            row.extend(depth.jobs.map(|jobs| grouped_count(jobs as u64)));
            row.push(grouped_count(depth.stand_ins as u64));
            row.push(grouped_count(depth.most as u64));
            row
        })
        .collect();
    let names = Kind::ALL.map(Kind::name);
    let head = ["queue, in the end", names[0], names[1], names[2], names[3], "stand-ins", "all, at most"];
    markdown::table(&head, &rows)
}

fn grouped_count(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let count = count as f64;
    grouped(count)
}

fn percent(part: u64, of: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let share = part as f64 / of.max(1) as f64;
    format!("{:.1} %", share * 100.0)
}

//! The platform in virtual time.

use std::collections::VecDeque;
use std::time::Duration;

use domain::retry::{AttemptNumber, NextStep, next_step};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::agenda::Agenda;
use super::dispatcher::{Asked, Dispatcher, Ticket};
use super::observed::{Observed, Recorder};
use super::queues::{DelayQueue, Queue};
use super::receivers::{Answer, Kind, exponential};
use super::{BEFORE, COST, GROUPS, Setup};

/// How much longer than the longest request what stands in for it stays away.
const STAND_IN_MARGIN: Duration = Duration::from_secs(1);

/// The time between two looks at everything.
const LOOK: Duration = Duration::from_secs(5);

/// An attempt to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) webhook: usize,
    attempt: AttemptNumber,
    /// When its event was accepted.
    accepted: Duration,
    holds: Holds,
    /// It stands in for a request on the wire: when it comes out, that is over.
    pub(super) stands_in: bool,
}

/// Which message is held until it is settled.
#[derive(Debug, Clone, Copy)]
enum Holds {
    /// Its event's, by its place in [`World::held`].
    Event(usize),
    /// Its own.
    Job,
    /// None: others wait on the broker.
    Nothing,
}

/// Events that were stored together: whom each concerns, and when it was accepted.
type Group = Vec<(usize, Duration)>;

/// What happens.
#[derive(Clone, Copy)]
enum Happening {
    /// event-ingest has stored a group; the next one is begun.
    Stored,
    /// A group's message reaches the fan-out queue.
    Published,
    /// A dispatcher had the CPU time for the next of its work.
    Worked(usize),
    /// A request is over.
    Ended { dispatcher: usize, job: Job, slow: bool, answer: Answer },
    /// A first attempt has been on the wire for as long as its event's message is held.
    Late { dispatcher: usize, job: Job },
    /// The wait in the webhook's line has been long enough.
    LeavesLine { dispatcher: usize, webhook: usize, ticket: Ticket, rung: usize },
    /// So has the wait for what all share.
    LeavesCrowd { dispatcher: usize, ticket: Ticket },
    /// The first of a delay queue is due.
    Due(usize),
    /// Everything is looked at.
    Look,
}

struct World<'a> {
    setup: &'a Setup,
    kinds: Vec<Kind>,
    random: StdRng,
    agenda: Agenda<Happening>,
    next_event: Duration,
    publishing: VecDeque<Group>,
    fan_out: Queue<Group>,
    deliver: Queue<Job>,
    /// Those of the schedule, then those of the ladder.
    delayed: Vec<DelayQueue<Job>>,
    dispatchers: Vec<Dispatcher<Job>>,
    /// Deliveries that are not settled, of each event's message that is held; and the places that are free.
    held: Vec<usize>,
    free: Vec<usize>,
    recorder: Recorder,
}

/// Simulates it to the end.
pub(crate) fn run(setup: &Setup) -> Observed {
    let mut world = World::new(setup);
    while let Some(happening) = world.agenda.advance(setup.time) {
        world.happens(happening);
    }
    world.observed()
}

impl<'a> World<'a> {
    fn new(setup: &'a Setup) -> Self {
        let rules = &setup.rules;
        let webhooks = setup.webhooks();
        let retries = rules.schedule.delays().iter().map(|delay| DelayQueue::new("webhooks.retry", *delay));
        let parks = rules.park_delays.all().iter().map(|delay| DelayQueue::new("webhooks.park", *delay));
        let kinds: Vec<_> = (0..webhooks).map(|webhook| setup.bad.kind(webhook)).collect();
        let mut agenda = Agenda::new();
        agenda.note(GROUPS, Happening::Stored);
        agenda.note(Duration::ZERO, Happening::Look);
        Self {
            setup,
            random: StdRng::seed_from_u64(setup.seed),
            agenda,
            next_event: Duration::ZERO,
            publishing: VecDeque::new(),
            fan_out: Queue::new(),
            deliver: Queue::new(),
            delayed: retries.chain(parks).collect(),
            dispatchers: (0..setup.dispatchers).map(|_| Dispatcher::new(rules, webhooks)).collect(),
            held: Vec::new(),
            free: Vec::new(),
            recorder: Recorder::new(&kinds),
            kinds,
        }
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Stored => self.stored(),
            Happening::Published => {
                if let Some(group) = self.publishing.pop_front() {
                    self.fan_out.put(group);
                }
                self.hand_out_events();
            }
            Happening::Worked(dispatcher) => self.worked(dispatcher),
            Happening::Ended { dispatcher, job, slow, answer } => self.ended(dispatcher, job, slow, answer),
            Happening::Late { dispatcher, job } => self.late(dispatcher, job),
            Happening::LeavesLine { dispatcher, webhook, ticket, rung } => {
                if let Some(job) = self.dispatchers[dispatcher].leave_line(webhook, ticket) {
                    self.park(dispatcher, job, rung);
                }
            }
            Happening::LeavesCrowd { dispatcher, ticket } => self.leaves_crowd(dispatcher, ticket),
            Happening::Due(queue) => self.due(queue),
            Happening::Look => self.look(),
        }
    }

    /// What was accepted since the last group was begun is the next group.
    fn stored(&mut self) {
        let now = self.agenda.now();
        let mean = Duration::from_secs(1) / self.setup.events_per_second;
        let mut group = Group::new();
        while self.next_event < now {
            group.push((self.random.random_range(0..self.setup.users), self.next_event));
            self.next_event += exponential(mean, &mut self.random);
        }
        if !group.is_empty() {
            self.publishing.push_back(group);
            self.agenda.note_in(BEFORE, Happening::Published);
        }
        if now < self.setup.load {
            self.agenda.note_in(GROUPS, Happening::Stored);
        }
    }

    fn hand_out_events(&mut self) {
        let most = self.setup.rules.fan_out_prefetch;
        let count = self.dispatchers.len();
        while let Some((dispatcher, group)) =
            self.fan_out.take(count, |dispatcher| self.dispatchers[dispatcher].messages < most)
        {
            self.dispatchers[dispatcher].messages += 1;
            let fan_out = self.setup.fan_out;
            let message = self.free.pop().unwrap_or_else(|| {
                self.held.push(0);
                self.held.len() - 1
            });
            self.held[message] = group.len() * fan_out;
            for (user, accepted) in group {
                for webhook in user * fan_out..(user + 1) * fan_out {
                    self.recorder.created(webhook);
                    let (attempt, holds) = (AttemptNumber::FIRST, Holds::Event(message));
                    self.give(dispatcher, Job { webhook, attempt, accepted, holds, stands_in: false });
                }
            }
        }
    }

    fn hand_out_jobs(&mut self) {
        let most = self.setup.rules.prefetch;
        let count = self.dispatchers.len();
        while let Some((dispatcher, job)) =
            self.deliver.take(count, |dispatcher| self.dispatchers[dispatcher].jobs < most)
        {
            self.dispatchers[dispatcher].jobs += 1;
            self.give(dispatcher, Job { holds: Holds::Job, ..job });
        }
    }

    fn give(&mut self, dispatcher: usize, job: Job) {
        let work = &mut self.dispatchers[dispatcher].work;
        work.push_back(job);
        if work.len() == 1 {
            self.agenda.note_in(COST, Happening::Worked(dispatcher));
        }
    }

    fn worked(&mut self, dispatcher: usize) {
        self.recorder.worked += 1;
        let work = &mut self.dispatchers[dispatcher].work;
        let Some(job) = work.pop_front() else { return };
        if !work.is_empty() {
            self.agenda.note_in(COST, Happening::Worked(dispatcher));
        }
        if job.stands_in {
            return self.settle(dispatcher, job);
        }
        self.recorder.asked(job.webhook);
        let now = self.agenda.now();
        let asked = self.dispatchers[dispatcher].ask(job, job.webhook, now, &self.setup.rules);
        self.after_asking(dispatcher, job, asked);
    }

    fn after_asking(&mut self, dispatcher: usize, job: Job, asked: Asked) {
        let rules = &self.setup.rules;
        match asked {
            Asked::Turn { slow } => self.start(dispatcher, job, slow),
            Asked::InLine(ticket, rung) => {
                let webhook = job.webhook;
                let leaves = Happening::LeavesLine { dispatcher, webhook, ticket, rung };
                self.agenda.note_in(rules.max_wait, leaves);
            }
            Asked::InCrowd(ticket) => {
                let patience = match job.holds {
                    Holds::Event(_) => rules.hold,
                    Holds::Job | Holds::Nothing => rules.timeout,
                };
                self.agenda.note_in(patience, Happening::LeavesCrowd { dispatcher, ticket });
            }
            Asked::Busy(rung) => self.park(dispatcher, job, rung),
        }
    }

    fn start(&mut self, dispatcher: usize, job: Job, slow: bool) {
        let (now, hold) = (self.agenda.now(), self.setup.rules.hold);
        let kind = self.kinds[job.webhook];
        let answer = Answer::of(kind, self.setup.rules.timeout, &mut self.random);
        let waited = (job.attempt == AttemptNumber::FIRST).then(|| now.saturating_sub(job.accepted));
        self.recorder.started(kind, waited);
        let mut on_the_wire = job;
        if matches!(job.holds, Holds::Event(_)) && answer.took > hold {
            on_the_wire.holds = Holds::Nothing;
            self.agenda.note_in(hold, Happening::Late { dispatcher, job });
        }
        self.agenda.note_in(answer.took, Happening::Ended { dispatcher, job: on_the_wire, slow, answer });
    }

    fn ended(&mut self, dispatcher: usize, job: Job, slow: bool, answer: Answer) {
        let now = self.agenda.now();
        self.recorder.ended(self.kinds[job.webhook]);
        self.dispatchers[dispatcher].end(job.webhook, slow, answer, now);
        self.call(dispatcher, job.webhook);
        let schedule = &self.setup.rules.schedule;
        match next_step(job.attempt, answer.verdict, schedule) {
            NextStep::Succeed => self.recorder.succeeded(job.webhook),
            NextStep::Fail => self.recorder.failed(job.webhook),
            NextStep::Retry { attempt, delay } => {
                let queue = schedule.delays().iter().position(|of_queue| *of_queue == delay);
                self.put(queue.unwrap_or_default(), Job { attempt, holds: Holds::Nothing, ..job });
            }
        }
        self.settle(dispatcher, job);
    }

    fn late(&mut self, dispatcher: usize, job: Job) {
        let longest = self.setup.rules.timeout + STAND_IN_MARGIN;
        let rung = self.setup.rules.park_delays.rung_beyond(longest);
        self.put(self.rung(rung), Job { holds: Holds::Nothing, stands_in: true, ..job });
        self.settle(dispatcher, job);
    }

    fn leaves_crowd(&mut self, dispatcher: usize, ticket: Ticket) {
        let now = self.agenda.now();
        let Some(job) = self.dispatchers[dispatcher].leave_crowd(ticket, now) else { return };
        self.call(dispatcher, job.webhook);
        match job.holds {
            // For whoever has a hand free.
            Holds::Event(_) => {
                self.deliver.put(Job { holds: Holds::Nothing, ..job });
                self.settle(dispatcher, job);
                self.hand_out_jobs();
            }
            Holds::Job | Holds::Nothing => self.park(dispatcher, job, 0),
        }
    }

    /// Those who may go now that something is free.
    fn call(&mut self, dispatcher: usize, webhook: usize) {
        while let Some((job, asked)) = self.dispatchers[dispatcher].call(webhook, self.agenda.now()) {
            self.after_asking(dispatcher, job, asked);
        }
    }

    fn park(&mut self, dispatcher: usize, job: Job, rung: usize) {
        self.recorder.parked(job.webhook);
        self.put(self.rung(rung), Job { holds: Holds::Nothing, ..job });
        self.settle(dispatcher, job);
    }

    /// A rung's place among the delay queues.
    fn rung(&self, rung: usize) -> usize {
        self.setup.rules.schedule.delays().len() + rung
    }

    fn put(&mut self, queue: usize, job: Job) {
        let now = self.agenda.now();
        let delayed = &mut self.delayed[queue];
        if delayed.put(job, now) {
            self.agenda.note_in(delayed.delay, Happening::Due(queue));
        }
    }

    fn due(&mut self, queue: usize) {
        let delayed = &mut self.delayed[queue];
        while let Some(job) = delayed.due(self.agenda.now()) {
            self.deliver.put(job);
        }
        if let Some(next) = delayed.next_due() {
            self.agenda.note(next, Happening::Due(queue));
        }
        self.hand_out_jobs();
    }

    /// The message need not be held for this job any more.
    fn settle(&mut self, dispatcher: usize, job: Job) {
        match job.holds {
            Holds::Nothing => {}
            Holds::Job => {
                self.dispatchers[dispatcher].jobs -= 1;
                self.hand_out_jobs();
            }
            Holds::Event(message) => {
                self.held[message] -= 1;
                if self.held[message] == 0 {
                    self.free.push(message);
                    self.dispatchers[dispatcher].messages -= 1;
                    self.hand_out_events();
                }
            }
        }
    }

    fn look(&mut self) {
        self.agenda.note_in(LOOK, Happening::Look);
        let ready = [
            ("webhooks.fanout", self.fan_out.most_lately()),
            ("webhooks.deliver", self.deliver.most_lately()),
        ];
        let held = self.dispatchers.iter().map(|dispatcher| (dispatcher.messages, dispatcher.jobs));
        self.recorder.look(self.agenda.now(), ready, &self.delayed, held);
    }

    fn observed(self) -> Observed {
        let held = self.dispatchers.iter().map(|dispatcher| dispatcher.messages + dispatcher.jobs).sum();
        let mut depths =
            vec![self.recorder.depth("webhooks.deliver", self.deliver.most, self.deliver.iter())];
        depths.extend(self.delayed.iter().map(|it| self.recorder.depth(&it.name, it.most, it.iter())));
        self.recorder.observed(self.setup, depths, self.fan_out.most, held)
    }
}

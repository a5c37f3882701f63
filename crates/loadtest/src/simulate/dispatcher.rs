//! One dispatcher: its work, and who may have a request on the wire.
//!
//! How many requests a webhook may have is `domain::pace`'s, as in the dispatcher. What the dispatcher adds is modelled:
//! a quarter of the places is left to webhooks without a request, a webhook has a quarter of what else is free at most,
//! and those whose requests take long stay out of the part that is left. Waiting for a place among the slow and for one
//! among all is one wait here. Bodies travel with their jobs, so that there is no wait for memory.

use std::collections::VecDeque;
use std::time::Duration;

use domain::pace::Pace;

use super::Rules;
use super::receivers::Answer;

/// One of so many parts of all requests is left to webhooks that have none on the wire.
const LEFT_TO_NEWCOMERS: usize = 4;

/// A webhook may have one of so many parts of what else is free.
const PART_OF_FREE: usize = 4;

/// Stands for a delivery where many wait.
pub(super) type Ticket = u64;

/// A dispatcher; `J` is what it makes attempts of.
pub(super) struct Dispatcher<J> {
    /// What was taken, and waits for CPU time.
    pub(super) work: VecDeque<J>,
    /// Events' messages that are held.
    pub(super) messages: usize,
    /// Jobs that are held.
    pub(super) jobs: usize,
    requests: usize,
    lanes: Vec<Lane<J>>,
    /// Places that webhooks have taken.
    taken: usize,
    on_the_wire: usize,
    /// Of those on the wire, those to webhooks whose requests take long.
    slow: usize,
    /// Those with a place of their webhook who wait for what all share.
    crowd: VecDeque<Waiting<J>>,
    slow_crowd: VecDeque<Waiting<J>>,
    last_ticket: Ticket,
}

/// The requests of one webhook.
struct Lane<J> {
    pace: Pace,
    taken: usize,
    line: VecDeque<Waiting<J>>,
    /// When a place was taken last while none was, or given back.
    moved: Duration,
}

struct Waiting<J> {
    ticket: Ticket,
    job: J,
    webhook: usize,
}

/// What came of asking for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The request may start; whether it is one of the slow.
    Turn { slow: bool },
    /// It waits in its webhook's line, and is parked on this rung if that takes too long.
    InLine(Ticket, usize),
    /// It waits for what all share.
    InCrowd(Ticket),
    /// Waiting would be in vain: it is to be parked on this rung.
    Busy(usize),
}

impl<J: Copy> Dispatcher<J> {
    pub(super) fn new(rules: &Rules, webhooks: usize) -> Self {
        let lane = || Lane {
            pace: Pace::new(rules.requests_per_webhook),
            taken: 0,
            line: VecDeque::new(),
            moved: Duration::ZERO,
        };
        Self {
            work: VecDeque::new(),
            messages: 0,
            jobs: 0,
            requests: rules.requests,
            lanes: (0..webhooks).map(|_| lane()).collect(),
            taken: 0,
            on_the_wire: 0,
            slow: 0,
            crowd: VecDeque::new(),
            slow_crowd: VecDeque::new(),
            last_ticket: 0,
        }
    }

    /// Asks for a turn for a job of this webhook.
    pub(super) fn ask(&mut self, job: J, webhook: usize, now: Duration, rules: &Rules) -> Asked {
        let part = self.part();
        let lane = &self.lanes[webhook];
        if lane.line.is_empty() && lane.has_place(part) {
            self.take(webhook, now);
            return self.enter(job, webhook);
        }
        let rounds = lane.pace.expected_wait(lane.line.len(), lane.at_once(part));
        let wait = rounds.max(now.saturating_sub(lane.moved));
        let rung = rules.park_delays.rung_after(lane.pace.failing_for());
        if wait > rules.max_wait {
            return Asked::Busy(rung);
        }
        let ticket = self.ticket();
        self.lanes[webhook].line.push_back(Waiting { ticket, job, webhook });
        Asked::InLine(ticket, rung)
    }

    /// A request is over.
    pub(super) fn end(&mut self, webhook: usize, slow: bool, answer: Answer, now: Duration) {
        self.on_the_wire -= 1;
        self.slow -= usize::from(slow);
        let pace = &mut self.lanes[webhook].pace;
        if answer.came {
            pace.answered(answer.took);
        } else {
            pace.not_answered(answer.took, now);
        }
        self.give_back(webhook, now);
    }

    /// Whoever comes next, now that there may be room: somebody of the crowd, or of this webhook's line. To be called until
    /// nobody comes.
    pub(super) fn call(&mut self, webhook: usize, now: Duration) -> Option<(J, Asked)> {
        if self.on_the_wire < self.requests {
            let slow = self.crowd.is_empty() && self.slow < self.shared();
            let crowd = if slow { &mut self.slow_crowd } else { &mut self.crowd };
            if let Some(waiting) = crowd.pop_front() {
                self.on_the_wire += 1;
                self.slow += usize::from(slow);
                return Some((waiting.job, Asked::Turn { slow }));
            }
        }
        let part = self.part();
        let lane = &mut self.lanes[webhook];
        if !lane.has_place(part) {
            return None;
        }
        let waiting = lane.line.pop_front()?;
        self.take(webhook, now);
        Some((waiting.job, self.enter(waiting.job, webhook)))
    }

    /// Leaves the line of a webhook; `None` if it was called already.
    pub(super) fn leave_line(&mut self, webhook: usize, ticket: Ticket) -> Option<J> {
        leave(&mut self.lanes[webhook].line, ticket).map(|waiting| waiting.job)
    }

    /// Leaves the crowd, and gives the place back that its webhook has; `None` if it was called already.
    pub(super) fn leave_crowd(&mut self, ticket: Ticket, now: Duration) -> Option<J> {
        let waiting = leave(&mut self.crowd, ticket).or_else(|| leave(&mut self.slow_crowd, ticket))?;
        self.give_back(waiting.webhook, now);
        Some(waiting.job)
    }

    /// With a place of the webhook, to what all share.
    fn enter(&mut self, job: J, webhook: usize) -> Asked {
        let slow = self.lanes[webhook].pace.is_slow();
        if self.on_the_wire < self.requests && (!slow || self.slow < self.shared()) {
            self.on_the_wire += 1;
            self.slow += usize::from(slow);
            return Asked::Turn { slow };
        }
        let ticket = self.ticket();
        let crowd = if slow { &mut self.slow_crowd } else { &mut self.crowd };
        crowd.push_back(Waiting { ticket, job, webhook });
        Asked::InCrowd(ticket)
    }

    fn take(&mut self, webhook: usize, now: Duration) {
        let lane = &mut self.lanes[webhook];
        if lane.taken == 0 {
            lane.moved = now;
        }
        lane.taken += 1;
        self.taken += 1;
    }

    fn give_back(&mut self, webhook: usize, now: Duration) {
        let lane = &mut self.lanes[webhook];
        lane.taken -= 1;
        lane.moved = now;
        self.taken -= 1;
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        self.last_ticket
    }

    /// The requests that are not left to those who have none.
    fn shared(&self) -> usize {
        self.requests - self.requests / LEFT_TO_NEWCOMERS
    }

    /// What one webhook may have, by how much is taken.
    fn part(&self) -> usize {
        self.shared().saturating_sub(self.taken) / PART_OF_FREE
    }
}

impl<J> Lane<J> {
    fn at_once(&self, part: usize) -> usize {
        self.pace.limit().min(part).max(1)
    }

    fn has_place(&self, part: usize) -> bool {
        self.taken < self.at_once(part)
    }
}

fn leave<J>(line: &mut VecDeque<Waiting<J>>, ticket: Ticket) -> Option<Waiting<J>> {
    let place = line.iter().position(|waiting| waiting.ticket == ticket)?;
    line.remove(place)
}

#[cfg(test)]
mod tests {
    use domain::retry::Verdict;

    use super::*;

    const IN_VAIN: Answer =
        Answer { took: Duration::from_secs(10), came: false, verdict: Verdict::NotDelivered };

    fn ask(dispatcher: &mut Dispatcher<u32>, webhook: usize) -> Asked {
        dispatcher.ask(0, webhook, Duration::ZERO, &Rules::default())
    }

    #[test]
    fn a_webhook_has_its_bound_and_the_next_one_waits_and_is_called() {
        let mut dispatcher = Dispatcher::new(&Rules::default(), 2);
        for _ in 0..32 {
            assert_eq!(ask(&mut dispatcher, 0), Asked::Turn { slow: false });
        }
        assert!(matches!(dispatcher.ask(7, 0, Duration::ZERO, &Rules::default()), Asked::InLine(..)));
        assert_eq!(ask(&mut dispatcher, 1), Asked::Turn { slow: false });
        assert_eq!(dispatcher.call(0, Duration::ZERO), None);
        let answer = Answer { took: Duration::from_millis(5), came: true, verdict: Verdict::Delivered };
        dispatcher.end(0, false, answer, Duration::ZERO);
        assert_eq!(dispatcher.call(0, Duration::ZERO), Some((7, Asked::Turn { slow: false })));
        assert_eq!(dispatcher.call(0, Duration::ZERO), None);
    }

    #[test]
    fn many_webhooks_leave_a_quarter_to_those_who_have_nothing() {
        let rules = Rules::default();
        let mut dispatcher = Dispatcher::new(&rules, 2000);
        let mut turns = 0;
        for webhook in 0..100 {
            while matches!(ask(&mut dispatcher, webhook), Asked::Turn { .. }) {
                turns += 1;
            }
        }
        let shared = rules.requests - rules.requests / 4;
        assert!((shared - 4..shared + 100).contains(&turns), "{turns}");
        assert_eq!(ask(&mut dispatcher, 1000), Asked::Turn { slow: false });
        assert!(!matches!(ask(&mut dispatcher, 1000), Asked::Turn { .. }));
        for webhook in 1001..2000 {
            ask(&mut dispatcher, webhook);
        }
        assert_eq!(dispatcher.on_the_wire, rules.requests);
        assert!(!dispatcher.crowd.is_empty());
    }

    #[test]
    fn one_webhook_has_a_quarter_of_what_else_is_free() {
        let rules = Rules { requests_per_webhook: 1000, ..Rules::default() };
        let mut dispatcher = Dispatcher::new(&rules, 1);
        let turns =
            (0..1000).filter(|_| matches!(dispatcher.ask(0, 0, Duration::ZERO, &rules), Asked::Turn { .. }));
        // With 115 of 576 taken, a quarter of the rest is 115.
        assert_eq!(turns.count(), 115);
    }

    #[test]
    fn whoever_is_waited_for_in_vain_is_probed_and_the_rest_is_parked_for_longer_and_longer() {
        let rules = Rules::default();
        let mut dispatcher = Dispatcher::new(&rules, 1);
        let last = rules.park_delays.all().len() - 1;
        let (mut now, mut rungs) = (Duration::ZERO, Vec::new());
        for request in 0..70 {
            let Asked::Turn { slow } = dispatcher.ask(0, 0, now, &rules) else { panic!("it has a place") };
            now += rules.timeout;
            // After five, there is one place, which is taken.
            if request >= 5 {
                let Asked::Busy(rung) = dispatcher.ask(0, 0, now, &rules) else {
                    panic!("it has two places")
                };
                rungs.push(rung);
            }
            dispatcher.end(0, slow, IN_VAIN, now);
            assert_eq!(dispatcher.call(0, now), None);
        }
        assert!(dispatcher.lanes[0].pace.is_probing());
        assert!(rungs.is_sorted() && rungs.last() == Some(&last), "{rungs:?}");
    }

    #[test]
    fn whoever_leaves_the_crowd_gives_their_place_back() {
        let rules = Rules { requests: 1, ..Rules::default() };
        let mut dispatcher = Dispatcher::new(&rules, 2);
        assert_eq!(dispatcher.ask(1, 0, Duration::ZERO, &rules), Asked::Turn { slow: false });
        let Asked::InCrowd(ticket) = dispatcher.ask(2, 1, Duration::ZERO, &rules) else { panic!("no crowd") };
        assert_eq!(dispatcher.taken, 2);
        assert_eq!(dispatcher.leave_crowd(ticket, Duration::ZERO), Some(2));
        assert_eq!((dispatcher.taken, dispatcher.leave_crowd(ticket, Duration::ZERO)), (1, None));
    }
}

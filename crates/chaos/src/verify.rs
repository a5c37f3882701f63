//! Whether the platform kept its promises: a pure function of what was seen from the outside.

mod findings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::Timestamp;
use serde::Serialize;

use crate::faults::Fault;
use crate::history::{History, Row, Status};
use crate::load::Accepted;
use crate::platform::{ATTEMPT_TIMEOUT, ATTEMPTS};
use crate::receivers::{Answer, Arrival};
use crate::schedule::Victim;
use crate::world::WebhookPlan;

pub(crate) use findings::Finding;

/// How long after an answer the record of it may be made, and what was on the wire by then may come: one attempt, and as
/// much again for a machine that does everything else at once.
const RECORDED_WITHIN: Duration = Duration::from_secs(2 * ATTEMPT_TIMEOUT.as_secs());

/// How far the clocks of an arrival and of the attempt that caused it may be apart, beyond the attempt's time: the
/// receivers have to share the machine with everything else.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Of a hundred deliveries, how many may be repeated.
const MAX_DUPLICATES_PERCENT: usize = 1;

/// Of a hundred deliveries, how many attempts may have been given up before they came, or before their answer was read.
const MAX_GIVEN_UP_PERCENT: usize = 1;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    /// The webhooks; their index is their name elsewhere.
    pub(crate) webhooks: Vec<WebhookPlan>,
    /// What the platform accepted.
    pub(crate) events: Vec<Accepted>,
    /// What came, to whichever receiver.
    pub(crate) arrivals: Vec<Arrival>,
    /// What the platform says, webhook by webhook.
    pub(crate) histories: Vec<History>,
    /// What was done to it.
    pub(crate) faults: Vec<Fault>,
}

/// What is to be said about it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Verdict {
    /// Accepted events.
    pub(crate) events: usize,
    /// Pairs of an event and a webhook that wants it.
    pub(crate) deliveries: usize,
    /// Of these, successes.
    pub(crate) succeeded: usize,
    /// Of these, failed after all attempts.
    pub(crate) failed: usize,
    /// Requests that came to receivers.
    pub(crate) attempts: usize,
    /// Requests for an attempt that had come before.
    pub(crate) duplicates: usize,
    /// Of these, those that no fault explains.
    pub(crate) unexplained: usize,
    /// The others, by the latest fault that may have caused them.
    pub(crate) explained_by: BTreeMap<String, usize>,
    /// Requests after a success that a fault kept from being recorded at once.
    pub(crate) after_unrecorded_success: usize,
    /// Attempts that were given up, by the history, before they came or before their answer was read.
    pub(crate) given_up: usize,
    /// Deliveries that are missing.
    pub(crate) lost: usize,
    /// What must not be.
    #[serde(skip)]
    pub(crate) findings: Vec<Finding>,
    /// What may be, and one would like to know more about: duplicates that are explained.
    #[serde(skip)]
    pub(crate) remarks: Vec<Finding>,
}

/// Judges what was seen.
pub(crate) fn verify(seen: &Observations) -> Verdict {
    let mut verdict =
        Verdict { events: seen.events.len(), attempts: seen.arrivals.len(), ..Verdict::default() };
    check_requests(seen, &mut verdict);
    for webhook in 0..seen.webhooks.len() {
        WebhookCheck::of(seen, webhook).run(&mut verdict);
    }
    if verdict.duplicates * 100 > verdict.deliveries * MAX_DUPLICATES_PERCENT {
        let (duplicates, deliveries) = (verdict.duplicates, verdict.deliveries);
        verdict.findings.push(Finding::TooManyDuplicates { duplicates, deliveries });
    }
    if verdict.given_up * 100 > verdict.deliveries * MAX_GIVEN_UP_PERCENT {
        let (attempts, deliveries) = (verdict.given_up, verdict.deliveries);
        verdict.findings.push(Finding::TooManyGivenUp { attempts, deliveries });
    }
    verdict.lost = verdict.findings.iter().filter(|finding| matches!(finding, Finding::Lost { .. })).count();
    verdict
}

/// Each request by itself.
fn check_requests(seen: &Observations, verdict: &mut Verdict) {
    for arrival in &seen.arrivals {
        if let Some(reason) = &arrival.wrong {
            verdict.findings.push(Finding::WrongRequest { arrival: arrival.clone(), reason: reason.clone() });
        }
    }
}

/// One webhook: what it had to get, what it got, what its history says.
struct WebhookCheck<'a> {
    webhook: usize,
    faults: &'a [Fault],
    expected: BTreeMap<&'a str, &'a Accepted>,
    /// By delivery, in the order of arrival.
    arrivals: BTreeMap<&'a str, Vec<&'a Arrival>>,
    history: &'a History,
}

impl<'a> WebhookCheck<'a> {
    fn of(seen: &'a Observations, webhook: usize) -> Self {
        let wanted = seen.events.iter().filter(|accepted| seen.webhooks[webhook].wants(&accepted.event));
        let mut arrivals: BTreeMap<&str, Vec<&Arrival>> = BTreeMap::new();
        for arrival in seen.arrivals.iter().filter(|arrival| arrival.webhook == webhook) {
            arrivals.entry(&arrival.delivery).or_default().push(arrival);
        }
        Self {
            webhook,
            faults: &seen.faults,
            expected: wanted.map(|accepted| (accepted.event.id.as_str(), accepted)).collect(),
            arrivals,
            history: &seen.histories[webhook],
        }
    }

    fn run(&self, verdict: &mut Verdict) {
        verdict.deliveries += self.expected.len();
        self.check_events(verdict);
        self.check_statistics(verdict);
        let mut rows: BTreeMap<&str, &Row> = BTreeMap::new();
        for row in &self.history.rows {
            if rows.insert(&row.id, row).is_some() {
                verdict.findings.push(self.lying(row, "it stands twice in the history"));
            }
        }
        for (delivery, arrivals) in &self.arrivals {
            self.check_duplicates(arrivals, verdict);
            match rows.remove(delivery) {
                Some(row) => self.check_delivery(row, arrivals, verdict),
                None => verdict.findings.push(Finding::NotInHistory { arrival: arrivals[0].clone() }),
            }
        }
        // Nothing came: the history cannot say why to anybody's content, for every receiver takes every request.
        for row in rows.values() {
            verdict.findings.push(self.lying(row, "no request of it ever came"));
        }
    }

    /// Every event that had to come came as one delivery, and no other did.
    fn check_events(&self, verdict: &mut Verdict) {
        let mut came: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for arrivals in self.arrivals.values() {
            for arrival in arrivals {
                came.entry(&arrival.event).or_default().insert(&arrival.delivery);
            }
        }
        for (event, deliveries) in &came {
            if !self.expected.contains_key(event) {
                let arrival = self.arrivals[deliveries.first().copied().unwrap_or_default()][0];
                verdict.findings.push(Finding::NotWanted { arrival: arrival.clone() });
            }
            if deliveries.len() > 1 {
                let event = (*event).to_owned();
                verdict.findings.push(Finding::SeveralDeliveries { webhook: self.webhook, event });
            }
        }
        for event in self.expected.keys().filter(|event| !came.contains_key(*event)) {
            verdict.findings.push(Finding::Lost { webhook: self.webhook, event: (*event).to_owned() });
        }
    }

    /// The counts are those of the rows.
    fn check_statistics(&self, verdict: &mut Verdict) {
        let count = |status| self.history.rows.iter().filter(|row| row.status == status).count() as u64;
        let statistics = self.history.statistics;
        let (pending, success, failed) =
            (count(Status::Pending), count(Status::Success), count(Status::Failed));
        let of_rows =
            crate::history::Statistics { total: pending + success + failed, pending, success, failed };
        if statistics != of_rows {
            verdict.findings.push(Finding::Statistics { webhook: self.webhook, statistics, of_rows });
        }
    }

    /// The same attempt again: only where a fault fell into the life of its message.
    fn check_duplicates(&self, arrivals: &[&Arrival], verdict: &mut Verdict) {
        let mut firsts: BTreeMap<u32, Timestamp> = BTreeMap::new();
        for arrival in arrivals {
            let Some(first) = firsts.get(&arrival.attempt) else {
                firsts.insert(arrival.attempt, arrival.at);
                continue;
            };
            let (arrival, first) = ((*arrival).clone(), *first);
            let since = self.message_since(&arrival, &firsts);
            verdict.duplicates += 1;
            if let Some(fault) = self.explanation(since, arrival.at) {
                let by = format!("{} {}", fault.kind, fault.victim);
                *verdict.explained_by.entry(by.clone()).or_default() += 1;
                verdict.remarks.push(Finding::Duplicate { arrival, first, by });
            } else {
                verdict.unexplained += 1;
                verdict.findings.push(Finding::UnexplainedDuplicate { arrival, first });
            }
        }
    }

    /// Since when there may have been a message about an attempt: since the attempt before it, or since its event was
    /// published. From then on, however long the queue, a fault can double it (its confirm is lost and it is published
    /// again), or keep its work from being recorded or acknowledged, so that it comes again. In a quiet system that is a
    /// matter of milliseconds for a first attempt and of its delay for a later one.
    fn message_since(&self, arrival: &Arrival, firsts: &BTreeMap<u32, Timestamp>) -> Timestamp {
        let before = firsts.range(..arrival.attempt).next_back().map(|(_, at)| *at);
        let published = self.expected.get(arrival.event.as_str()).map(|accepted| accepted.since);
        before.or(published).unwrap_or(arrival.at)
    }

    /// The history of one delivery against what its receiver saw.
    fn check_delivery(&self, row: &Row, arrivals: &[&Arrival], verdict: &mut Verdict) {
        let event = self.expected.get(arrivals[0].event.as_str());
        if event.is_some_and(|accepted| accepted.event.event_type.as_str() != row.event) {
            verdict.findings.push(self.lying(row, "its type is not its event's"));
        }
        for number in 1..=row.attempts {
            if !arrivals.iter().any(|arrival| arrival.attempt == number) {
                verdict.given_up += 1;
            }
        }
        if let Some(arrival) = arrivals.iter().find(|arrival| !(1..=row.attempts).contains(&arrival.attempt))
        {
            verdict.findings.push(self.lying(row, &format!("attempt {} came", arrival.attempt)));
        }
        match row.status {
            Status::Pending => verdict.findings.push(Finding::StillPending {
                webhook: self.webhook,
                event: arrivals[0].event.clone(),
                row: row.clone(),
            }),
            Status::Success => {
                verdict.succeeded += 1;
                self.check_success(row, arrivals, verdict);
            }
            Status::Failed => {
                verdict.failed += 1;
                self.check_failure(row, arrivals, verdict);
            }
        }
    }

    fn check_success(&self, row: &Row, arrivals: &[&Arrival], verdict: &mut Verdict) {
        if !row.response_status.is_some_and(|status| (200..300).contains(&status)) || row.error.is_some() {
            verdict.findings.push(self.lying(row, "a success without a status of success"));
        }
        if let Err(reason) = answered_as_recorded(row, arrivals) {
            verdict.findings.push(self.lying(row, reason));
        }
        self.check_duration(row, verdict);
        let Some(answered_at) = row.answered_at() else {
            verdict.findings.push(self.lying(row, "a success without a time"));
            return;
        };
        let recorded_by = self.recorded_by(answered_at);
        for arrival in arrivals {
            if arrival.at > recorded_by {
                let finding = Finding::AfterSuccess { arrival: (*arrival).clone(), answered_at, recorded_by };
                verdict.findings.push(finding);
            } else if arrival.at > answered_at + RECORDED_WITHIN {
                verdict.after_unrecorded_success += 1;
                let arrival = (*arrival).clone();
                verdict.remarks.push(Finding::AfterUnrecordedSuccess { arrival, answered_at, recorded_by });
            }
        }
    }

    /// Nothing takes longer than an attempt may, unless a fault stopped whoever made it: then an answer that had come
    /// meanwhile counts.
    fn check_duration(&self, row: &Row, verdict: &mut Verdict) {
        if let (Some(started), Some(ended)) = (row.last_attempt, row.answered_at())
            && ended - started > ATTEMPT_TIMEOUT_AND_READING
            && self.explanation(started, ended).is_none()
        {
            verdict.findings.push(self.lying(row, "it took longer than an attempt may"));
        }
    }

    fn check_failure(&self, row: &Row, arrivals: &[&Arrival], verdict: &mut Verdict) {
        if row.attempts != ATTEMPTS {
            verdict.findings.push(self.lying(row, "failed before or after the last attempt"));
        }
        if row.response_status.is_some_and(|status| (200..300).contains(&status)) || row.error.is_none() {
            verdict.findings.push(self.lying(row, "a failure with a status of success, or without an error"));
        }
        self.check_duration(row, verdict);
        if row.response_status.is_some() {
            if let Err(reason) = answered_as_recorded(row, arrivals) {
                verdict.findings.push(self.lying(row, reason));
            }
        } else if !unanswered_as_recorded(row, arrivals) {
            if given_up(row) {
                verdict.given_up += 1;
            } else {
                let what = "its receiver did something else in the last attempt";
                verdict.findings.push(self.lying(row, what));
            }
        }
    }

    /// The latest fault on the way of deliveries between two instants.
    fn explanation(&self, from: Timestamp, to: Timestamp) -> Option<&'a Fault> {
        let faults = self.faults.iter().filter(|fault| is_on_the_way(fault.victim));
        faults.filter(|fault| fault.began <= to && fault.ended >= from).max_by_key(|fault| fault.began)
    }

    /// By when the record of an answer must be there. A fault at a dispatcher or at the database can hold it back until
    /// it is over, and the next can do so again; the broker has no part in it.
    fn recorded_by(&self, answered_at: Timestamp) -> Timestamp {
        let mut faults: Vec<_> = self
            .faults
            .iter()
            .filter(|fault| matches!(fault.victim, Victim::Dispatcher(_) | Victim::Postgres))
            .filter(|fault| fault.ended >= answered_at)
            .collect();
        faults.sort_by_key(|fault| fault.began);
        faults.iter().fold(answered_at + RECORDED_WITHIN, |by, fault| {
            if fault.began <= by { by.max(fault.ended + RECORDED_WITHIN) } else { by }
        })
    }

    fn lying(&self, row: &Row, what: &str) -> Finding {
        Finding::Lying { webhook: self.webhook, row: row.clone(), what: what.to_owned() }
    }
}

/// A fault there can keep an attempt from being made, from being recorded, or its message from being acknowledged.
fn is_on_the_way(victim: Victim) -> bool {
    match victim {
        Victim::Dispatcher(_) | Victim::Postgres | Victim::Rabbitmq => true,
        Victim::Api | Victim::Ingest(_) | Victim::Publisher => false,
    }
}

/// The answer in the history is the one that a receiver gave in this attempt, in the time in which it gave it.
fn answered_as_recorded(row: &Row, arrivals: &[&Arrival]) -> Result<(), &'static str> {
    let number = row.arrival().ok_or("its response is none that a receiver gave")?;
    let arrival = arrivals.iter().find(|arrival| arrival.number == number);
    let arrival = arrival.ok_or("its response was given to another delivery")?;
    if arrival.attempt != row.attempts {
        return Err("its response was given to another attempt");
    }
    if row.response_status.map(Answer::Status) != Some(arrival.answer) {
        return Err("its receiver answered something else");
    }
    let (Some(started), Some(ended)) = (row.last_attempt, row.answered_at()) else {
        return Err("an attempt without a time");
    };
    let time = started - TOLERANCE..=ended + TOLERANCE;
    if !time.contains(&arrival.at) {
        return Err("its times are not those of the request");
    }
    Ok(())
}

/// The receiver gave no answer in the last attempt, in the way that the history says.
fn unanswered_as_recorded(row: &Row, arrivals: &[&Arrival]) -> bool {
    let is_timeout = row.error.as_deref().is_some_and(|error| error.starts_with("timeout:"));
    let mut of_the_last = arrivals.iter().filter(|arrival| arrival.attempt == row.attempts);
    of_the_last.any(|arrival| match arrival.answer {
        Answer::Nothing => is_timeout,
        Answer::Reset => !is_timeout,
        Answer::Status(_) => false,
    })
}

/// The dispatcher waited as long as it may, and whatever came did not come in time: it was stopped, or the machine
/// could not keep up.
fn given_up(row: &Row) -> bool {
    let is_timeout = row.error.as_deref().is_some_and(|error| error.starts_with("timeout:"));
    is_timeout
        && row
            .duration_ms
            .is_some_and(|millis| u128::from(millis.unsigned_abs()) >= ATTEMPT_TIMEOUT.as_millis())
}

/// The status line comes in time; the body may take as long again.
const ATTEMPT_TIMEOUT_AND_READING: chrono::TimeDelta =
    chrono::TimeDelta::seconds(2 * ATTEMPT_TIMEOUT.as_secs().cast_signed());

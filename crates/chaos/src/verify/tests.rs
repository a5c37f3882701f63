//! Each broken promise is seen, and what is in order is not blamed.

use std::time::Duration;

use chrono::DateTime;
use domain::EventType::{BookingCancelled, BookingCreated};
use domain::Timestamp;
use serde_json::json;

use super::{Finding, Observations, verify};
use crate::faults::Fault;
use crate::history::{History, Row, Statistics, Status};
use crate::load::Accepted;
use crate::receivers::{Answer, Arrival};
use crate::schedule::{Kind, Link, Victim};
use crate::world::{EventPlan, Manner, Way, WebhookPlan};

/// This long after the beginning.
fn at(seconds: f64) -> Timestamp {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap() + Duration::from_secs_f64(seconds)
}

/// An event, published at this time.
fn event(id: &str, seconds: f64) -> Accepted {
    let recipients = vec!["user_0".to_owned()];
    let event = EventPlan { id: id.to_owned(), event_type: BookingCreated, recipients, way: Way::Amqp };
    Accepted { event, since: at(seconds) }
}

fn arrival(event: &str, attempt: u32, seconds: f64, answer: Answer) -> Arrival {
    Arrival {
        number: at(seconds).timestamp_millis().cast_unsigned(),
        webhook: 0,
        at: at(seconds),
        event: event.to_owned(),
        delivery: format!("d-{event}"),
        attempt,
        answer,
        wrong: None,
    }
}

/// The row after an attempt that was answered as this arrival was.
fn row(last: &Arrival, status: Status) -> Row {
    let answered = match last.answer {
        Answer::Status(status) => Some(status),
        Answer::Nothing | Answer::Reset => None,
    };
    let error = match last.answer {
        Answer::Status(200) => None,
        Answer::Status(status) => Some(format!("HTTP {status}")),
        Answer::Nothing => Some("timeout: no response within 2s".to_owned()),
        Answer::Reset => Some("no valid HTTP response: connection reset".to_owned()),
    };
    Row {
        id: last.delivery.clone(),
        event: "booking.created".to_owned(),
        status,
        attempts: last.attempt,
        last_attempt: Some(last.at - Duration::from_millis(2)),
        duration_ms: Some(10),
        response_status: answered,
        response: answered.map(|_| json!({ "arrival": last.number })),
        error,
    }
}

fn fault(victim: Victim, kind: Kind, from: f64, to: f64) -> Fault {
    Fault { began: at(from), ended: at(to), victim, kind }
}

/// One webhook, and enough events that went well for one repetition to be below 1 %.
fn in_order() -> Observations {
    let plan =
        WebhookPlan { user: "user_0".to_owned(), types: vec![BookingCreated], manner: Manner::Succeeds };
    let mut seen =
        Observations { webhooks: vec![plan], histories: vec![History::default()], ..Observations::default() };
    for n in 0..200 {
        add(&mut seen, &[arrival(&format!("e{n}"), 1, f64::from(n), Answer::Status(200))], Status::Success);
    }
    seen
}

/// Adds an event whose delivery had these attempts, and what the history says about it.
fn add(seen: &mut Observations, arrivals: &[Arrival], status: Status) {
    let last = arrivals.last().unwrap();
    seen.events
        .push(Accepted { since: arrivals[0].at - Duration::from_millis(20), ..event(&last.event, 0.0) });
    seen.arrivals.extend_from_slice(arrivals);
    seen.histories[0].rows.push(row(last, status));
    count(seen);
}

/// Makes the statistics those of the rows.
fn count(seen: &mut Observations) {
    let history = &mut seen.histories[0];
    let of = |status| history.rows.iter().filter(|row| row.status == status).count() as u64;
    let (pending, success, failed) = (of(Status::Pending), of(Status::Success), of(Status::Failed));
    history.statistics = Statistics { total: pending + success + failed, pending, success, failed };
}

fn found(seen: &Observations) -> Vec<&'static str> {
    verify(seen).findings.iter().map(Finding::name).collect()
}

#[test]
fn what_is_in_order_is_clean_and_counted() {
    let mut seen = in_order();
    let failures = [
        arrival("f", 1, 300.0, Answer::Status(500)),
        arrival("f", 2, 303.0, Answer::Reset),
        arrival("f", 3, 309.0, Answer::Nothing),
    ];
    add(&mut seen, &failures, Status::Failed);
    let verdict = verify(&seen);
    assert!(verdict.findings.is_empty(), "{:?}", verdict.findings);
    assert_eq!((verdict.deliveries, verdict.succeeded, verdict.failed, verdict.attempts), (201, 200, 1, 203));
}

#[test]
fn a_missing_delivery_is_lost() {
    let mut seen = in_order();
    seen.events.push(event("lost", 300.0));
    let verdict = verify(&seen);
    assert!(matches!(&verdict.findings[..], [Finding::Lost { event, .. }] if event == "lost"));
    assert_eq!(verdict.lost, 1);
}

#[test]
fn a_delivery_that_is_pending_at_the_end_is_found() {
    let mut seen = in_order();
    add(&mut seen, &[arrival("p", 1, 300.0, Answer::Status(500))], Status::Pending);
    assert_eq!(found(&seen), ["still pending"]);
}

#[test]
fn a_webhook_that_gets_anothers_event_or_an_unwanted_type_is_found() {
    let mut seen = in_order();
    seen.events[3].event.recipients = vec!["user_1".to_owned()];
    seen.events[4].event.event_type = BookingCancelled;
    assert_eq!(found(&seen), ["not wanted", "not wanted"]);
}

#[test]
fn an_event_that_was_never_published_is_found() {
    let mut seen = in_order();
    seen.events.remove(5);
    assert_eq!(found(&seen), ["not wanted"]);
}

#[test]
fn one_event_as_two_deliveries_is_found() {
    let mut seen = in_order();
    let again = Arrival { delivery: "other".to_owned(), ..arrival("e7", 1, 500.0, Answer::Status(200)) };
    seen.histories[0].rows.push(row(&again, Status::Success));
    seen.arrivals.push(again);
    count(&mut seen);
    assert_eq!(found(&seen), ["several deliveries of one event"]);
}

#[test]
fn a_request_that_is_not_in_the_history_is_found() {
    let mut seen = in_order();
    seen.histories[0].rows.remove(9);
    count(&mut seen);
    assert_eq!(found(&seen), ["not in the history"]);
}

#[test]
fn a_duplicate_is_explained_by_a_fault_in_the_life_of_its_message_alone() {
    let mut seen = in_order();
    let attempts = [
        arrival("t", 1, 300.0, Answer::Status(500)),
        arrival("t", 2, 302.0, Answer::Status(500)),
        arrival("t", 2, 302.5, Answer::Status(200)),
    ];
    add(&mut seen, &attempts, Status::Success);
    assert_eq!(found(&seen), ["unexplained duplicate"]);

    // The message about attempt 2 was made when attempt 1 failed.
    for (from, to, explained) in [
        (295.0, 301.0, true),
        (302.2, 302.3, true),
        (302.4, 310.0, true),
        (290.0, 299.5, false),
        (303.0, 304.0, false),
    ] {
        seen.faults = vec![fault(Victim::Dispatcher(1), Kind::Kill, from, to)];
        let verdict = verify(&seen);
        assert_eq!(verdict.unexplained == 0, explained, "a fault from {from} to {to}");
        assert_eq!(verdict.duplicates, 1);
    }
    seen.faults = vec![fault(Victim::Api, Kind::Kill, 302.2, 302.3)];
    assert_eq!(found(&seen), ["unexplained duplicate"], "management-api has no part in deliveries");
}

#[test]
fn a_first_attempt_that_came_twice_may_have_waited_in_a_queue_since_its_event_was_published() {
    let mut seen = in_order();
    let twice = [arrival("q", 1, 300.0, Answer::Status(200)), arrival("q", 1, 300.3, Answer::Status(200))];
    add(&mut seen, &twice, Status::Success);
    seen.faults = vec![fault(Victim::Rabbitmq, Kind::Kill, 250.0, 255.0)];
    assert_eq!(found(&seen), ["unexplained duplicate"]);
    seen.events.last_mut().unwrap().since = at(252.0);
    assert_eq!(found(&seen), [""; 0]);
}

#[test]
fn more_than_one_percent_of_duplicates_is_too_many_though_each_is_explained() {
    let mut seen = in_order();
    seen.faults = vec![fault(Victim::Rabbitmq, Kind::Kill, 300.0, 301.0)];
    for n in 0..4 {
        let id = format!("t{n}");
        let twice = [
            arrival(&id, 1, 300.0, Answer::Nothing),
            arrival(&id, 1, 301.0 + f64::from(n), Answer::Status(200)),
        ];
        add(&mut seen, &twice, Status::Success);
    }
    assert_eq!(found(&seen), ["too many duplicates"]);
}

#[test]
fn a_request_after_a_success_is_found_unless_a_fault_kept_the_success_from_being_recorded() {
    let mut seen = in_order();
    let success = arrival("s", 1, 300.0, Answer::Status(200));
    add(&mut seen, &[success], Status::Success);
    seen.arrivals.push(arrival("s", 1, 306.0, Answer::Status(200)));
    seen.faults = vec![fault(Victim::Rabbitmq, Kind::Kill, 300.0, 301.0)];
    assert_eq!(found(&seen), ["request after a recorded success"], "the broker does not record");

    seen.faults = vec![fault(Victim::Postgres, Kind::Pause, 300.0, 305.0)];
    assert_eq!(found(&seen), [""; 0]);
    assert_eq!(verify(&seen).after_unrecorded_success, 1);

    let freeze = Kind::Freeze(Link::Database);
    seen.faults = vec![
        fault(Victim::Dispatcher(0), freeze, 299.0, 301.0),
        fault(Victim::Postgres, Kind::Restart, 302.0, 303.5),
    ];
    assert_eq!(found(&seen), [""; 0], "one fault after the other kept it");
    seen.faults.pop();
    assert_eq!(found(&seen), ["request after a recorded success"]);
}

#[test]
fn a_history_that_says_what_was_not_so_is_found() {
    type Lie = (&'static str, fn(&mut Row));
    let lies: [Lie; 9] = [
        ("a status that was not answered", |row| row.response_status = Some(204)),
        ("another delivery's answer", |row| row.response = Some(json!({ "arrival": 77 }))),
        ("no answer", |row| row.response = None),
        ("an error beside a success", |row| row.error = Some("HTTP 500".to_owned())),
        ("another type", |row| row.event = "listing.updated".to_owned()),
        ("another attempt's answer", |row| row.attempts = 2),
        ("a failure before the last attempt", |row| row.status = Status::Failed),
        ("a time at which nothing came", |row| row.last_attempt = Some(at(900.0))),
        ("a request that took too long", |row| row.duration_ms = Some(60_000)),
    ];
    for (lie, tell) in lies {
        let mut seen = in_order();
        tell(&mut seen.histories[0].rows[0]);
        count(&mut seen);
        let found = found(&seen);
        assert!(!found.is_empty() && found.iter().all(|name| *name == "untrue history"), "{lie}: {found:?}");
    }
}

#[test]
fn an_attempt_that_took_too_long_is_found_unless_a_fault_stopped_who_made_it() {
    let mut seen = in_order();
    seen.histories[0].rows[0].duration_ms = Some(6000);
    assert_eq!(found(&seen), ["untrue history"]);
    seen.faults = vec![fault(Victim::Dispatcher(1), Kind::Pause, 0.0, 5.9)];
    assert_eq!(found(&seen), [""; 0]);
}

#[test]
fn a_failure_that_the_receiver_did_not_cause_is_found_unless_the_attempt_was_given_up() {
    let mut seen = in_order();
    let attempts = [
        arrival("f", 1, 300.0, Answer::Status(500)),
        arrival("f", 2, 303.0, Answer::Status(500)),
        arrival("f", 3, 309.0, Answer::Nothing),
    ];
    add(&mut seen, &attempts, Status::Failed);
    // In truth the receiver succeeded.
    seen.arrivals.last_mut().unwrap().answer = Answer::Status(200);
    assert_eq!(found(&seen), ["untrue history"], "a timeout after 10 ms is none");
    seen.histories[0].rows.last_mut().unwrap().duration_ms = Some(2001);
    assert_eq!(found(&seen), [""; 0]);
    assert_eq!(verify(&seen).given_up, 1);
}

#[test]
fn attempts_that_never_came_are_counted_and_many_are_too_many() {
    let mut seen = in_order();
    for n in 0..3 {
        assert_eq!(found(&seen), [""; 0]);
        assert_eq!(verify(&seen).given_up, n);
        let id = format!("u{n}");
        let attempts =
            [arrival(&id, 1, 300.0, Answer::Status(500)), arrival(&id, 3, 309.0, Answer::Status(200))];
        add(&mut seen, &attempts, Status::Success);
    }
    assert_eq!(found(&seen), ["too many attempts given up"]);
}

#[test]
fn a_row_of_which_nothing_came_is_found() {
    let mut seen = in_order();
    let never = arrival("never", 1, 300.0, Answer::Status(200));
    seen.histories[0].rows.push(row(&never, Status::Success));
    count(&mut seen);
    assert_eq!(found(&seen), ["untrue history"]);
}

#[test]
fn counts_that_are_not_those_of_the_rows_are_found() {
    let mut seen = in_order();
    seen.histories[0].statistics.success += 1;
    assert_eq!(found(&seen), ["wrong statistics"]);
}

#[test]
fn a_request_with_a_wrong_body_or_signature_is_found() {
    let mut seen = in_order();
    seen.arrivals[0].wrong = Some("the body is not the event's".to_owned());
    assert_eq!(found(&seen), ["wrong request"]);
}

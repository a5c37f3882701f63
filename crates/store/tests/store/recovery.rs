//! What has lost its message is found, and nothing else.

use std::time::Duration;

use domain::EventType::BookingCreated;
use domain::Timestamp;
use domain::protocol::Fence;
use store::{AttemptResult, Lost, LostCounts, LostEvents};
use testkit::TestDatabase;

use crate::support::{attempt, delivery, event, given_deliveries, given_webhook, now, statistics, store_of};

fn ago(seconds: u64) -> Timestamp {
    now() - Duration::from_secs(seconds)
}

fn before(before: Timestamp) -> Lost {
    Lost { since: None, before }
}

#[tokio::test]
async fn overdue_deliveries_are_issued_anew_once_oldest_first_with_all_that_their_jobs_say() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let (older, newer, recent) = (event(Some("a"), ago(90)), event(Some("b"), ago(60)), event(None, ago(5)));
    for (event, at) in [(&older, ago(90)), (&newer, ago(60)), (&recent, ago(5))] {
        store.insert_events(std::slice::from_ref(event), at).await.unwrap();
        store.record_fan_out(&[delivery(event.id, webhook.id)], &[event.id], at).await.unwrap();
    }
    let first = delivery(older.id, webhook.id).id;
    store.record_attempts(&[attempt(first, 1, AttemptResult::Retry { at: ago(70) })]).await.unwrap();

    let mut session = store.recovery();
    let lost = before(ago(30));
    assert_eq!(session.count(lost).await.unwrap(), LostCounts { events: 0, deliveries: 2 });
    let jobs = session.reissue_overdue(lost, 1, now()).await.unwrap();
    let job = &jobs[0];
    assert_eq!((jobs.len(), job.delivery, job.webhook, job.event), (1, first, webhook.id, older.id));
    assert_eq!((job.attempts, job.fence, job.public_id.as_str()), (1, Fence::FIRST.next(), "a"));
    assert_eq!((job.event_type, job.body_bytes as usize), (BookingCreated, older.body.len()));
    assert_eq!(job.timestamp, older.timestamp);
    assert_eq!(session.reissue_overdue(lost, 10, now()).await.unwrap()[0].event, newer.id);
    assert!(session.reissue_overdue(lost, 10, now()).await.unwrap().is_empty(), "they are due now");
    assert_eq!(statistics(&store, "alice", webhook.id).await.pending, 3);
}

#[tokio::test]
async fn what_is_done_or_not_due_or_older_than_asked_is_left() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let ids = given_deliveries(&store, webhook.id, 3, ago(90)).await;
    let later = now() + Duration::from_secs(60);
    store.record_attempts(&[attempt(ids[0], 1, AttemptResult::Success)]).await.unwrap();
    store.record_attempts(&[attempt(ids[1], 1, AttemptResult::Retry { at: later })]).await.unwrap();
    let mut session = store.recovery();
    let recent = Lost { since: Some(ago(80)), before: now() };
    assert_eq!(session.count(recent).await.unwrap(), LostCounts::default());
    assert!(session.reissue_overdue(recent, 10, now()).await.unwrap().is_empty());
    assert_eq!(session.count(before(now())).await.unwrap().deliveries, 1);
}

#[tokio::test]
async fn events_that_were_not_fanned_out_are_found_again_only_when_they_are_late_again() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let (lost, done, recent, aside) =
        (event(Some("lost"), ago(90)), event(None, ago(90)), event(None, ago(5)), event(None, ago(90)));
    for (event, at) in [(&lost, ago(90)), (&done, ago(90)), (&recent, ago(5)), (&aside, ago(90))] {
        store.insert_events(std::slice::from_ref(event), at).await.unwrap();
    }
    store.record_fan_out(&[], &[done.id], ago(80)).await.unwrap();
    store.leave_events(&[aside.id, done.id], None).await.unwrap();

    let mut session = store.recovery();
    let late = before(ago(30));
    assert_eq!(session.count(late).await.unwrap(), LostCounts { events: 2, deliveries: 0 });
    let found = session.requeue_events(late, LostEvents::Overdue, 10, now()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].id, &found[0].body), (lost.id, &lost.body));
    assert_eq!(found[0].recipients, lost.recipients);
    assert!(session.requeue_events(late, LostEvents::Overdue, 10, now()).await.unwrap().is_empty());
    let found = session.requeue_events(late, LostEvents::SetAside, 10, now()).await.unwrap();
    assert_eq!(found.iter().map(|event| event.id).collect::<Vec<_>>(), [aside.id]);
}

#[tokio::test]
async fn one_session_leads_and_the_next_when_it_ends() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let (mut one, mut other) = (store.recovery(), store.recovery());
    assert!(one.lead().await.unwrap() && one.lead().await.unwrap());
    assert!(!other.lead().await.unwrap());
    drop(one);
    testkit::eventually("the other leads", testkit::DEADLINE, async || {
        other.lead().await.unwrap().then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_came_out_of_a_queue_counts_once_it_must_be_done_with() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let mut session = store.recovery();
    let soon = Duration::from_millis(50);
    assert_eq!(session.worked_off("q", soon).await.unwrap(), None);
    let (earlier, later) = (ago(10), ago(5));
    store.record_progress("q", later).await.unwrap();
    store.record_progress("q", earlier).await.unwrap();
    assert_eq!(session.worked_off("q", Duration::from_secs(60)).await.unwrap(), None, "it is still held");
    testkit::eventually("it is done with", testkit::DEADLINE, async || {
        let put_at = session.worked_off("q", soon).await.unwrap()?;
        assert_eq!(put_at, later);
        Some(())
    })
    .await;
    assert_eq!(session.worked_off("other", soon).await.unwrap(), None);
    // The database may have been away: what was taken may have been held for as long.
    assert_eq!(store.recovery().worked_off("q", soon).await.unwrap(), None);
}

#[tokio::test]
async fn what_dispatchers_have_to_do_is_counted_and_what_waits_for_something_else_is_not() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let (events, at) = ([0; 6].map(|_| event(None, now())), now());
    store.insert_events(&events[..5], at).await.unwrap();
    store.insert_events(&events[5..], ago(60)).await.unwrap();
    let count =
        async |most| store.count_waiting_events(ago(10)..at + Duration::from_secs(10), most).await.unwrap();
    assert_eq!(
        (count(100).await, count(3).await),
        (5, 3),
        "what was handed over a minute ago waits for something"
    );
    store.leave_events(&[events[0].id], None).await.unwrap();
    store.leave_events(&[events[1].id], Some(at + Duration::from_secs(1800))).await.unwrap();
    store.record_fan_out(&[], &[events[2].id], at).await.unwrap();
    assert_eq!(count(100).await, 2);
}

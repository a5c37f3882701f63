use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use domain::EventType::{BookingCancelled, BookingCreated};
use domain::protocol::DeliveryStatus;
use store::{
    AttemptResult, DeliveryFilter, FirstAttempt, NewDelivery, Page, PendingDelivery, Unwritten,
    WebhookChanges,
};
use testkit::TestDatabase;
use uuid::Uuid;

use crate::support::{
    attempt, counts, delivery, event, event_id, given_webhook, now, statistics, store_of, user,
};

fn first_attempt(delivery: NewDelivery, result: AttemptResult) -> FirstAttempt {
    FirstAttempt { delivery, created_at: now(), made: attempt(delivery.id, 1, result), ends_event: false }
}

#[tokio::test]
async fn a_first_attempt_is_written_with_its_delivery_once() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    let due = now() + Duration::from_mins(1);
    let results = [AttemptResult::Success, AttemptResult::Retry { at: due }, AttemptResult::Failed];
    let attempts = results.map(|result| {
        let delivery = delivery(event_id(now()), webhook);
        first_attempt(delivery, result)
    });
    let ids: HashSet<_> = attempts.iter().map(|first| first.delivery.id).collect();
    assert_eq!(store.settle(&attempts).await.unwrap(), ids);
    assert_eq!(statistics(&store, "alice", webhook).await, counts(1, 1, 1));

    let other = attempts
        .clone()
        .map(|first| FirstAttempt { made: attempt(first.delivery.id, 1, AttemptResult::Failed), ..first });
    assert_eq!(store.settle(&other).await.unwrap(), HashSet::new(), "what is written is not changed");
    assert_eq!(statistics(&store, "alice", webhook).await, counts(1, 1, 1));

    let page = Page { number: 1, size: 10 };
    let listed = store.list_deliveries(&user("alice"), webhook, DeliveryFilter::default(), page).await;
    for listed in listed.unwrap().unwrap().deliveries {
        let first = attempts.iter().find(|first| first.delivery.id == listed.id).unwrap();
        let (status, next) = match first.made.result {
            AttemptResult::Success => (DeliveryStatus::Success, None),
            AttemptResult::Retry { at } => (DeliveryStatus::Pending, Some(at)),
            AttemptResult::Failed => (DeliveryStatus::Failed, None),
        };
        assert_eq!((listed.status, listed.next_attempt_at, listed.attempts), (status, next, 1));
        assert_eq!(listed.created_at, first.created_at);
        assert_eq!(listed.last_attempt_at, Some(first.made.started_at));
        assert_eq!(listed.response_status, first.made.response_status);
        assert_eq!(listed.response_body, first.made.response_body);
        assert_eq!(listed.error, first.made.error);
    }

    let second = attempt(attempts[1].delivery.id, 2, AttemptResult::Success);
    assert_eq!(
        store.record_attempts(&[second]).await.unwrap().len(),
        1,
        "the next attempt goes on from there"
    );
    assert_eq!(statistics(&store, "alice", webhook).await, counts(0, 2, 1));
}

#[tokio::test]
async fn a_delivery_that_a_message_stands_for_is_written_once_and_its_attempt_recorded_on_it() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    let delivery = delivery(event_id(now()), webhook);
    let due = now() + Duration::from_secs(30);
    let pending = PendingDelivery { delivery, created_at: now(), due, ends_event: false };
    assert_eq!(store.write_pending(&[pending]).await.unwrap(), HashSet::from([delivery.id]));
    assert_eq!(store.write_pending(&[pending]).await.unwrap(), HashSet::new());
    assert_eq!(statistics(&store, "alice", webhook).await, counts(1, 0, 0));

    let made = attempt(delivery.id, 1, AttemptResult::Success);
    let first = FirstAttempt { delivery, created_at: now(), made: made.clone(), ends_event: false };
    assert_eq!(store.settle(&[first]).await.unwrap(), HashSet::new());
    assert_eq!(store.record_attempts(&[made]).await.unwrap().len(), 1);
    assert_eq!(statistics(&store, "alice", webhook).await, counts(0, 1, 0));
}

#[tokio::test]
async fn only_active_subscribed_existing_webhooks_are_wanted() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let active = given_webhook(&store, "alice", &[BookingCancelled, BookingCreated]).await;
    let inactive = given_webhook(&store, "alice", &[BookingCreated]).await;
    let off = WebhookChanges { active: Some(false), ..WebhookChanges::default() };
    store.update_webhook(&user("alice"), inactive.id, off, now()).await.unwrap();
    let narrow = given_webhook(&store, "alice", &[BookingCancelled]).await;
    let deleted = given_webhook(&store, "alice", &[BookingCreated]).await;
    assert!(store.delete_webhook(&user("alice"), deleted.id).await.unwrap());

    let asked = [active.id, inactive.id, narrow.id, deleted.id].map(|id| (id, BookingCreated));
    let wanted = store.wanted(&asked).await.unwrap();
    assert_eq!(wanted.keys().copied().collect::<Vec<_>>(), [(active.id, BookingCreated)]);
    let revision = wanted[&(active.id, BookingCreated)];
    let other = WebhookChanges { url: Some("https://other.example/".into()), ..WebhookChanges::default() };
    store.update_webhook(&user("alice"), active.id, other, now()).await.unwrap();
    assert_eq!(store.wanted(&asked).await.unwrap()[&(active.id, BookingCreated)], revision + 1);
}

#[tokio::test]
async fn a_second_look_finds_what_was_written_and_changed_meanwhile() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    let [untouched, written] = [(); 2].map(|()| delivery(event_id(now()), webhook));
    let pending = PendingDelivery { delivery: written, created_at: now(), due: now(), ends_event: false };
    store.write_pending(&[pending]).await.unwrap();

    let asked = [(untouched.id, webhook), (written.id, webhook)];
    let found = store.look_again(&asked).await.unwrap();
    assert!(matches!(found[&untouched.id], Unwritten::Wanted { .. }), "{found:?}");
    assert_eq!(found[&written.id], Unwritten::Written);

    let off = WebhookChanges { active: Some(false), ..WebhookChanges::default() };
    store.update_webhook(&user("alice"), webhook, off, now()).await.unwrap();
    assert_eq!(store.look_again(&asked).await.unwrap()[&untouched.id], Unwritten::Unwanted);
    store.delete_webhook(&user("alice"), webhook).await.unwrap();
    assert_eq!(store.look_again(&asked).await.unwrap()[&untouched.id], Unwritten::Unwanted);
}

#[tokio::test]
async fn events_are_marked_by_themselves_or_with_their_only_delivery() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    let events: Vec<_> = (0..5).map(|_| event(None, now())).collect();
    store.insert_events(&events, now()).await.unwrap();
    let client = database.connect().await;
    let waiting = async || -> BTreeSet<Uuid> {
        let rows = client.query("SELECT event_id FROM events_to_fan_out", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let ids: Vec<_> = events.iter().map(|event| event.id).collect();
    let those = |places: &[usize]| places.iter().map(|place| ids[*place].uuid()).collect::<BTreeSet<_>>();
    assert_eq!(waiting().await, those(&[0, 1, 2, 3, 4]));
    store.mark_fanned_out(&ids[..1]).await.unwrap();
    assert_eq!(waiting().await, those(&[1, 2, 3, 4]));
    store.mark_fanned_out(&ids[..1]).await.unwrap();

    let first = |event: usize, ends_event: bool| FirstAttempt {
        ends_event,
        ..first_attempt(delivery(ids[event], webhook), AttemptResult::Success)
    };
    store.settle(&[first(1, true), first(2, false)]).await.unwrap();
    assert_eq!(waiting().await, those(&[2, 3, 4]));
    let pending = |event: usize, ends_event: bool| PendingDelivery {
        delivery: delivery(ids[event], webhook),
        created_at: now(),
        due: now(),
        ends_event,
    };
    store.write_pending(&[pending(3, false), pending(4, true)]).await.unwrap();
    assert_eq!(waiting().await, those(&[2, 3]));
    // Written already, it is as good as written now.
    assert_eq!(store.settle(&[first(3, true)]).await.unwrap(), HashSet::new());
    assert_eq!(waiting().await, those(&[2]));
}

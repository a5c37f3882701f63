use std::collections::HashSet;
use std::time::Duration;

use domain::EventType::{BookingCancelled, BookingCreated};
use domain::protocol::{DeliveryStatus, WebhookState};
use store::{AttemptResult, TestDeliveryError, WebhookChanges};
use testkit::TestDatabase;

use crate::support::{
    PLENTY, attempt, counts, delivery, event, event_id, given_deliveries, given_webhook, now, statistics,
    store_of, user,
};

#[tokio::test]
async fn fanning_out_again_finds_the_same_deliveries() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let events = [event(None, now()), event(None, now())];
    store.insert_events(&events, now()).await.unwrap();
    let deliveries = events.each_ref().map(|event| delivery(event.id, webhook.id));
    let completed = events.each_ref().map(|event| event.id);

    let new = store.record_fan_out(&deliveries, &completed, now()).await.unwrap();
    assert_eq!(new, deliveries.iter().map(|delivery| delivery.id).collect());
    let again = store.record_fan_out(&deliveries, &completed, now()).await.unwrap();
    assert_eq!(again, HashSet::new());
    assert_eq!(statistics(&store, "alice", webhook.id).await, counts(2, 0, 0));

    let client = database.connect().await;
    let open = client.query_one("SELECT count(*) FROM events_to_fan_out", &[]).await.unwrap();
    assert_eq!(open.get::<_, i64>(0), 0, "completed events are marked");
}

#[tokio::test]
async fn only_active_subscribed_existing_webhooks_get_deliveries() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let active = given_webhook(&store, "alice", &[BookingCancelled, BookingCreated]).await;
    let other_type = given_webhook(&store, "alice", &[BookingCancelled]).await;
    let inactive = given_webhook(&store, "alice", &[BookingCreated]).await;
    let off = WebhookChanges { active: Some(false), ..WebhookChanges::default() };
    store.update_webhook(&user("alice"), inactive.id, off, now()).await.unwrap();
    let deleted = given_webhook(&store, "alice", &[BookingCreated]).await;
    assert!(store.delete_webhook(&user("alice"), deleted.id).await.unwrap());

    let event = event_id(now());
    let deliveries = [active.id, other_type.id, inactive.id, deleted.id].map(|id| delivery(event, id));
    let new = store.record_fan_out(&deliveries, &[event], now()).await.unwrap();
    assert_eq!(new, HashSet::from([deliveries[0].id]));
    assert_eq!(statistics(&store, "alice", other_type.id).await, counts(0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_dispatchers_fanning_out_the_same_events_in_any_order_count_exactly() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let mut webhooks = Vec::new();
    for _ in 0..10 {
        webhooks.push(given_webhook(&store, "alice", &[BookingCreated]).await.id);
    }
    for _ in 0..5 {
        let events: Vec<_> = (0..40).map(|_| event_id(now())).collect();
        let all: Vec<_> = events
            .iter()
            .flat_map(|event| webhooks.iter().map(|webhook| delivery(*event, *webhook)))
            .collect();
        let dispatchers = (0..8).map(|dispatcher| {
            let (store, mut mine, mut events) = (store.clone(), all.clone(), events.clone());
            let (middle, half) = (dispatcher * mine.len() / 8, dispatcher * events.len() / 8);
            mine.rotate_left(middle);
            events.rotate_left(half);
            if dispatcher % 2 == 1 {
                mine.reverse();
                events.reverse();
            }
            tokio::spawn(async move { store.record_fan_out(&mine, &events, now()).await })
        });
        let mut new = 0;
        for dispatcher in dispatchers.collect::<Vec<_>>() {
            new += dispatcher.await.unwrap().expect("no deadlock").len();
        }
        assert_eq!(new, all.len(), "each delivery is new once");
    }
    for webhook in webhooks {
        assert_eq!(statistics(&store, "alice", webhook).await, counts(200, 0, 0));
    }
}

#[tokio::test]
async fn a_delivery_is_checked_with_its_webhook_and_where_asked_with_its_body() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let events = [event(Some("a"), now()), event(Some("b"), now())];
    store.insert_events(&events, now()).await.unwrap();
    let [with, without] = events.each_ref().map(|event| delivery(event.id, webhook.id));
    store.record_fan_out(&[with, without], &[], now()).await.unwrap();
    let absent = delivery(event_id(now()), webhook.id).id;

    let wanted = [(with.id, true), (without.id, false), (absent, true)];
    let states = store.check_deliveries(&wanted).await.unwrap();
    assert_eq!(states.len(), 2, "{states:?}");
    assert_eq!(states[&with.id].row.status, DeliveryStatus::Pending);
    assert_eq!(states[&with.id].row.attempts, 0);
    assert_eq!(states[&with.id].body, Some(events[0].body.clone()));
    assert_eq!(states[&without.id].body, None);
    let WebhookState::Active { revision } = states[&with.id].row.webhook else { panic!("{states:?}") };

    let other = WebhookChanges { url: Some("https://other.example/".into()), ..WebhookChanges::default() };
    store.update_webhook(&user("alice"), webhook.id, other, now()).await.unwrap();
    let states = store.check_deliveries(&wanted).await.unwrap();
    assert_eq!(states[&with.id].row.webhook, WebhookState::Active { revision: revision + 1 });

    let off = WebhookChanges { active: Some(false), ..WebhookChanges::default() };
    store.update_webhook(&user("alice"), webhook.id, off, now()).await.unwrap();
    let states = store.check_deliveries(&wanted).await.unwrap();
    assert_eq!(states[&with.id].row.webhook, WebhookState::Disabled);

    store.delete_webhook(&user("alice"), webhook.id).await.unwrap();
    let states = store.check_deliveries(&wanted).await.unwrap();
    assert_eq!(states[&with.id].row.webhook, WebhookState::Gone);
}

#[tokio::test]
async fn deliveries_of_many_days_are_found_together() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let mut ids = Vec::new();
    for days in 0..3 {
        let at = now() + Duration::from_secs(days * 24 * 3600);
        ids.extend(given_deliveries(&store, webhook.id, 1, at).await);
    }
    let wanted: Vec<_> = ids.iter().map(|id| (*id, true)).collect();
    assert_eq!(store.check_deliveries(&wanted).await.unwrap().len(), 3);
    assert_eq!(store.reissue_unattempted(&ids, now()).await.unwrap().len(), 3);
    let attempts: Vec<_> = ids.iter().map(|id| attempt(*id, 1, AttemptResult::Success)).collect();
    assert_eq!(store.record_attempts(&attempts).await.unwrap().len(), 3);
    assert_eq!(store.reissue_unattempted(&ids, now()).await.unwrap().len(), 0);
}

#[tokio::test]
async fn nothing_asked_is_nothing_answered() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    assert!(store.check_deliveries(&[]).await.unwrap().is_empty());
    assert!(store.reissue_unattempted(&[], now()).await.unwrap().is_empty());
    assert!(store.record_fan_out(&[], &[], now()).await.unwrap().is_empty());
    assert!(store.record_attempts(&[]).await.unwrap().is_empty());
    store.abandon_deliveries(&[]).await.unwrap();
}

#[tokio::test]
async fn abandoned_deliveries_fail_once_and_finished_ones_stay() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let ids = given_deliveries(&store, webhook.id, 3, now()).await;
    store.record_attempts(&[attempt(ids[0], 1, AttemptResult::Success)]).await.unwrap();
    for _ in 0..2 {
        store.abandon_deliveries(&[(ids[0], "gone"), (ids[1], "the webhook was disabled")]).await.unwrap();
    }
    assert_eq!(statistics(&store, "alice", webhook.id).await, counts(1, 1, 1));
    let page = store::Page { number: 1, size: 10 };
    let filter = store::DeliveryFilter { status: Some(DeliveryStatus::Failed), event: None };
    let failed = store.list_deliveries(&user("alice"), webhook.id, filter, page).await.unwrap().unwrap();
    assert_eq!(failed.deliveries.len(), 1);
    assert_eq!(failed.deliveries[0].id, ids[1]);
    assert_eq!(failed.deliveries[0].error.as_deref(), Some("the webhook was disabled"));
    assert_eq!(failed.deliveries[0].next_attempt_at, None);
    assert_eq!(failed.deliveries[0].attempts, 0);
}

#[tokio::test]
async fn a_test_delivery_is_stored_with_its_event_unless_the_webhook_takes_none() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let sample = event(None, now());
    let made = delivery(sample.id, webhook.id);
    store.create_test_delivery(&user("alice"), &sample, made, PLENTY, now()).await.unwrap();
    let states = store.check_deliveries(&[(made.id, true)]).await.unwrap();
    assert_eq!(states[&made.id].body, Some(sample.body.clone()));
    assert_eq!(statistics(&store, "alice", webhook.id).await, counts(1, 0, 0));
    let client = database.connect().await;
    let open = client.query_one("SELECT count(*) FROM events_to_fan_out", &[]).await.unwrap();
    assert_eq!(open.get::<_, i64>(0), 0, "nobody else gets it");

    let off = WebhookChanges { active: Some(false), ..WebhookChanges::default() };
    store.update_webhook(&user("alice"), webhook.id, off, now()).await.unwrap();
    let refused = event(None, now());
    let unmade = delivery(refused.id, webhook.id);
    let made = store.create_test_delivery(&user("alice"), &refused, unmade, PLENTY, now()).await;
    assert!(matches!(made, Err(TestDeliveryError::NotTaken)), "{made:?}");
    assert_eq!(store.load_events(&[refused.id]).await.unwrap(), [], "no event without its delivery");
}

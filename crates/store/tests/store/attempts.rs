use std::collections::HashMap;
use std::time::Duration;

use domain::EventType::BookingCreated;
use domain::protocol::{DeliveryStatus, Fence};
use domain::{DeliveryId, WebhookId};
use store::{AttemptResult, Delivery, DeliveryFilter, Page, Store};
use testkit::TestDatabase;
use tokio_postgres::Client;

use crate::support::{attempt, counts, given_deliveries, given_webhook, now, statistics, store_of, user};

/// One delivery to one webhook of alice.
async fn given_delivery(store: &Store) -> (WebhookId, DeliveryId) {
    let webhook = given_webhook(store, "alice", &[BookingCreated]).await;
    (webhook.id, given_deliveries(store, webhook.id, 1, now()).await[0])
}

async fn the_delivery(store: &Store, webhook: WebhookId) -> Delivery {
    let page = Page { number: 1, size: 10 };
    let found = store.list_deliveries(&user("alice"), webhook, DeliveryFilter::default(), page).await;
    let mut deliveries = found.unwrap().unwrap().deliveries;
    assert_eq!(deliveries.len(), 1);
    deliveries.remove(0)
}

/// The attempts that are kept beside the delivery's row.
async fn archived(client: &Client) -> Vec<(i32, Option<String>)> {
    let rows =
        client.query("SELECT attempt, response_body FROM delivery_attempts ORDER BY attempt", &[]).await;
    rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn the_row_tells_the_last_attempt_and_the_earlier_ones_are_kept_beside_it() {
    let database = TestDatabase::create().await;
    let (store, client) = (store_of(&database), database.connect().await);
    let (webhook, id) = given_delivery(&store).await;
    let at = now() + Duration::from_secs(60);
    let first = attempt(id, 1, AttemptResult::Retry { at });
    assert_eq!(
        store.record_attempts(std::slice::from_ref(&first)).await.unwrap(),
        HashMap::from([(id, Fence::FIRST)])
    );
    assert_eq!(archived(&client).await, []);
    let delivery = the_delivery(&store, webhook).await;
    assert_eq!(delivery.status, DeliveryStatus::Pending);
    assert_eq!(delivery.attempts, 1);
    assert_eq!(delivery.last_attempt_at, Some(first.started_at));
    assert_eq!(delivery.next_attempt_at, Some(at));
    assert_eq!(delivery.duration_ms, Some(12));
    assert_eq!(delivery.response_status, Some(500));
    assert_eq!(delivery.response_body.as_deref(), Some("answer 1"));
    assert_eq!(delivery.error.as_deref(), Some("error 1"));
    assert_eq!(statistics(&store, "alice", webhook).await, counts(1, 0, 0));

    store.record_attempts(&[attempt(id, 2, AttemptResult::Retry { at })]).await.unwrap();
    store.record_attempts(&[attempt(id, 3, AttemptResult::Success)]).await.unwrap();
    assert_eq!(archived(&client).await, [(1, Some("answer 1".into())), (2, Some("answer 2".into()))]);
    let delivery = the_delivery(&store, webhook).await;
    assert_eq!((delivery.status, delivery.attempts), (DeliveryStatus::Success, 3));
    assert_eq!((delivery.error, delivery.next_attempt_at), (None, None));
    assert_eq!(statistics(&store, "alice", webhook).await, counts(0, 1, 0));
}

#[tokio::test]
async fn an_attempt_counts_once_and_only_after_the_ones_before_it() {
    let database = TestDatabase::create().await;
    let (store, client) = (store_of(&database), database.connect().await);
    let (webhook, id) = given_delivery(&store).await;
    let retry = AttemptResult::Retry { at: now() };
    let nothing = HashMap::new();
    assert_eq!(store.record_attempts(&[attempt(id, 2, AttemptResult::Success)]).await.unwrap(), nothing);
    assert_eq!(
        store.record_attempts(&[attempt(id, 1, retry)]).await.unwrap(),
        HashMap::from([(id, Fence::FIRST)])
    );
    assert_eq!(store.record_attempts(&[attempt(id, 1, AttemptResult::Failed)]).await.unwrap(), nothing);
    assert_eq!(store.record_attempts(&[attempt(id, 2, AttemptResult::Failed)]).await.unwrap().len(), 1);
    for number in [2, 3] {
        let late = attempt(id, number, AttemptResult::Success);
        assert_eq!(store.record_attempts(&[late]).await.unwrap(), nothing, "the delivery has failed");
    }
    assert_eq!(archived(&client).await, [(1, Some("answer 1".into()))]);
    assert_eq!(the_delivery(&store, webhook).await.status, DeliveryStatus::Failed);
    assert_eq!(statistics(&store, "alice", webhook).await, counts(0, 0, 1));
}

#[tokio::test]
async fn what_is_not_recorded_is_not_kept_beside_the_row_either() {
    let database = TestDatabase::create().await;
    let (store, client) = (store_of(&database), database.connect().await);
    let (_, id) = given_delivery(&store).await;
    store.record_attempts(&[attempt(id, 1, AttemptResult::Retry { at: now() })]).await.unwrap();
    store.abandon_deliveries(&[(id, "the webhook was deleted")]).await.unwrap();
    store.record_attempts(&[attempt(id, 2, AttemptResult::Success)]).await.unwrap();
    assert_eq!(archived(&client).await, [], "the row still tells attempt 1");
}

#[tokio::test]
async fn a_response_with_nul_is_kept_as_text() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let (webhook, id) = given_delivery(&store).await;
    let mut made = attempt(id, 1, AttemptResult::Failed);
    made.response_body = Some("a\0b".to_owned());
    made.error = Some("c\0d".to_owned());
    store.record_attempts(&[made]).await.unwrap();
    let delivery = the_delivery(&store, webhook).await;
    assert_eq!(delivery.response_body.as_deref(), Some("a\u{fffd}b"));
    assert_eq!(delivery.error.as_deref(), Some("c\u{fffd}d"));
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_dispatchers_recording_the_same_attempts_in_any_order_count_each_once() {
    const DELIVERIES: usize = 300;
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let mut ids = Vec::new();
    let mut webhooks = Vec::new();
    for _ in 0..5 {
        let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
        ids.extend(given_deliveries(&store, webhook.id, DELIVERIES / 5, now()).await);
        webhooks.push(webhook.id);
    }
    for number in 1..=5 {
        let result = if number == 5 { AttemptResult::Success } else { AttemptResult::Retry { at: now() } };
        let dispatchers = (0..8).map(|dispatcher| {
            let (store, mut ids) = (store.clone(), ids.clone());
            ids.rotate_left(dispatcher * DELIVERIES / 8);
            if dispatcher % 2 == 1 {
                ids.reverse();
            }
            let attempts: Vec<_> = ids.into_iter().map(|id| attempt(id, number, result)).collect();
            tokio::spawn(async move { store.record_attempts(&attempts).await })
        });
        let mut recorded = 0;
        for dispatcher in dispatchers.collect::<Vec<_>>() {
            recorded += dispatcher.await.unwrap().expect("no deadlock").len();
        }
        assert_eq!(recorded, DELIVERIES, "each attempt {number} is recorded once");
    }
    for webhook in webhooks {
        assert_eq!(statistics(&store, "alice", webhook).await, counts(0, DELIVERIES as u64 / 5, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recording_and_abandoning_the_same_deliveries_ends_each_once() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    let ids = given_deliveries(&store, webhook, 400, now()).await;
    let tasks = (0..8).map(|task| {
        let (store, mut ids) = (store.clone(), ids.clone());
        ids.rotate_left(task * 50);
        tokio::spawn(async move {
            if task % 2 == 0 {
                let made: Vec<_> = ids.iter().map(|id| attempt(*id, 1, AttemptResult::Success)).collect();
                store.record_attempts(&made).await.expect("no deadlock");
            } else {
                ids.reverse();
                let abandoned: Vec<_> = ids.iter().map(|id| (*id, "gone")).collect();
                store.abandon_deliveries(&abandoned).await.expect("no deadlock");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let statistics = statistics(&store, "alice", webhook).await;
    assert_eq!((statistics.pending, statistics.total()), (0, 400), "{statistics:?}");
}

//! How often developers may cause attempts by themselves.

use std::time::Duration;

use domain::EventType::BookingCreated;
use domain::{Timestamp, WebhookId};
use store::{ManualLimits, Store, TestDeliveryError};
use testkit::TestDatabase;

use crate::support::{delivery, event, given_webhook, now, store_of, user};

const LIMITS: ManualLimits = ManualLimits { per_webhook: 5, per_user: 8, per_user_day: 20 };

const MINUTES: Duration = Duration::from_secs(120);

async fn send(store: &Store, webhook: WebhookId, at: Timestamp) -> Result<(), TestDeliveryError> {
    let sample = event(None, now());
    let made = delivery(sample.id, webhook);
    store.create_test_delivery(&user("alice"), &sample, made, LIMITS, at).await
}

/// How long to wait, where the attempt is refused.
async fn wait(store: &Store, webhook: WebhookId, at: Timestamp) -> Duration {
    match send(store, webhook, at).await {
        Err(TestDeliveryError::TooMany { wait }) => wait,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_webhook_gets_so_many_in_any_minute_and_what_is_refused_leaves_nothing() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    let start = now();
    let at = |seconds| start + Duration::from_secs(seconds);
    for seconds in [0, 10, 20, 30, 40] {
        send(&store, webhook, at(seconds)).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(wait(&store, webhook, at(45)).await, Duration::from_secs(15));
    }
    send(&store, webhook, at(60)).await.unwrap();
    assert_eq!(wait(&store, webhook, at(60)).await, Duration::from_secs(10));
    send(&store, webhook, at(70)).await.unwrap();

    let client = database.connect().await;
    for table in ["events", "deliveries"] {
        let count = client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap();
        assert_eq!(count.get::<_, i64>(0), 7, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_is_exact_however_many_ask_at_once() {
    let database = TestDatabase::create().await;
    let replicas = [store_of(&database), store_of(&database)];
    let webhook = given_webhook(&replicas[0], "alice", &[BookingCreated]).await.id;
    let at = now();
    let asking: Vec<_> = (0..40)
        .map(|number| {
            let store = replicas[number % 2].clone();
            tokio::spawn(async move { send(&store, webhook, at).await })
        })
        .collect();
    let mut sent = 0;
    for asked in asking {
        match asked.await.unwrap() {
            Ok(()) => sent += 1,
            Err(TestDeliveryError::TooMany { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(sent, LIMITS.per_webhook);
}

#[tokio::test]
async fn making_webhooks_anew_gets_a_user_no_more() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let at = now();
    for _ in 0..2 {
        let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
        for _ in 0..4 {
            send(&store, webhook, at).await.unwrap();
        }
        store.delete_webhook(&user("alice"), webhook).await.unwrap();
    }
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    assert_eq!(wait(&store, webhook, at).await, Duration::from_secs(60));
}

#[tokio::test]
async fn a_user_gets_so_many_in_any_day_and_maintenance_does_not_forget_that() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let start = now();
    let hour = |hours: u64| start + Duration::from_hours(hours);
    // Patient, and each to a webhook that is made anew.
    for hours in 0..20 {
        let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
        send(&store, webhook, hour(hours)).await.unwrap();
        store.delete_webhook(&user("alice"), webhook).await.unwrap();
        store.maintain(hour(hours) + MINUTES, 30).await.unwrap();
    }
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    assert_eq!(wait(&store, webhook, hour(20)).await, Duration::from_hours(4));
    send(&store, webhook, hour(24)).await.unwrap();
    assert_eq!(wait(&store, webhook, hour(24)).await, Duration::from_hours(1));

    // Nothing of the last day is left.
    store.maintain(hour(49), 30).await.unwrap();
    let left = "SELECT count(*) FROM manual_attempts";
    assert_eq!(database.connect().await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn maintenance_forgets_which_webhook_got_nothing_for_a_minute() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let client = database.connect().await;
    let (before, at) = (now() - Duration::from_secs(61), now());
    let quiet = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    send(&store, quiet, before).await.unwrap();
    let busy = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    send(&store, busy, at).await.unwrap();
    store.maintain(at, 30).await.unwrap();
    let rows = client.query("SELECT subject FROM manual_attempts ORDER BY subject", &[]).await.unwrap();
    let subjects: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(subjects, ["user alice".to_owned(), format!("webhook {busy}")]);
}

#[tokio::test]
async fn the_count_is_found_by_its_primary_key() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "INSERT INTO manual_attempts SELECT 'user ' || n, ARRAY[now()] FROM generate_series(1, 5000) n;
             ANALYZE manual_attempts",
        )
        .await
        .unwrap();
    let whole = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'manual_attempts'";
    client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    let before: i64 = client.query_one(whole, &[]).await.unwrap().get(0);
    {
        let store = store_of(&database);
        let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
        for _ in 0..3 {
            send(&store, webhook, now()).await.unwrap();
        }
    }
    crate::plans::sessions_ended(&client).await;
    let after: i64 = client.query_one(whole, &[]).await.unwrap().get(0);
    assert_eq!(after, before, "the table is read whole");
}

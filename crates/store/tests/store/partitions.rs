use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::EventType::BookingCreated;
use domain::Timestamp;
use store::{AttemptResult, Inserted};
use testkit::TestDatabase;
use tokio_postgres::Client;

use crate::support::{
    attempt, counts, event, event_id, given_deliveries, given_webhook, new_webhook, now, statistics, store_of,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn day_tables(client: &Client, like: &str) -> Vec<String> {
    let sql = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname ~ $1 ORDER BY relname";
    client.query(sql, &[&like]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

fn day(at: Timestamp) -> String {
    at.format("%Y%m%d").to_string()
}

#[tokio::test]
async fn partitions_exist_from_yesterday_to_a_week_ahead_and_maintenance_moves_them_on() {
    let database = TestDatabase::create().await;
    let (store, client) = (store_of(&database), database.connect().await);
    let today = now();
    for days in [0, 7] {
        let id = event_id(today + DAY * days);
        let inserted = store.insert_events(&[store::NewEvent { id, ..event(None, today) }], today).await;
        assert_eq!(inserted.unwrap(), [Inserted::New]);
    }
    assert!(store.insert_events(&[event(None, today + DAY * 8)], today).await.is_err());
    store.maintain(today + DAY, 30).await.unwrap();
    assert_eq!(store.insert_events(&[event(None, today + DAY * 8)], today).await.unwrap(), [Inserted::New]);
    assert_eq!(store.maintain(today + DAY, 30).await.unwrap(), Vec::<String>::new());
    for table in ["events", "deliveries", "delivery_attempts"] {
        let tables = day_tables(&client, &format!("^{table}_[0-9]+$")).await;
        assert_eq!(tables.len(), 10, "{tables:?}");
        assert_eq!(tables[0], format!("{table}_{}", day(today - DAY)));
    }
    let indexes = "SELECT count(DISTINCT n) FROM (SELECT tablename, count(*) AS n FROM pg_indexes
                     WHERE tablename LIKE 'deliveries_%' GROUP BY tablename) of_table";
    let same: i64 = client.query_one(indexes, &[]).await.unwrap().get(0);
    assert_eq!(same, 1, "every day has the same indexes");
}

#[tokio::test]
async fn days_after_the_retention_are_dropped_with_their_part_of_the_statistics() {
    let database = TestDatabase::create().await;
    let (store, client) = (store_of(&database), database.connect().await);
    let today = now();
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    let deleted = given_webhook(&store, "bob", &[BookingCreated]).await.id;
    let old = given_deliveries(&store, webhook, 3, today).await;
    let new = given_deliveries(&store, webhook, 2, today + DAY * 5).await;
    given_deliveries(&store, deleted, 1, today).await;
    store.delete_webhook(&crate::support::user("bob"), deleted).await.unwrap();
    let retry = AttemptResult::Retry { at: today };
    store.record_attempts(&[attempt(old[0], 1, retry)]).await.unwrap();
    store.record_attempts(&[attempt(old[0], 2, AttemptResult::Success)]).await.unwrap();
    store.record_attempts(&[attempt(old[1], 1, AttemptResult::Failed)]).await.unwrap();
    store.record_attempts(&[attempt(new[0], 1, AttemptResult::Success)]).await.unwrap();
    assert_eq!(statistics(&store, "alice", webhook).await, counts(2, 2, 1));

    assert_eq!(store.maintain(today + DAY * 3, 3).await.unwrap().len(), 3, "the day before today goes");
    assert_eq!(statistics(&store, "alice", webhook).await, counts(2, 2, 1), "the last kept day stays");
    let dropped = store.maintain(today + DAY * 4, 3).await.unwrap();
    let expected =
        ["deliveries", "delivery_attempts", "events"].map(|table| format!("{table}_{}", day(today)));
    assert_eq!(dropped, expected);
    assert_eq!(statistics(&store, "alice", webhook).await, counts(1, 1, 0));
    assert_eq!(day_tables(&client, &format!("_{}$", day(today))).await, Vec::<String>::new());
    let rows: i64 = client.query_one("SELECT count(*) FROM webhook_statistics", &[]).await.unwrap().get(0);
    assert_eq!(rows, 1, "nothing is kept of a deleted webhook");
}

/// A process that was killed between the two steps of dropping a day.
#[tokio::test]
async fn a_day_that_was_taken_out_and_not_dropped_yet_is_dropped_by_the_next_run() {
    let database = TestDatabase::create().await;
    let (store, client) = (store_of(&database), database.connect().await);
    let today = now();
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    given_deliveries(&store, webhook, 3, today).await;
    client
        .batch_execute(&format!("ALTER TABLE deliveries DETACH PARTITION deliveries_{}", day(today)))
        .await
        .unwrap();
    let dropped = store.maintain(today + DAY * 4, 3).await.unwrap();
    assert!(dropped.contains(&format!("deliveries_{}", day(today))), "{dropped:?}");
    assert_eq!(statistics(&store, "alice", webhook).await, counts(0, 0, 0));
}

/// A table of another purpose whose name ends like a day's is left alone.
#[tokio::test]
async fn only_days_are_dropped() {
    let database = TestDatabase::create().await;
    let (store, client) = (store_of(&database), database.connect().await);
    client.batch_execute("CREATE TABLE backup_20200101 (id int)").await.unwrap();
    store.maintain(now(), 3).await.unwrap();
    assert_eq!(day_tables(&client, "^backup").await, ["backup_20200101"]);
}

#[tokio::test]
async fn ids_and_keys_are_forgotten_after_24_hours() {
    let database = TestDatabase::create().await;
    let (store, client) = (store_of(&database), database.connect().await);
    let (before, today) = (now() - DAY, now());
    store.insert_events(&[event(Some("old"), before)], before - Duration::from_secs(1)).await.unwrap();
    store.insert_events(&[event(Some("new"), today)], today).await.unwrap();
    let key = |key: &str| store::IdempotencyKey { key: key.to_owned(), fingerprint: vec![1], most: 100 };
    let mut old = new_webhook("alice", &[BookingCreated]);
    old.created_at = before - Duration::from_secs(1);
    store.create_webhook(old, 100, Some(key("old"))).await.unwrap();
    store.create_webhook(new_webhook("alice", &[BookingCreated]), 100, Some(key("new"))).await.unwrap();
    store.maintain(today, 30).await.unwrap();
    for table in ["SELECT publisher_id FROM event_keys", "SELECT key FROM idempotency_keys"] {
        let kept: Vec<String> =
            client.query(table, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(kept, ["new"], "{table}");
    }
}

/// A day must come and go without anybody noticing: no error, and no stop while a long transaction reads.
#[tokio::test(flavor = "multi_thread")]
async fn maintenance_stops_no_writer_even_while_a_long_transaction_reads() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let today = now();
    let mut webhooks = Vec::new();
    for _ in 0..20 {
        webhooks.push(given_webhook(&store, "alice", &[BookingCreated]).await.id);
    }
    for webhook in &webhooks {
        given_deliveries(&store, *webhook, 50, today).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let writers = (0..4usize).map(|writer| {
        let (store, mut webhooks, done) = (store.clone(), webhooks.clone(), done.clone());
        webhooks.rotate_left(writer * 5);
        tokio::spawn(async move {
            let (mut written, mut slowest) = (0, Duration::ZERO);
            while !done.load(Ordering::Relaxed) {
                // A day that is kept, whichever of the rounds below gets through.
                let at = today + DAY * 5;
                let event = event(None, at);
                let start = tokio::time::Instant::now();
                store.insert_events(std::slice::from_ref(&event), at).await.expect("events are stored");
                let all: Vec<_> =
                    webhooks.iter().map(|webhook| crate::support::delivery(event.id, *webhook)).collect();
                store.record_fan_out(&all, &[event.id], at).await.expect("deliveries are written");
                let made: Vec<_> =
                    all.iter().map(|made| attempt(made.id, 1, AttemptResult::Success)).collect();
                store.record_attempts(&made).await.expect("attempts are recorded");
                slowest = slowest.max(start.elapsed());
                written += 1;
            }
            (written, slowest)
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut reader = database.connect().await;
    for round in 1..=4 {
        let reading = reader.transaction().await.unwrap();
        reading.query("SELECT count(*) FROM deliveries", &[]).await.unwrap();
        let maintaining = tokio::spawn({
            let store = store.clone();
            async move { store.maintain(today + DAY * round, 0).await }
        });
        // New days are made beside the reader; days go once it has read.
        tokio::time::timeout(Duration::from_secs(3), async {
            while !maintaining.is_finished() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .ok();
        reading.commit().await.unwrap();
        let maintained = maintaining.await.unwrap();
        assert!(
            maintained.is_ok() || maintained.as_ref().is_err_and(store::StoreError::is_retryable),
            "{maintained:?}"
        );
        if round == 1 {
            store.maintain(today + DAY, 0).await.unwrap();
        }
    }
    done.store(true, Ordering::Relaxed);
    for writer in writers {
        let (written, slowest) = writer.await.unwrap();
        assert!(written > 10, "{written}");
        assert!(slowest < Duration::from_millis(1500), "a writer stood still for {slowest:?}");
    }
}

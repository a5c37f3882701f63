//! How the statements of the fast path find their rows. They must not come to depend on the number of days that are
//! kept, or on what PostgreSQL knows of a day that has only begun.

use std::collections::BTreeMap;

use domain::EventType::BookingCreated;
use domain::protocol::DeliveryStatus;
use store::{AttemptResult, DeliveryFilter, FirstAttempt, NewDelivery, Page, PendingDelivery};
use testkit::{DEADLINE, TestDatabase, eventually_ok};
use tokio_postgres::Client;

use crate::support::{attempt, delivery, event, given_deliveries, given_webhook, now, store_of, user};

/// Tables without days that the fast path looks into.
const SMALL_TABLES: [&str; 4] = ["webhooks", "webhook_statistics", "event_keys", "events_to_fan_out"];

/// Waits until the sessions of stores have ended: what they counted is known then.
pub(crate) async fn sessions_ended(client: &Client) {
    let open = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()
                   AND backend_type = 'client backend'";
    eventually_ok("the store's sessions end", DEADLINE, async || {
        match client.query_one(open, &[]).await.unwrap().get::<_, i64>(0) {
            0 => Ok(()),
            open => Err(format!("{open} sessions")),
        }
    })
    .await;
}

/// Looks by index and whole reads of every table, once the sessions that made them have ended.
async fn scans(client: &Client) -> BTreeMap<String, (i64, i64)> {
    sessions_ended(client).await;
    let sql = "SELECT relname::text, COALESCE(idx_scan, 0), seq_scan FROM pg_stat_user_tables";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

#[tokio::test]
async fn batches_look_into_their_own_days_only_and_by_index() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let at = now();
    let webhook = {
        let store = store_of(&database);
        let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
        // A day with a backlog that PostgreSQL knows nothing about.
        given_deliveries(&store, webhook, 2000, at).await;
        webhook
    };
    let before = scans(&client).await;
    {
        let store = store_of(&database);
        for _ in 0..3 {
            let events: Vec<_> = (0..20).map(|n| event((n % 2 == 0).then_some("a"), at)).collect();
            store.insert_events(&events, at).await.unwrap();
            let ids: Vec<_> = events.iter().map(|event| event.id).collect();
            store.load_events(&ids).await.unwrap();
            let made: Vec<_> = ids.iter().map(|event| delivery(*event, webhook)).collect();
            store.record_fan_out(&made, &ids, at).await.unwrap();
            let made: Vec<_> = made.iter().map(|delivery| delivery.id).collect();
            store.reissue_unattempted(&made, at).await.unwrap();
            let wanted: Vec<_> = made.iter().map(|id| (*id, true)).collect();
            store.check_deliveries(&wanted).await.unwrap();
            for (number, result) in [(1, AttemptResult::Retry { at }), (2, AttemptResult::Retry { at })] {
                let attempts: Vec<_> = made.iter().map(|id| attempt(*id, number, result)).collect();
                assert_eq!(store.record_attempts(&attempts).await.unwrap().len(), 20);
            }
            let abandoned: Vec<_> = made.iter().map(|id| (*id, "gone")).collect();
            store.abandon_deliveries(&abandoned).await.unwrap();

            let events: Vec<_> = (0..20).map(|_| event(None, at)).collect();
            store.insert_events(&events, at).await.unwrap();
            let made: Vec<_> = events.iter().map(|event| delivery(event.id, webhook)).collect();
            store.wanted(&[(webhook, BookingCreated)]).await.unwrap();
            let asked: Vec<_> = made.iter().map(|made| (made.id, made.webhook)).collect();
            store.look_again(&asked).await.unwrap();
            let (settled, pending) = made.split_at(10);
            let first = |delivery: &NewDelivery| FirstAttempt {
                delivery: *delivery,
                created_at: at,
                made: attempt(delivery.id, 1, AttemptResult::Success),
                ends_event: true,
            };
            store.settle(&settled.iter().map(first).collect::<Vec<_>>()).await.unwrap();
            let pending = pending.iter().map(|new| PendingDelivery {
                delivery: *new,
                created_at: at,
                due: at,
                ends_event: true,
            });
            store.write_pending(&pending.collect::<Vec<_>>()).await.unwrap();
            let ids: Vec<_> = events.iter().map(|event| event.id).collect();
            store.mark_fanned_out(&ids).await.unwrap();
        }
    }
    let after = scans(&client).await;
    let today = at.format("%Y%m%d").to_string();
    let mut looked_at = Vec::new();
    for (table, (by_index, whole)) in &after {
        let (index_before, whole_before) = before.get(table).copied().unwrap_or_default();
        let is_day =
            ["events_2", "deliveries_2", "delivery_attempts_2"].iter().any(|day| table.starts_with(day));
        if is_day || SMALL_TABLES.contains(&table.as_str()) {
            assert_eq!(*whole, whole_before, "{table} is read whole");
        }
        if is_day && *by_index > index_before {
            looked_at.push(table.as_str());
        }
    }
    let expected = ["deliveries", "delivery_attempts", "events"].map(|table| format!("{table}_{today}"));
    assert_eq!(looked_at, expected);

    // Every delivery of a batch is found by its id: the backlog is not looked through.
    let sql = "SELECT indexrelname::text, idx_tup_read FROM pg_stat_user_indexes
                WHERE relname LIKE 'deliveries_2%' AND idx_tup_read > 0";
    let read = client.query(sql, &[]).await.unwrap();
    let read: Vec<(String, i64)> = read.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(read.len(), 1, "only the primary key is read: {read:?}");
    assert!(read[0].1 < 6000, "{read:?}");
}

/// Rows of deliveries' indexes that were read, once the sessions that read them have ended.
async fn index_rows_read(client: &Client) -> i64 {
    scans(client).await;
    let read = "SELECT COALESCE(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes
                 WHERE relname LIKE 'deliveries_2%'";
    client.query_one(read, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_page_of_failures_does_not_read_the_successes() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let webhook = {
        let store = store_of(&database);
        let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
        let ids = given_deliveries(&store, webhook, 2000, now()).await;
        let (failed, successful) = ids.split_at(3);
        let of = |ids: &[domain::DeliveryId], result| -> Vec<_> {
            ids.iter().map(|id| attempt(*id, 1, result)).collect()
        };
        store.record_attempts(&of(successful, AttemptResult::Success)).await.unwrap();
        store.record_attempts(&of(failed, AttemptResult::Failed)).await.unwrap();
        webhook
    };
    client.batch_execute("VACUUM ANALYZE").await.unwrap();
    let before = index_rows_read(&client).await;
    {
        let store = store_of(&database);
        let filter = DeliveryFilter { status: Some(DeliveryStatus::Failed), event: None };
        for _ in 0..10 {
            let page = Page { number: 1, size: 20 };
            let page = store.list_deliveries(&user("alice"), webhook, filter, page).await.unwrap().unwrap();
            assert_eq!(page.deliveries.len(), 3);
        }
    }
    let read = index_rows_read(&client).await - before;
    assert!((30..=60).contains(&read), "{read} rows of indexes were read for ten pages of three");

    let before = index_rows_read(&client).await;
    {
        let (store, newest) = (store_of(&database), Page { number: 1, size: 20 });
        let page = store.list_deliveries(&user("alice"), webhook, DeliveryFilter::default(), newest).await;
        assert_eq!(page.unwrap().unwrap().deliveries.len(), 20);
    }
    let read = index_rows_read(&client).await - before;
    assert!((20..=40).contains(&read), "{read} rows of indexes were read for a page of twenty");
}

//! The database away, or not as it should be.

use std::time::{Duration, Instant};

use domain::EventType::BookingCreated;
use store::StoreError;
use testkit::{FaultProxy, TestDatabase};

use crate::support::{event, given_webhook, new_webhook, now, store_of, store_with};

#[tokio::test]
async fn a_refused_connection_is_a_retryable_error_within_bounds() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("postgres://nobody:secret@127.0.0.1:{port}/none");
    let store = store_with(&url, |_| {});
    let error = store.ping().await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(!format!("{error:?} {store:?}").contains("secret"));
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://nobody@{}/none", listener.local_addr().unwrap());
    let store = store_with(&url, |config| {
        config.connect_timeout = Duration::from_millis(200);
        config.acquire_timeout = Duration::from_millis(400);
    });
    let start = Instant::now();
    let error = store.ping().await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn waiting_for_a_busy_pool_is_bounded() {
    let database = TestDatabase::create().await;
    let store = store_with(database.url(), |config| {
        config.pool_size = 1;
        config.acquire_timeout = Duration::from_millis(200);
    });
    // A first connection may take longer.
    testkit::eventually("it is connected", testkit::DEADLINE, async || store.ping().await.ok()).await;
    let mut other = database.connect().await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute("LOCK TABLE webhooks IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let holding = tokio::spawn({
        let store = store.clone();
        async move { store.create_webhook(new_webhook("alice", &[BookingCreated]), 100, None).await }
    });
    testkit::eventually("the pool is exhausted", testkit::DEADLINE, async || {
        store.ping().await.is_err_and(|error| error.is_retryable()).then_some(())
    })
    .await;
    transaction.rollback().await.unwrap();
    holding.await.unwrap().unwrap();
    store.ping().await.unwrap();
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_cancelled_and_retryable() {
    let database = TestDatabase::create().await;
    let store = store_with(database.url(), |config| config.statement_timeout = Duration::from_millis(200));
    let mut other = database.connect().await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let error = store.insert_events(&[event(None, now())], now()).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    transaction.rollback().await.unwrap();
    store.insert_events(&[event(None, now())], now()).await.unwrap();
}

#[tokio::test]
async fn connections_that_were_killed_are_replaced() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    given_webhook(&store, "alice", &[BookingCreated]).await;
    let client = database.connect().await;
    let kill = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert!(!client.query(kill, &[]).await.unwrap().is_empty());
    given_webhook(&store, "alice", &[BookingCreated]).await;
}

#[tokio::test]
async fn a_connection_killed_under_a_statement_is_a_retryable_error() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let mut other = database.connect().await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let inserting = tokio::spawn({
        let store = store.clone();
        async move { store.insert_events(&[event(None, now())], now()).await }
    });
    let client = database.connect().await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    testkit::eventually("the waiting connection is killed", testkit::DEADLINE, async || {
        (!client.query(kill, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    let error = inserting.await.unwrap().unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(matches!(error, StoreError::Unavailable { .. }));
}

#[tokio::test]
async fn a_database_that_takes_no_writes_is_retryable() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let name: String = client.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    client
        .batch_execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"))
        .await
        .unwrap();
    let error = store_of(&database).insert_events(&[event(None, now())], now()).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn a_server_that_stops_in_the_middle_is_given_up_soon_after_the_statement_timeout() {
    let database = TestDatabase::create().await;
    let mut url = database.url().to_owned();
    let proxy = FaultProxy::put_before(&mut url, 5432).await;
    let store = store_with(&url, |config| {
        config.statement_timeout = Duration::from_millis(500);
        config.acquire_timeout = Duration::from_secs(1);
    });
    store.ping().await.unwrap();

    let mut other = database.connect().await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let start = Instant::now();
    let inserting = tokio::spawn({
        let store = store.clone();
        async move { store.insert_events(&[event(None, now())], now()).await }
    });
    let waiting = "SELECT FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let client = database.connect().await;
    testkit::eventually("the statement is with the server", testkit::DEADLINE, async || {
        (!client.query(waiting, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    proxy.freeze();
    let error = tokio::time::timeout(Duration::from_secs(10), inserting).await.expect("given up").unwrap();
    assert!(error.is_err_and(|error| error.is_retryable()));
    assert!(start.elapsed() > Duration::from_secs(5), "the server has its time to answer");

    // What lies in the pool is of no use either, and says so in time.
    let start = Instant::now();
    assert!(store.ping().await.is_err_and(|error| error.is_retryable()));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    transaction.rollback().await.unwrap();
    proxy.restore();
    store.insert_events(&[event(None, now())], now()).await.unwrap();
}

/// Lets every row that `is_meant` describes fail with this code and a text that no English reader knows.
async fn given_trouble(database: &TestDatabase, table: &str, is_meant: &str, sqlstate: &str) {
    let client = database.connect().await;
    let trigger = format!(
        "CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF {is_meant} THEN RAISE EXCEPTION 'cela ne va pas' USING ERRCODE = '{sqlstate}'; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER trouble BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION trouble()"
    );
    client.batch_execute(&trigger).await.unwrap();
}

#[tokio::test]
async fn what_comes_in_the_way_of_every_event_is_told_from_what_is_wrong_with_one_whatever_the_language() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    given_trouble(&database, "events", "NEW.public_id = 'bad'", "22021").await;
    let error = store.insert_events(&[event(Some("bad"), now())], now()).await.unwrap_err();
    assert!(error.is_in_doubt() && !error.is_retryable(), "{error:?}");
    store.takes_events().await.expect("another event would be taken");
    store.insert_events(&[event(Some("good"), now())], now()).await.unwrap();

    for table in ["events", "deliveries", "delivery_attempts", "webhook_statistics", "event_keys"] {
        let database = TestDatabase::create().await;
        let store = store_of(&database);
        given_trouble(&database, table, "true", "53100").await;
        let error = store.takes_events().await.expect_err(table);
        assert!(error.is_in_doubt(), "{table}: {error:?}");
    }
}

#[tokio::test]
async fn asking_whether_events_are_taken_leaves_nothing() {
    let database = TestDatabase::create().await;
    store_of(&database).takes_events().await.unwrap();
    let client = database.connect().await;
    for table in ["events", "deliveries", "delivery_attempts", "webhook_statistics", "event_keys"] {
        let rows = client.query(&format!("SELECT FROM {table}"), &[]).await.unwrap();
        assert_eq!(rows.len(), 0, "{table}");
    }
}

#[tokio::test]
async fn a_database_that_lacks_a_table_or_takes_no_writes_takes_no_events() {
    let database = TestDatabase::create().await;
    let (store, client) = (store_of(&database), database.connect().await);
    client.batch_execute("ALTER TABLE deliveries RENAME TO elsewhere").await.unwrap();
    assert!(store.takes_events().await.is_err());
    client.batch_execute("ALTER TABLE elsewhere RENAME TO deliveries").await.unwrap();
    store.takes_events().await.unwrap();
    let name: String = client.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
    let read_only = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    client.batch_execute(&read_only).await.unwrap();
    assert!(store_of(&database).takes_events().await.is_err_and(|error| error.is_retryable()));
}

#[tokio::test]
async fn a_rule_that_a_row_breaks_is_no_missing_day() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let client = database.connect().await;
    client.batch_execute("ALTER TABLE events ADD CHECK (public_id <> 'bad')").await.unwrap();
    let error = store.insert_events(&[event(Some("bad"), now())], now()).await.unwrap_err();
    assert!(!error.is_retryable() && !error.is_in_doubt(), "{error:?}");
    let long_ago = now() - Duration::from_hours(24 * 400);
    let error = store.insert_events(&[event(None, long_ago)], now()).await.unwrap_err();
    assert!(matches!(error, StoreError::NoPartition), "{error:?}");
}

//! The database away, or not as it should be.

use std::time::{Duration, Instant};

use domain::EventType::BookingCreated;
use store::StoreError;
use testkit::TestDatabase;

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
    store.ping().await.unwrap();
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

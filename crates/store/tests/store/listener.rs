use std::time::Duration;

use domain::EventType::BookingCreated;
use domain::UserId;
use store::{Change, ChangeListener, WebhookChanges};
use testkit::{DEADLINE, TestDatabase, eventually};
use tokio::time::timeout;

use crate::support::{given_webhook, now, store_of, user};

/// Contract of the design: a change takes effect within a second.
const SOON: Duration = Duration::from_secs(1);

async fn next(listener: &mut ChangeListener, within: Duration) -> Change {
    timeout(within, listener.next()).await.expect("a change is told in time")
}

#[tokio::test]
async fn every_change_of_a_webhook_is_told_within_a_second() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let mut listener = store.listener();
    assert_eq!(next(&mut listener, DEADLINE).await, Change::Everything, "listening starts");

    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    assert_eq!(next(&mut listener, SOON).await, Change::Of(user("alice")));
    let off = WebhookChanges { active: Some(false), ..WebhookChanges::default() };
    store.update_webhook(&user("alice"), webhook.id, off, now()).await.unwrap();
    assert_eq!(next(&mut listener, SOON).await, Change::Of(user("alice")));
    store.delete_webhook(&user("alice"), webhook.id).await.unwrap();
    assert_eq!(next(&mut listener, SOON).await, Change::Of(user("alice")));

    let longest = UserId::parse(&"é".repeat(UserId::MAX_LEN)).unwrap();
    given_webhook(&store, longest.as_str(), &[BookingCreated]).await;
    assert_eq!(next(&mut listener, SOON).await, Change::Of(longest));
}

/// Whoever waits for a change beside other things drops the future often.
#[tokio::test]
async fn a_change_is_not_lost_when_waiting_is_given_up() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let mut listener = store.listener();
    next(&mut listener, DEADLINE).await;
    assert!(timeout(Duration::from_millis(5), listener.next()).await.is_err(), "nothing has changed");
    for name in ["a", "b", "c"] {
        given_webhook(&store, name, &[BookingCreated]).await;
    }
    let mut told = Vec::new();
    eventually("all changes are told", DEADLINE, async || {
        told.extend(timeout(Duration::from_micros(10), listener.next()).await.ok());
        (told.len() == 3).then_some(())
    })
    .await;
    assert_eq!(told, ["a", "b", "c"].map(|name| Change::Of(user(name))));
}

#[tokio::test]
async fn after_a_lost_connection_everything_may_have_changed() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let mut listener = store.listener();
    next(&mut listener, DEADLINE).await;
    let client = database.connect().await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    eventually("the listening connection is killed", DEADLINE, async || {
        (client.query(kill, &[]).await.unwrap().len() == 1).then_some(())
    })
    .await;
    assert_eq!(next(&mut listener, DEADLINE).await, Change::Everything);
    given_webhook(&store, "alice", &[BookingCreated]).await;
    assert_eq!(next(&mut listener, SOON).await, Change::Of(user("alice")));
}

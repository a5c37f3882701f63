//! Jobs issued anew, and put off.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use domain::EventType::BookingCreated;
use domain::protocol::{Fence, Ticket};
use domain::retry::AttemptNumber;
use domain::{DeliveryId, Timestamp};
use store::{AttemptResult, Deferral, Reissue, Store};
use testkit::TestDatabase;

use crate::support::{attempt, delivery, event_id, given_deliveries, given_webhook, now, store_of};

const SECOND: Fence = Fence::FIRST.next();

async fn row(store: &Store, id: DeliveryId) -> domain::protocol::Row {
    store.check_deliveries(&[(id, false)]).await.unwrap()[&id].row
}

async fn due(database: &TestDatabase, id: DeliveryId) -> Timestamp {
    let sql = "SELECT next_attempt_at FROM deliveries WHERE id = $1";
    let row = database.connect().await.query_one(sql, &[&id.uuid()]).await.unwrap();
    row.get::<_, std::time::SystemTime>(0).into()
}

#[tokio::test]
async fn only_what_is_pending_and_was_never_attempted_is_issued_anew_after_a_fan_out() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let ids = given_deliveries(&store, webhook.id, 3, now()).await;
    let retry = AttemptResult::Retry { at: now() };
    store.record_attempts(&[attempt(ids[0], 1, retry)]).await.unwrap();
    store.abandon_deliveries(&[(ids[1], "gone")]).await.unwrap();
    let absent = delivery(event_id(now()), webhook.id).id;
    let later = now() + Duration::from_secs(5);
    let reissued = store.reissue_unattempted(&[ids[0], ids[1], ids[2], absent], later).await.unwrap();
    assert_eq!(reissued, HashMap::from([(ids[2], SECOND)]));
    assert_eq!(row(&store, ids[2]).await.fence, SECOND);
    assert_eq!(due(&database, ids[2]).await, later);
}

#[tokio::test]
async fn of_two_who_issue_the_same_job_anew_one_does() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let id = given_deliveries(&store, webhook.id, 1, now()).await[0];
    let retry = AttemptResult::Retry { at: now() };
    let recorded = store.record_attempts(&[attempt(id, 1, retry)]).await.unwrap();
    assert_eq!(recorded[&id], Fence::FIRST);
    let seen = Reissue { delivery: id, recorded: AttemptNumber::FIRST, fence: Fence::FIRST, due: now() };

    let one = store.reissue(&[seen], false).await.unwrap();
    let other = store.reissue(&[seen], false).await.unwrap();
    assert_eq!((one.get(&id), other.get(&id)), (Some(&SECOND), None));
    // Whoever lost the answer cannot know whether the first try was their own.
    assert_eq!(store.reissue(&[seen], true).await.unwrap().get(&id), Some(&SECOND.next()));

    let not_the_last = Reissue { recorded: AttemptNumber::FIRST.next(), fence: SECOND.next(), ..seen };
    assert!(store.reissue(&[not_the_last], false).await.unwrap().is_empty());
    let recorded = store.record_attempts(&[attempt(id, 2, AttemptResult::Failed)]).await.unwrap();
    assert_eq!(recorded[&id], SECOND.next(), "what follows an attempt has the fence of the row");
    assert!(store.reissue(&[not_the_last], false).await.unwrap().is_empty(), "the delivery has failed");
}

#[tokio::test]
async fn a_job_is_put_off_only_while_it_counts() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let ids = given_deliveries(&store, webhook.id, 4, now()).await;
    store.reissue_unattempted(&ids[1..2], now()).await.unwrap();
    store.record_attempts(&[attempt(ids[2], 1, AttemptResult::Retry { at: now() })]).await.unwrap();
    store.record_attempts(&[attempt(ids[3], 1, AttemptResult::Success)]).await.unwrap();

    let until = now() + Duration::from_secs(5);
    let ticket = Ticket { attempt: AttemptNumber::FIRST, fence: Fence::FIRST };
    let deferrals: Vec<_> = ids.iter().map(|id| Deferral { delivery: *id, ticket, until }).collect();
    assert_eq!(store.defer(&deferrals).await.unwrap(), HashSet::from([ids[0]]));
    assert_eq!(due(&database, ids[0]).await, until);
    assert!(due(&database, ids[1]).await < until);
}

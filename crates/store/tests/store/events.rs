use std::collections::HashSet;
use std::time::Duration;

use domain::EventId;
use store::{Inserted, StoreError};
use testkit::{DEADLINE, TestDatabase, eventually};

use crate::support::{event, now, store_of};

fn duplicate_of(event: EventId) -> Inserted {
    Inserted::Duplicate { event, fanned_out: false }
}

#[tokio::test]
async fn events_are_stored_as_they_are_and_read_back() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let events = [event(Some("order-1"), now()), event(None, now())];
    assert_eq!(store.insert_events(&events, now()).await.unwrap(), [Inserted::New, Inserted::New]);

    let absent = event(None, now()).id;
    let mut stored = store.load_events(&[events[0].id, events[1].id, absent]).await.unwrap();
    stored.sort_by_key(|stored| stored.id != events[0].id);
    assert_eq!(stored.len(), 2);
    for (stored, event) in stored.iter().zip(&events) {
        assert_eq!(stored.id, event.id);
        assert_eq!(stored.public_id, event.public_id());
        assert_eq!(stored.event_type, event.event_type);
        assert_eq!(stored.recipients, event.recipients);
        assert_eq!(stored.timestamp, event.timestamp);
        assert_eq!(stored.body, event.body);
    }
    assert_eq!(stored[1].public_id.as_str(), events[1].id.to_string());
}

#[tokio::test]
async fn no_events_are_nothing_to_do() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    assert_eq!(store.insert_events(&[], now()).await.unwrap(), []);
    assert_eq!(store.load_events(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn an_id_twice_in_one_batch_is_stored_once() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let events = [event(Some("a"), now()), event(Some("b"), now()), event(Some("a"), now())];
    let inserted = store.insert_events(&events, now()).await.unwrap();
    assert_eq!(inserted, [Inserted::New, Inserted::New, duplicate_of(events[0].id)]);
    assert_eq!(store.load_events(&events.map(|event| event.id)).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_duplicate_tells_whether_its_event_was_fanned_out() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let first = event(Some("a"), now());
    store.insert_events(std::slice::from_ref(&first), now()).await.unwrap();
    store.record_fan_out(&[], &[first.id], now()).await.unwrap();
    let again = store.insert_events(&[event(Some("a"), now())], now()).await.unwrap();
    assert_eq!(again, [Inserted::Duplicate { event: first.id, fanned_out: true }]);
}

#[tokio::test]
async fn an_id_is_new_again_after_24_hours() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let yesterday = now() - Duration::from_secs(24 * 3600);
    let (first, early, late) =
        (event(Some("a"), yesterday), event(Some("a"), now()), event(Some("a"), now()));
    assert_eq!(store.insert_events(std::slice::from_ref(&first), yesterday).await.unwrap(), [Inserted::New]);
    let within = yesterday + Duration::from_secs(24 * 3600 - 1);
    assert_eq!(store.insert_events(&[early], within).await.unwrap(), [duplicate_of(first.id)]);
    let after = yesterday + Duration::from_secs(24 * 3600 + 1);
    assert_eq!(store.insert_events(std::slice::from_ref(&late), after).await.unwrap(), [Inserted::New]);
    let repeated = store.insert_events(&[event(Some("a"), now())], after).await.unwrap();
    assert_eq!(repeated, [duplicate_of(late.id)]);
}

/// What a caller does whose connection broke after the commit and before the answer.
#[tokio::test]
async fn storing_the_same_events_again_finds_them_stored() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let events = [event(Some("a"), now()), event(None, now())];
    store.insert_events(&events, now()).await.unwrap();
    let mut again = events.to_vec();
    again.push(event(None, now()));
    let inserted = store.insert_events(&again, now()).await.unwrap();
    assert_eq!(inserted, [duplicate_of(events[0].id), duplicate_of(events[1].id), Inserted::New]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_eight_writers_of_the_same_ids_one_stores_each_and_the_others_are_told_which() {
    const IDS: usize = 200;
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let writers = (0..8usize).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            // Each in an order of its own.
            let ids = (0..IDS).map(|id| (id * 7 + writer * 31) % IDS);
            let events: Vec<_> = ids.map(|id| event(Some(&format!("id-{id}")), now())).collect();
            let inserted = store.insert_events(&events, now()).await.unwrap();
            events.into_iter().zip(inserted).collect::<Vec<_>>()
        })
    });
    let mut answers = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        answers.extend(writer.await.unwrap());
    }
    let new: HashSet<_> = answers
        .iter()
        .filter(|(_, inserted)| *inserted == Inserted::New)
        .map(|(event, _)| (event.publisher_id.clone().unwrap(), event.id))
        .collect();
    assert_eq!(new.len(), IDS, "each id is new once");
    for (event, inserted) in &answers {
        if let Inserted::Duplicate { event: first, .. } = inserted {
            assert!(new.contains(&(event.publisher_id.clone().unwrap(), *first)), "{event:?} {inserted:?}");
        }
    }
}

#[tokio::test]
async fn a_duplicate_of_what_is_not_committed_yet_waits_and_is_told_the_right_event() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let first = event(Some("a"), now());
    let mut other = database.connect().await;
    let transaction = other.transaction().await.unwrap();
    transaction
        .execute(
            "INSERT INTO event_keys (publisher_id, event_id, first_seen) VALUES ('a', $1, now())",
            &[&first.id.uuid()],
        )
        .await
        .unwrap();

    let inserting = tokio::spawn({
        let store = store.clone();
        async move { store.insert_events(&[event(Some("a"), now())], now()).await }
    });
    let observer = database.connect().await;
    eventually("the insert waits for the other transaction", DEADLINE, async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'";
        let row = observer.query_one(waiting, &[]).await.unwrap();
        (row.get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    transaction.commit().await.unwrap();
    match inserting.await.unwrap().unwrap()[..] {
        [Inserted::Duplicate { event, .. }] => assert_eq!(event, first.id),
        ref other => panic!("{other:?}"),
    }
}

/// The key may be forgotten, at its 24 hours' end, between the refusal of the duplicate and the look at it.
/// Whoever answered `New` then would lose the event.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_never_called_new_without_being_stored() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let client = database.connect().await;
    let forgetting = tokio::spawn(async move {
        for _ in 0..2000 {
            client.batch_execute("DELETE FROM event_keys").await.unwrap();
        }
    });
    while !forgetting.is_finished() {
        let events: Vec<_> = (0..4).map(|_| event(Some("a"), now())).collect();
        let inserted = store.insert_events(&events, now()).await.unwrap();
        for (event, inserted) in events.iter().zip(inserted) {
            let id = match inserted {
                Inserted::New => event.id,
                Inserted::Duplicate { event, .. } => event,
            };
            assert_eq!(store.load_events(&[id]).await.unwrap().len(), 1, "{inserted:?} is not stored");
        }
    }
    forgetting.await.unwrap();
}

#[tokio::test]
async fn an_event_of_a_day_without_partition_is_refused_with_the_reason() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let in_a_year = now() + Duration::from_secs(365 * 24 * 3600);
    let refused = store.insert_events(&[event(None, in_a_year)], now()).await.unwrap_err();
    assert!(matches!(refused, StoreError::NoPartition), "{refused:?}");
}

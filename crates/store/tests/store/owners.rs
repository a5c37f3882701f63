//! Whatever a user asks for, the query itself asks whose it is.

use domain::EventType::BookingCreated;
use domain::signature::WebhookSecret;
use ring::rand::SystemRandom;
use store::{Created, DeliveryFilter, IdempotencyKey, Page, TestDeliveryError, WebhookChanges};
use testkit::TestDatabase;

use crate::support::{PLENTY, delivery, event, given_webhook, new_webhook, now, statistics, store_of, user};

#[tokio::test]
async fn no_query_of_a_user_finds_or_changes_what_is_anothers() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let (alice, bob, id, now) = (user("alice"), user("bob"), webhook.id, now());
    let page = Page { number: 1, size: 10 };
    let changes = WebhookChanges { active: Some(false), ..WebhookChanges::default() };
    let secret = WebhookSecret::generate(&SystemRandom::new()).unwrap();
    let sample = event(None, now);
    let of_alice = delivery(sample.id, id);

    assert_eq!(store.get_webhook(&bob, id).await.unwrap(), None);
    assert_eq!(store.list_webhooks(&bob, page).await.unwrap().total, 0);
    assert_eq!(store.update_webhook(&bob, id, changes.clone(), now).await.unwrap(), None);
    assert!(store.regenerate_secret(&bob, id, &secret, now, now).await.unwrap().is_none());
    assert!(!store.delete_webhook(&bob, id).await.unwrap());
    assert!(store.list_deliveries(&bob, id, DeliveryFilter::default(), page).await.unwrap().is_none());
    let sent = store.create_test_delivery(&bob, &sample, of_alice, PLENTY, now).await;
    assert!(matches!(sent, Err(TestDeliveryError::NotTaken)), "{sent:?}");

    // Nothing has come of it; for its owner, each of them works.
    assert_eq!(store.get_webhook(&alice, id).await.unwrap(), Some(webhook));
    assert_eq!(statistics(&store, "alice", id).await.total(), 0);
    store.create_test_delivery(&alice, &sample, of_alice, PLENTY, now).await.unwrap();
    assert_eq!(statistics(&store, "alice", id).await.total(), 1);
    assert!(store.regenerate_secret(&alice, id, &secret, now, now).await.unwrap().is_some());
    assert!(store.update_webhook(&alice, id, changes, now).await.unwrap().is_some());
    assert!(store.delete_webhook(&alice, id).await.unwrap());
}

#[tokio::test]
async fn a_key_of_another_user_is_another_key() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let key = || Some(IdempotencyKey { key: "k".to_owned(), fingerprint: b"same".to_vec(), most: 10 });
    let mut ids = Vec::new();
    for owner in ["alice", "bob"] {
        let created = store.create_webhook(new_webhook(owner, &[BookingCreated]), 10, key()).await.unwrap();
        let Created::New(disclosed) = created else { panic!("{owner}: {created:?}") };
        ids.push(disclosed.webhook.id);
    }
    assert_ne!(ids[0], ids[1]);
}

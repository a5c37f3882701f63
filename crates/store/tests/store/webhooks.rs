use std::time::Duration;

use domain::EventType::{BookingCancelled, BookingCreated, PaymentFailed};
use domain::signature::WebhookSecret;
use ring::rand::SystemRandom;
use store::{
    CreateError, Created, DeliveryFilter, Disclosed, IdempotencyKey, Page, PreviousSecret, WebhookChanges,
};
use testkit::{DEADLINE, TestDatabase, eventually};

use crate::support::{given_webhook, new_webhook, now, store_of, user};

fn key(key: &str, fingerprint: &[u8]) -> IdempotencyKey {
    IdempotencyKey { key: key.to_owned(), fingerprint: fingerprint.to_vec(), most: 100 }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_150_creates_at_once_exactly_100_succeed() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let creates = (0..150).map(|_| {
        let store = store.clone();
        tokio::spawn(
            async move { store.create_webhook(new_webhook("alice", &[BookingCreated]), 100, None).await },
        )
    });
    let (mut new, mut refused) = (0, 0);
    for create in creates.collect::<Vec<_>>() {
        match create.await.unwrap() {
            Ok(Created::New(_)) => new += 1,
            Err(CreateError::LimitReached(100)) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((new, refused), (100, 50));
    given_webhook(&store, "bob", &[BookingCreated]).await;
    let page = store.list_webhooks(&user("alice"), Page { number: 4, size: 30 }).await.unwrap();
    assert_eq!((page.webhooks.len(), page.total), (10, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_creates_one_webhook_however_often_it_comes_at_once() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let creates = (0..20).map(|_| {
        let store = store.clone();
        let new = new_webhook("alice", &[BookingCreated]);
        tokio::spawn(async move { store.create_webhook(new, 100, Some(key("k", b"same"))).await.unwrap() })
    });
    let (mut new, mut webhooks) = (0, Vec::new());
    for create in creates.collect::<Vec<_>>() {
        match create.await.unwrap() {
            Created::New(webhook) => {
                new += 1;
                webhooks.push(webhook);
            }
            Created::Replayed(webhook, secret) => {
                let secret = secret.expect("nobody regenerated it");
                webhooks.push(Disclosed { webhook, secret });
            }
        }
    }
    assert_eq!(new, 1);
    assert!(webhooks.iter().all(|webhook| *webhook == webhooks[0]), "the secret is the same too");
}

#[tokio::test]
async fn a_key_is_its_users_and_its_requests() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let create = async |owner, fingerprint: &[u8], at| {
        let mut new = new_webhook(owner, &[BookingCreated]);
        new.created_at = at;
        store.create_webhook(new, 100, Some(key("k", fingerprint))).await
    };
    let Created::New(first) = create("alice", b"one", now()).await.unwrap() else { panic!("not new") };
    assert!(matches!(create("alice", b"two", now()).await, Err(CreateError::KeyReused)));
    assert!(matches!(create("bob", b"two", now()).await, Ok(Created::New(_))));
    store.delete_webhook(&user("alice"), first.webhook.id).await.unwrap();
    assert!(matches!(create("alice", b"one", now()).await, Err(CreateError::KeyReused)));
    // A key is remembered for 24 hours, whether or not maintenance has run since.
    let later = now() + Duration::from_secs(24 * 3600 + 1);
    assert!(matches!(create("alice", b"one", later).await, Ok(Created::New(_))));
    assert!(matches!(create("alice", b"one", later).await, Ok(Created::Replayed(..))));
}

#[tokio::test]
async fn another_users_webhook_is_as_good_as_none() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let (alice, bob) = (user("alice"), user("bob"));
    let secret = WebhookSecret::generate(&SystemRandom::new()).unwrap();
    assert_eq!(store.get_webhook(&bob, webhook.id).await.unwrap(), None);
    let changes = WebhookChanges { active: Some(false), ..WebhookChanges::default() };
    assert_eq!(store.update_webhook(&bob, webhook.id, changes, now()).await.unwrap(), None);
    assert_eq!(store.regenerate_secret(&bob, webhook.id, &secret, now(), now()).await.unwrap(), None);
    assert!(!store.delete_webhook(&bob, webhook.id).await.unwrap());
    let page = Page { number: 1, size: 20 };
    assert_eq!(store.list_webhooks(&bob, page).await.unwrap().total, 0);
    assert!(
        store.list_deliveries(&bob, webhook.id, DeliveryFilter::default(), page).await.unwrap().is_none()
    );
    assert_eq!(store.get_webhook(&alice, webhook.id).await.unwrap(), Some(webhook));
}

#[tokio::test]
async fn what_is_left_out_of_a_change_stays() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let alice = user("alice");
    let webhook = given_webhook(&store, "alice", &[PaymentFailed, BookingCreated]).await;
    let change =
        async |changes, at| store.update_webhook(&alice, webhook.id, changes, at).await.unwrap().unwrap();

    let at = now() + Duration::from_secs(5);
    let described = WebhookChanges { description: Some(Some("mine".into())), ..WebhookChanges::default() };
    let changed = change(described, at).await;
    assert_eq!((changed.description.as_deref(), changed.updated_at), (Some("mine"), at));
    assert_eq!((&changed.url, &changed.events), (&webhook.url, &webhook.events));
    let events = WebhookChanges { events: Some(vec![BookingCancelled]), ..WebhookChanges::default() };
    let changed = change(events, at).await;
    assert_eq!(changed.events, [BookingCancelled]);
    assert_eq!(changed.description.as_deref(), Some("mine"));
    let nothing = WebhookChanges { description: Some(None), ..WebhookChanges::default() };
    assert_eq!(change(nothing, at).await.description, None);
}

#[tokio::test]
async fn a_webhook_that_was_disabled_by_the_platform_loses_the_reason_when_it_is_turned_on() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let alice = user("alice");
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let client = database.connect().await;
    client
        .batch_execute("UPDATE webhooks SET active = false, disabled_reason = 'gone for days'")
        .await
        .unwrap();
    let found = store.get_webhook(&alice, webhook.id).await.unwrap().unwrap();
    assert_eq!((found.active, found.disabled_reason.as_deref()), (false, Some("gone for days")));
    let on = WebhookChanges { active: Some(true), ..WebhookChanges::default() };
    let changed = store.update_webhook(&alice, webhook.id, on, now()).await.unwrap().unwrap();
    assert_eq!((changed.active, changed.disabled_reason), (true, None));
}

#[tokio::test]
async fn a_new_secret_keeps_the_old_one_until_its_end() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let alice = user("alice");
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await;
    let before = &store.webhook_targets(&[webhook.id]).await.unwrap()[&webhook.id];
    assert!(before.as_ref().unwrap().previous_secret.is_none());

    let secret = WebhookSecret::generate(&SystemRandom::new()).unwrap();
    let until = now() + Duration::from_secs(24 * 3600);
    let changed = store.regenerate_secret(&alice, webhook.id, &secret, until, now()).await.unwrap().unwrap();
    assert_eq!(changed.secret, secret);
    let targets = store.webhook_targets(&[webhook.id]).await.unwrap();
    let target = targets[&webhook.id].as_ref().unwrap();
    assert_eq!(target.secret, secret);
    let previous = PreviousSecret { until, secret: Ok(before.as_ref().unwrap().secret.clone()) };
    assert_eq!(target.previous_secret, Some(previous));
    assert_eq!(target.revision, before.as_ref().unwrap().revision + 1);
}

#[tokio::test]
async fn secrets_are_not_stored_in_the_clear() {
    let database = TestDatabase::create().await;
    let new = new_webhook("alice", &[BookingCreated]);
    store_of(&database).create_webhook(new.clone(), 100, None).await.unwrap();
    let client = database.connect().await;
    let stored: Vec<u8> = client.query_one("SELECT secret FROM webhooks", &[]).await.unwrap().get(0);
    let secret = new.secret.expose().as_bytes();
    assert!(!stored.windows(8).any(|window| secret.windows(8).any(|part| part == window)));
}

/// A request whose client hangs up drops the future in the middle of a transaction.
#[tokio::test]
async fn a_create_that_is_given_up_leaves_no_lock_and_no_open_transaction() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let mut other = database.connect().await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute("LOCK TABLE webhooks IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let creating = tokio::spawn({
        let store = store.clone();
        async move { store.create_webhook(new_webhook("alice", &[BookingCreated]), 100, None).await }
    });
    let observer = database.connect().await;
    let count = async |sql| observer.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    eventually("the create waits", DEADLINE, async || (count(waiting).await == 1).then_some(())).await;
    creating.abort();
    assert!(creating.await.unwrap_err().is_cancelled());
    transaction.rollback().await.unwrap();

    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                   AND state LIKE 'idle in transaction%'";
    given_webhook(&store, "alice", &[BookingCreated]).await;
    eventually("no transaction is open", DEADLINE, async || (count(open).await == 0).then_some(())).await;
}

#[tokio::test]
async fn looking_at_webhooks_needs_no_secrets() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let alice = user("alice");
    let broken = given_webhook(&store, "alice", &[BookingCreated]).await;
    let whole = given_webhook(&store, "alice", &[BookingCreated]).await;
    let client = database.connect().await;
    let break_it = "UPDATE webhooks SET secret_key_id = 'gone' WHERE id = $1";
    client.execute(break_it, &[&broken.id.uuid()]).await.unwrap();

    let page = store.list_webhooks(&alice, Page { number: 1, size: 20 }).await.unwrap();
    assert!([&whole, &broken].iter().all(|webhook| page.webhooks.contains(webhook)), "{page:?}");
    assert!(store.get_webhook(&alice, broken.id).await.unwrap().is_some());
    let off = WebhookChanges { active: Some(false), ..WebhookChanges::default() };
    assert!(!store.update_webhook(&alice, broken.id, off, now()).await.unwrap().unwrap().active);
}

#[tokio::test]
async fn a_user_has_so_many_keys_and_gets_the_next_when_the_oldest_has_had_its_day() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let start = now();
    let create = async |owner, name: &str, at| {
        let mut new = new_webhook(owner, &[BookingCreated]);
        new.created_at = at;
        let key = IdempotencyKey { most: 3, ..key(name, b"same") };
        store.create_webhook(new, 100, Some(key)).await
    };
    for (name, minutes) in [("a", 0), ("b", 60), ("c", 120)] {
        create("alice", name, start + Duration::from_mins(minutes)).await.unwrap();
    }
    let later = start + Duration::from_hours(3);
    let refused = create("alice", "d", later).await;
    let expected = Duration::from_hours(21);
    assert!(
        matches!(refused, Err(CreateError::TooManyKeys { limit: 3, wait }) if wait == expected),
        "{refused:?}"
    );
    assert!(
        matches!(create("alice", "a", later).await, Ok(Created::Replayed(..))),
        "known keys are no new ones"
    );
    assert!(matches!(create("bob", "d", later).await, Ok(Created::New(_))));
    assert_eq!(store.list_webhooks(&user("alice"), Page { number: 1, size: 20 }).await.unwrap().total, 3);
    let next_day = start + Duration::from_hours(24) + Duration::from_secs(1);
    assert!(matches!(create("alice", "d", next_day).await, Ok(Created::New(_))));
}

use std::time::Duration;

use domain::EventType::BookingCreated;
use domain::signature::WebhookSecret;
use domain::{Timestamp, WebhookId};
use ring::rand::SystemRandom;
use store::{Change, DecryptError, EncryptedAnew, PreviousSecret, Store, Unreadable, Which};
use testkit::database::SECRET_KEYS;
use testkit::{DEADLINE, TestDatabase, eventually};
use tokio_postgres::Client;

use crate::support::{new_webhook, now, store_of, store_with_keys, user};

const DAY: Duration = Duration::from_secs(24 * 3600);

const NEW_KEY: &str = "new:HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A store that encrypts with the new key and reads the tests' too.
fn rotating(database: &TestDatabase) -> Store {
    store_with_keys(database, &format!("{NEW_KEY},{SECRET_KEYS}"))
}

/// A store that knows the new key alone.
fn rotated(database: &TestDatabase) -> Store {
    store_with_keys(database, NEW_KEY)
}

fn new_secret() -> WebhookSecret {
    WebhookSecret::generate(&SystemRandom::new()).unwrap()
}

/// A webhook and its secret.
async fn given_webhook(store: &Store, owner: &str) -> (WebhookId, WebhookSecret) {
    let new = new_webhook(owner, &[BookingCreated]);
    let (id, secret) = (new.id, new.secret.clone());
    store.create_webhook(new, 100, None).await.unwrap();
    (id, secret)
}

/// Encrypts everything anew, in batches of three.
async fn rotate(store: &Store) -> EncryptedAnew {
    let mut all = EncryptedAnew::default();
    loop {
        let step = store.encrypt_anew(all.last, 3).await.unwrap();
        if step.last.is_none() {
            return all;
        }
        all.webhooks += step.webhooks;
        all.secrets += step.secrets;
        all.unreadable.extend(step.unreadable);
        all.last = step.last;
    }
}

async fn uses(store: &Store) -> Vec<(String, u64, u64)> {
    let uses = store.key_uses().await.unwrap();
    uses.into_iter().map(|used| (used.key_id.clone(), used.current(), used.previous())).collect()
}

async fn secrets(store: &Store, webhook: WebhookId) -> (WebhookSecret, Option<PreviousSecret>) {
    let mut targets = store.webhook_targets(&[webhook]).await.unwrap();
    let target = targets.remove(&webhook).unwrap().unwrap();
    (target.secret, target.previous_secret)
}

/// A webhook's revision and `updated_at`.
async fn changes(client: &Client, webhook: WebhookId) -> (i64, String) {
    let sql = "SELECT revision, updated_at::text FROM webhooks WHERE id = $1";
    let row = client.query_one(sql, &[&webhook.uuid()]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn all_secrets_are_encrypted_anew_and_nobody_notices() {
    let database = TestDatabase::create().await;
    let (old, store, client) = (store_of(&database), rotating(&database), database.connect().await);
    let alice = user("alice");
    let mut webhooks = Vec::new();
    for _ in 0..7 {
        webhooks.push(given_webhook(&old, "alice").await);
    }
    let (secret, until) = (new_secret(), now() + DAY);
    old.regenerate_secret(&alice, webhooks[2].0, &secret, until, now()).await.unwrap().unwrap();
    assert_eq!(uses(&store).await, [("test".to_owned(), 7, 1)]);
    let before = changes(&client, webhooks[2].0).await;
    let mut listener = store.listener();
    assert_eq!(listener.next().await, Change::Everything);

    let done = rotate(&store).await;

    assert_eq!((done.webhooks, done.secrets, done.unreadable), (7, 8, Vec::new()));
    assert_eq!(uses(&store).await, [("new".to_owned(), 7, 1)]);
    assert_eq!(changes(&client, webhooks[2].0).await, before, "neither revision nor updated_at");
    let after = rotated(&database);
    for (index, (webhook, first)) in webhooks.into_iter().enumerate() {
        let kept = secrets(&after, webhook).await;
        if index == 2 {
            let previous = PreviousSecret { until, secret: Ok(first) };
            assert_eq!(kept, (secret.clone(), Some(previous)));
        } else {
            assert_eq!(kept, (first, None));
        }
    }
    // What comes first is the notification of the change below, not of the rotation.
    given_webhook(&store, "bob").await;
    let first = tokio::time::timeout(DEADLINE, listener.next()).await.unwrap();
    assert_eq!(first, Change::Of(user("bob")));

    let again = rotate(&store).await;
    assert_eq!((again.webhooks, again.secrets), (8, 0), "done is found done");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_encrypt_each_secret_anew_once() {
    let database = TestDatabase::create().await;
    let old = store_of(&database);
    for n in 0..40 {
        given_webhook(&old, &format!("user_{n}")).await;
    }
    let rotations = (0..4).map(|_| {
        let store = rotating(&database);
        tokio::spawn(async move { rotate(&store).await.secrets })
    });
    let mut secrets = 0;
    for rotation in rotations.collect::<Vec<_>>() {
        secrets += rotation.await.unwrap();
    }
    assert_eq!(secrets, 40);
    assert_eq!(uses(&old).await, [("new".to_owned(), 40, 0)]);
}

/// A webhook with its owner's regenerated secret, and the ciphertext of the one before.
async fn regenerated(database: &TestDatabase, client: &Client) -> (WebhookId, WebhookSecret, Vec<u8>) {
    let old = store_of(database);
    let (webhook, secret) = given_webhook(&old, "alice").await;
    let sql = "SELECT secret FROM webhooks WHERE id = $1";
    let ciphertext: Vec<u8> = client.query_one(sql, &[&webhook.uuid()]).await.unwrap().get(0);
    old.regenerate_secret(&user("alice"), webhook, &new_secret(), now() + DAY, now()).await.unwrap();
    (webhook, secret, ciphertext)
}

/// Runs `change` on a webhook between the rotation's reading and its writing.
async fn changed_meanwhile(
    database: &TestDatabase,
    webhook: WebhookId,
    change: impl AsyncFnOnce(&Client),
) -> EncryptedAnew {
    let mut client = database.connect().await;
    let transaction = client.transaction().await.unwrap();
    let lock = "SELECT 1 FROM webhooks WHERE id = $1 FOR UPDATE";
    transaction.execute(lock, &[&webhook.uuid()]).await.unwrap();
    let store = rotating(database);
    let rotating = tokio::spawn(async move { rotate(&store).await });
    let observer = database.connect().await;
    eventually("the rotation has read and waits to write", DEADLINE, async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        let count: i64 = observer.query_one(waiting, &[]).await.unwrap().get(0);
        (count > 0).then_some(())
    })
    .await;
    change(transaction.client()).await;
    transaction.commit().await.unwrap();
    rotating.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_changes_between_reading_and_writing_is_not_overwritten_but_encrypted_anew_too() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let (webhook, secret, ciphertext) = regenerated(&database, &client).await;
    let done = changed_meanwhile(&database, webhook, async |client| {
        let sql = "UPDATE webhooks SET secret = $2 WHERE id = $1";
        client.execute(sql, &[&webhook.uuid(), &ciphertext]).await.unwrap();
    })
    .await;
    assert_eq!((done.webhooks, done.secrets, done.unreadable), (1, 2, Vec::new()));
    assert_eq!(secrets(&rotated(&database), webhook).await.0, secret);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_previous_secret_that_changes_between_reading_and_writing_is_not_overwritten() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let (webhook, ..) = regenerated(&database, &client).await;
    let done = changed_meanwhile(&database, webhook, async |client| {
        let sql = "UPDATE webhooks SET previous_secret = NULL, previous_secret_key_id = NULL WHERE id = $1";
        client.execute(sql, &[&webhook.uuid()]).await.unwrap();
    })
    .await;
    assert_eq!(done.secrets, 1);
    assert_eq!(secrets(&rotated(&database), webhook).await.1, None, "what is gone stays gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_deleted_between_reading_and_writing_stays_deleted() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let (webhook, ..) = regenerated(&database, &client).await;
    let done = changed_meanwhile(&database, webhook, async |client| {
        client.execute("DELETE FROM webhooks WHERE id = $1", &[&webhook.uuid()]).await.unwrap();
    })
    .await;
    assert_eq!((done.webhooks, done.secrets), (1, 0));
    assert_eq!(uses(&rotated(&database)).await, []);
}

#[tokio::test]
async fn what_cannot_be_decrypted_is_named_and_left_alone_and_the_rest_is_done() {
    let database = TestDatabase::create().await;
    let (old, client) = (store_of(&database), database.connect().await);
    let mut webhooks = Vec::new();
    for _ in 0..4 {
        webhooks.push(given_webhook(&old, "alice").await.0);
    }
    for webhook in &webhooks[2..] {
        let new = new_secret();
        old.regenerate_secret(&user("alice"), *webhook, &new, now() + DAY, now()).await.unwrap();
    }
    let break_it = async |set: &str, webhook: WebhookId| {
        let sql = format!("UPDATE webhooks SET {set} WHERE id = $1");
        client.execute(&sql, &[&webhook.uuid()]).await.unwrap();
    };
    break_it("secret_key_id = 'lost'", webhooks[0]).await;
    break_it("secret = set_byte(secret, 20, get_byte(secret, 20) # 1)", webhooks[2]).await;
    break_it("previous_secret = 'short'", webhooks[3]).await;
    let stored = async || {
        let rows = client.query("SELECT w::text FROM webhooks w WHERE secret_key_id = 'lost'", &[]).await;
        rows.unwrap()[0].get::<_, String>(0)
    };
    let before = stored().await;

    let mut done = rotate(&rotating(&database)).await;

    done.unreadable.sort_by_key(|unreadable| webhooks.iter().position(|it| *it == unreadable.webhook));
    let unreadable = |webhook: usize, which, reason| Unreadable { webhook: webhooks[webhook], which, reason };
    let corrupt = || DecryptError::Corrupt("test".to_owned());
    assert_eq!(
        done.unreadable,
        [
            unreadable(0, Which::Current, DecryptError::UnknownKey("lost".to_owned())),
            unreadable(2, Which::Current, corrupt()),
            unreadable(3, Which::Previous, corrupt()),
        ]
    );
    assert_eq!((done.webhooks, done.secrets), (4, 3), "one whole, one current, one previous");
    assert_eq!(stored().await, before);
    let expected = [("lost", 1, 0), ("new", 2, 1), ("test", 1, 1)];
    assert_eq!(uses(&old).await, expected.map(|(id, current, previous)| (id.to_owned(), current, previous)));
}

/// The dispatcher's and the API's way with a webhook whose key was lost.
#[tokio::test]
async fn a_secret_that_cannot_be_decrypted_is_its_webhooks_alone_and_regenerating_is_the_way_out() {
    let database = TestDatabase::create().await;
    let (store, client) = (store_of(&database), database.connect().await);
    let alice = user("alice");
    let (lost, _) = given_webhook(&store, "alice").await;
    let (fine, _) = given_webhook(&store, "alice").await;
    let sql = "UPDATE webhooks SET secret_key_id = 'lost' WHERE id = $1";
    client.execute(sql, &[&lost.uuid()]).await.unwrap();
    let targets = store.webhook_targets(&[lost, fine]).await.unwrap();
    assert_eq!(targets[&lost].as_ref().unwrap_err(), &DecryptError::UnknownKey("lost".to_owned()));
    assert!(targets[&fine].is_ok());

    let secret = new_secret();
    let changed = store.regenerate_secret(&alice, lost, &secret, now() + DAY, now()).await.unwrap().unwrap();
    assert_eq!((changed.webhook.id, changed.secret), (lost, secret.clone()));
    assert_eq!(secrets(&store, lost).await, (secret.clone(), None), "what cannot be read is not kept");

    // A key that is lost after a regeneration does not make the new secret unreadable.
    store.regenerate_secret(&alice, fine, &secret, now() + DAY, now()).await.unwrap();
    let sql = "UPDATE webhooks SET previous_secret_key_id = 'lost' WHERE id = $1";
    client.execute(sql, &[&fine.uuid()]).await.unwrap();
    let (current, previous) = secrets(&store, fine).await;
    assert_eq!(current, secret);
    assert_eq!(previous.unwrap().secret, Err(DecryptError::UnknownKey("lost".to_owned())));
}

#[tokio::test]
async fn regenerating_twice_keeps_the_last_secret_before_and_its_end() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let alice = user("alice");
    let (webhook, _) = given_webhook(&store, "alice").await;
    let (first, second, until) = (new_secret(), new_secret(), now() + DAY * 2);
    store.regenerate_secret(&alice, webhook, &first, now() + DAY, now()).await.unwrap().unwrap();
    store.regenerate_secret(&alice, webhook, &second, until, now()).await.unwrap().unwrap();
    assert_eq!(secrets(&store, webhook).await, (second, Some(PreviousSecret { until, secret: Ok(first) })));
}

#[tokio::test]
async fn maintenance_forgets_a_secret_at_the_end_of_its_time_and_not_before() {
    let database = TestDatabase::create().await;
    let (store, client) = (store_of(&database), database.connect().await);
    let until: Timestamp = now() + Duration::from_secs(3600);
    let mut webhooks = Vec::new();
    for _ in 0..3 {
        let (webhook, _) = given_webhook(&store, "alice").await;
        store.regenerate_secret(&user("alice"), webhook, &new_secret(), until, now()).await.unwrap();
        webhooks.push(webhook);
    }
    let (revision, updated_at) = changes(&client, webhooks[0]).await;
    store.maintain(until - Duration::from_millis(1), 30).await.unwrap();
    assert_eq!(uses(&store).await, [("test".to_owned(), 3, 3)]);

    store.maintain(until, 30).await.unwrap();
    assert_eq!(uses(&store).await, [("test".to_owned(), 3, 0)]);
    let left = "SELECT count(*) FROM webhooks WHERE previous_secret IS NOT NULL OR previous_secret_key_id IS NOT NULL
                    OR previous_secret_until IS NOT NULL";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(changes(&client, webhooks[0]).await, (revision + 1, updated_at), "dispatchers forget it too");
    assert!(secrets(&store, webhooks[0]).await.1.is_none());
}

//! `lokctl keys` against a real database.
#![expect(clippy::unwrap_used, reason = "these are tests, their helpers included")]

use std::time::Duration;

use domain::EventType::BookingCreated;
use domain::signature::WebhookSecret;
use domain::{Timestamp, UserId, WebhookId};
use ring::rand::SystemRandom;
use service::Clock;
use store::{NewWebhook, SecretKeys};
use testkit::database::SECRET_KEYS;
use testkit::{Binary, DEADLINE, Output, TestDatabase, eventually};

const NEW_KEY: &str = "new:HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn lokctl(database: &TestDatabase, keys: &str, arguments: &[&str]) -> Binary {
    let lokctl = arguments.iter().fold(Binary::new("lokctl"), |lokctl, argument| lokctl.arg(*argument));
    lokctl.env("LOK__DATABASE__URL", database.url()).env("LOK__SECRETS__KEYS", keys)
}

#[track_caller]
fn succeeded(output: &Output) -> &str {
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    output.stdout.trim_end()
}

/// Webhooks whose secrets are under the tests' key.
async fn given_webhooks(database: &TestDatabase, count: usize) -> Vec<WebhookId> {
    given_webhooks_of(Clock::system().now(), database, count).await
}

/// The same, with ids of this time.
async fn given_webhooks_of(now: Timestamp, database: &TestDatabase, count: usize) -> Vec<WebhookId> {
    let (store, random) = (database.store(), SystemRandom::new());
    let mut ids = Vec::new();
    for _ in 0..count {
        let new = NewWebhook {
            id: WebhookId::generate(now, &random).unwrap(),
            user: UserId::parse("user_1").unwrap(),
            url: "https://receiver.example/hook".to_owned(),
            events: vec![BookingCreated],
            description: None,
            secret: WebhookSecret::generate(&random).unwrap(),
            created_at: now,
        };
        ids.push(new.id);
        store.create_webhook(new, 100_000, None).await.unwrap();
    }
    ids
}

/// The lines of `keys list`, each as its words.
async fn list(database: &TestDatabase, keys: &str) -> Vec<Vec<String>> {
    let output = lokctl(database, keys, &["keys", "list"]).output().await;
    let lines = succeeded(&output).lines().skip(1);
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[tokio::test]
async fn a_generated_key_is_alone_on_standard_output_and_can_be_used() {
    let (lokctl, clock) = (Binary::new("lokctl").arg("keys").arg("generate"), Clock::system());
    let output = lokctl.output().await;
    let today = format!("k{}", clock.now().format("%Y%m%d"));
    assert_eq!(SecretKeys::parse(succeeded(&output)).unwrap().ids().collect::<Vec<_>>(), [today]);
    let named = lokctl.arg("--id").arg("spring-2027").output().await;
    assert!(succeeded(&named).starts_with("spring-2027:"));
    let impossible = Binary::new("lokctl").arg("keys").arg("generate").arg("--id").arg("a:b").output().await;
    assert_eq!((impossible.code, impossible.stdout.as_str()), (Some(1), ""));
    assert!(impossible.stderr.contains("--id"), "{}", impossible.stderr);
}

#[tokio::test]
async fn the_list_tells_when_an_old_key_may_go() {
    let database = TestDatabase::create().await;
    let both = format!("{NEW_KEY},{SECRET_KEYS}");
    assert_eq!(
        list(&database, &both).await,
        [vec!["new", "0", "0", "encrypts"], vec!["test", "0", "0", "not", "used"]]
    );
    let ids = given_webhooks(&database, 3).await;
    let store = database.store();
    let (user, now) = (UserId::parse("user_1").unwrap(), Clock::system().now());
    let secret = WebhookSecret::generate(&SystemRandom::new()).unwrap();
    store.regenerate_secret(&user, ids[0], &secret, now + Duration::from_hours(24), now).await.unwrap();
    assert_eq!(list(&database, &both).await[1], ["test", "3", "1", "still", "needed"]);
    assert_eq!(list(&database, NEW_KEY).await[1], ["test", "3", "1", "not", "in", "secrets.keys"]);

    let output = lokctl(&database, &both, &["keys", "rotate", "--batch", "2"]).output().await;
    assert_eq!(succeeded(&output), "encrypted anew under `new`: 4 secrets of 3 webhooks looked at");
    assert_eq!(
        list(&database, &both).await,
        [vec!["new", "3", "1", "encrypts"], vec!["test", "0", "0", "not", "used"]]
    );
    let again = lokctl(&database, &both, &["keys", "rotate"]).output().await;
    assert_eq!(succeeded(&again), "encrypted anew under `new`: 0 secrets of 3 webhooks looked at");
}

#[tokio::test]
async fn a_rotation_that_is_killed_in_the_middle_is_finished_by_the_next() {
    let database = TestDatabase::create().await;
    given_webhooks(&database, 400).await;
    let both = format!("{NEW_KEY},{SECRET_KEYS}");
    let client = database.connect().await;
    let rotated = async || {
        let sql = "SELECT count(*) FROM webhooks WHERE secret_key_id = 'new'";
        client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    let mut killed = lokctl(&database, &both, &["keys", "rotate", "--batch", "1"]).spawn();
    eventually("some are encrypted anew", DEADLINE, async || (rotated().await >= 5).then_some(())).await;
    killed.kill9();
    let done = rotated().await;
    assert!(done < 400, "it was killed too late to tell anything");
    let readable = async |keys: &str| {
        let store = backends_store(&database, keys);
        let ids: Vec<WebhookId> = all_ids(&client).await;
        store.webhook_targets(&ids).await.unwrap().values().filter(|target| target.is_ok()).count()
    };
    assert_eq!(readable(&both).await, 400, "whatever the instant, every secret can be read");

    let output = lokctl(&database, &both, &["keys", "rotate"]).output().await;
    let left = 400 - rotated_before(&output);
    assert!((done..=done + 1).contains(&left), "{done}: {}", output.stdout);
    assert_eq!(readable(NEW_KEY).await, 400);
}

/// How many secrets a run says it encrypted anew.
fn rotated_before(output: &Output) -> i64 {
    let words: Vec<_> = succeeded(output).split(' ').collect();
    words[4].parse().unwrap()
}

async fn all_ids(client: &tokio_postgres::Client) -> Vec<WebhookId> {
    let rows = client.query("SELECT id FROM webhooks", &[]).await.unwrap();
    rows.iter().map(|row| WebhookId::from_uuid(row.get(0))).collect()
}

fn backends_store(database: &TestDatabase, keys: &str) -> store::Store {
    let mut settings = service::Settings::default();
    settings.database.url = Some(service::values::Secret::new(database.url()));
    settings.secrets.keys = Some(service::values::Secret::new(keys));
    backends::store(&settings, "lokctl-tests").unwrap()
}

#[tokio::test]
async fn secrets_that_cannot_be_decrypted_are_named_and_the_exit_code_says_so() {
    let database = TestDatabase::create().await;
    let ids = given_webhooks(&database, 3).await;
    let client = database.connect().await;
    let lose = "UPDATE webhooks SET secret_key_id = 'lost' WHERE id = $1";
    client.execute(lose, &[&ids[1].uuid()]).await.unwrap();
    let both = format!("{NEW_KEY},{SECRET_KEYS}");
    let output = lokctl(&database, &both, &["keys", "rotate"]).output().await;
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert_eq!(output.stdout.trim_end(), "encrypted anew under `new`: 2 secrets of 3 webhooks looked at");
    for part in [&ids[1].to_string(), "key `lost` is not among secrets.keys", "1 secrets cannot be decrypted"]
    {
        assert!(output.stderr.contains(part), "{part} in {}", output.stderr);
    }
    assert_eq!(list(&database, &both).await[2], ["lost", "1", "0", "not", "in", "secrets.keys"]);
}

#[tokio::test]
async fn a_secret_that_is_written_under_the_old_key_behind_the_rotation_is_told() {
    let database = TestDatabase::create().await;
    given_webhooks(&database, 100).await;
    let both = format!("{NEW_KEY},{SECRET_KEYS}");
    let rotate = lokctl(&database, &both, &["keys", "rotate", "--batch", "1"]);
    let writing = async {
        let client = database.connect().await;
        let sql = "SELECT count(*) FROM webhooks WHERE secret_key_id = 'new'";
        eventually("some are encrypted anew", DEADLINE, async || {
            (client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
        })
        .await;
        given_webhooks_of(Timestamp::UNIX_EPOCH, &database, 1).await;
    };
    let (output, ()) = tokio::join!(rotate.output(), writing);
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("1 secrets are under another key still"), "{}", output.stderr);
    let again = lokctl(&database, &both, &["keys", "rotate"]).output().await;
    assert_eq!(succeeded(&again), "encrypted anew under `new`: 1 secrets of 101 webhooks looked at");
}

#[tokio::test]
async fn without_keys_or_with_wrong_ones_nothing_is_done_and_none_is_shown() {
    let database = TestDatabase::create().await;
    let (_, key) = NEW_KEY.split_once(':').unwrap();
    for keys in ["", key, &format!("{key}:new"), "new:c2hvcnQ="] {
        let output =
            lokctl(&database, keys, &["keys", "rotate"]).directory(std::env::temp_dir()).output().await;
        assert_eq!(output.code, Some(2), "{}", output.stderr);
        assert!(output.stderr.to_lowercase().contains("secrets"), "{}", output.stderr);
        assert!(!output.stderr.contains(key) && !output.stderr.contains("c2hvcnQ"), "{}", output.stderr);
    }
}

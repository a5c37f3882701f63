//! The commands against a real database and a real broker.
#![expect(clippy::unwrap_used, reason = "these are tests, their helpers included")]

use std::path::PathBuf;
use std::time::Duration;

use broker::{Backoff, Broker, BrokerConfig, Inspector, Message, Origin, PublisherConfig, Received};
use testkit::{Binary, DEADLINE, Output, TestDatabase, TestQueues, servers};
use wire::names::{ERROR_CODE_HEADER, ERROR_HEADER, ROUTING_KEY_HEADER, SOURCE_QUEUE_HEADER};
use wire::rejected::{POISON, rejected};

/// A queue prefix with the topology declared, and `lokctl` on it.
struct Queues {
    queues: TestQueues,
    broker: Broker,
}

impl Queues {
    async fn declared() -> Self {
        let delays = [60, 300].map(Duration::from_secs).to_vec();
        let queues = TestQueues::reserve(delays, Duration::from_secs(5)).await;
        let config = BrokerConfig {
            url: servers::amqp_url(),
            name: "lokctl's tests".to_owned(),
            heartbeat: Duration::from_secs(10),
            connect_timeout: DEADLINE,
            publish_timeout: DEADLINE,
            backoff: Backoff::default(),
            ca_file: None,
            consumes: Origin::Anyone,
        };
        let broker = Broker::connect(config, queues.topology()).unwrap();
        tokio::time::timeout(DEADLINE, broker.ready()).await.expect("the broker is there");
        Self { queues, broker }
    }

    fn lokctl(&self, arguments: &[&str]) -> Binary {
        lokctl(arguments)
            .env("LOK__AMQP__URL", servers::amqp_url())
            .env("LOK__AMQP__PREFIX", self.queues.prefix())
    }

    fn inspector(&self) -> Inspector {
        self.broker.inspector()
    }

    /// What is in a queue now.
    async fn peek(&self, queue: &str) -> Vec<Received> {
        let pulled = self.inspector().pull(queue, 100).await.unwrap();
        let messages = pulled.messages().cloned().collect();
        pulled.close().await.unwrap();
        messages
    }

    async fn put(&self, message: Message) {
        let publisher = self.broker.publisher(PublisherConfig::default());
        let _confirmed = publisher.publish(message).await.unwrap();
    }

    /// Puts a message where event-ingest puts what it rejects.
    async fn reject(&self, id: &str, body: &str) {
        let queue = self.queues.names().rejected_queue();
        let message = Message::to_queue(queue, body.to_owned().into())
            .content_type(wire::JSON)
            .message_id(id)
            .header(ERROR_CODE_HEADER, "schema_violation")
            .header(ERROR_HEADER, "/data/id: is required")
            .header(ROUTING_KEY_HEADER, "booking.created")
            .header("traceparent", "00-1");
        self.put(message).await;
    }
}

fn lokctl(arguments: &[&str]) -> Binary {
    arguments.iter().fold(Binary::new("lokctl"), |binary, argument| binary.arg(*argument))
}

#[track_caller]
fn succeeded(output: &Output) -> &str {
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    output.stdout.trim_end()
}

/// A directory that is removed at the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lokctl-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn without_arguments_or_configuration_it_tells_what_is_missing() {
    let output = lokctl(&[]).output().await;
    assert_eq!(output.code, Some(2));
    assert!(output.stderr.contains("Examples"), "{}", output.stderr);

    let nowhere = TempDir::new("nowhere");
    for arguments in [&["migrate"][..], &["token", "--user", "u"], &["rejected", "list"]] {
        let output = lokctl(arguments).directory(&nowhere.0).output().await;
        assert_eq!(output.code, Some(2), "{arguments:?}: {}", output.stderr);
        assert!(output.stderr.contains("LOK__") && output.stderr.contains("make up"), "{}", output.stderr);
    }
}

#[tokio::test]
async fn a_token_is_alone_on_standard_output_and_the_environment_wins_over_dev_env() {
    let stack = TempDir::new("stack");
    stack.file(".dev/env", "LOK_API_URL=http://127.0.0.1:1\nLOK__AUTH__HS256_SECRET=from-dev-env\n");
    let token = lokctl(&["token", "--user", "user_1", "--ttl", "5m"]).directory(&stack.0);
    let signed = |output: &Output, secret: &str| {
        let key = jsonwebtoken::DecodingKey::from_secret(secret.as_bytes());
        let validation = jsonwebtoken::Validation::default();
        jsonwebtoken::decode::<serde_json::Value>(succeeded(output), &key, &validation).map(|it| it.claims)
    };
    assert_eq!(signed(&token.output().await, "from-dev-env").unwrap()["sub"], "user_1");
    let output = token.env("LOK__AUTH__HS256_SECRET", "mine").output().await;
    assert!(signed(&output, "from-dev-env").is_err());
    assert_eq!(signed(&output, "mine").unwrap()["sub"], "user_1");
}

#[tokio::test]
async fn an_empty_database_is_migrated_once() {
    let database = TestDatabase::create_empty().await;
    let migrate = lokctl(&["migrate"]).env("LOK__DATABASE__URL", database.url());
    let first = migrate.output().await;
    assert!(succeeded(&first).lines().all(|line| line.starts_with("applied ")), "{}", first.stdout);
    assert_eq!(succeeded(&migrate.output().await), "nothing to do");
    database.store().check_schema().await.expect("the schema is this program's");
}

#[tokio::test]
async fn a_database_that_is_not_there_is_waited_for_and_then_told() {
    let output = lokctl(&["migrate", "--wait", "300ms"])
        .env("LOK__DATABASE__URL", "postgres://nobody:secretword@127.0.0.1:1/nothing")
        .output()
        .await;
    assert_eq!(output.code, Some(1));
    assert!(
        output.stderr.contains("database.url") && !output.stderr.contains("secretword"),
        "{}",
        output.stderr
    );
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_told_with_the_setting_and_without_the_password() {
    let output = lokctl(&["rejected", "list"])
        .env("LOK__AMQP__URL", "amqp://u:secretword@127.0.0.1:1/%2f")
        .env("LOK__AMQP__CONNECT_TIMEOUT", "300ms")
        .output()
        .await;
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("amqp.url") && !output.stderr.contains("secretword"), "{}", output.stderr);
}

#[tokio::test]
async fn an_event_is_published_as_written_and_its_id_printed() {
    let on = Queues::declared().await;
    let data = "{\"id\":\"b\",\"listingId\":\"l\",\"guestId\":\"g\",\"startDate\":\"2024-02-01T14:00:00Z\",\
                \"endDate\":\"2024-02-03T11:00:00Z\",\"totalPrice\": 250.00,\"currency\":\"EUR\",\
                \"status\":\"PENDING\",\"pricingMode\":\"DAILY\",\"createdAt\":\"2024-01-15T10:30:00Z\"}";
    let publish = ["publish", "--event", "booking.created", "--recipient", "user_1", "--data", "-"];
    let id = succeeded(&on.lokctl(&publish).input(data).output().await).to_owned();
    let example = ["publish", "--event", "payment.failed", "--recipient", "u", "--id", "payment-1"];
    assert_eq!(succeeded(&on.lokctl(&example).output().await), "payment-1");

    let messages = on.peek(&on.queues.names().ingest_queue()).await;
    assert_eq!(messages.len(), 2);
    let body = String::from_utf8(messages[0].body.to_vec()).unwrap();
    assert!(body.contains(data), "{body}");
    assert_eq!(messages[0].message_id.as_deref(), Some(id.as_str()));
    let keys: Vec<_> = messages.iter().map(|message| message.routing_key.as_str()).collect();
    assert_eq!(keys, ["booking.created", "payment.failed"]);
}

#[tokio::test]
async fn what_would_be_rejected_is_refused_with_every_place_unless_asked_for() {
    let on = Queues::declared().await;
    let arguments = ["publish", "--event", "booking.created", "--recipient", "u", "--data", "-"];
    let output = on.lokctl(&arguments).input("{\"id\": 1}").output().await;
    assert_eq!(output.code, Some(1));
    for place in ["/data/id", "listingId", "--unchecked"] {
        assert!(output.stderr.contains(place), "{place} in {}", output.stderr);
    }
    assert_eq!(on.peek(&on.queues.names().ingest_queue()).await.len(), 0);

    let unchecked = on.lokctl(&arguments).arg("--unchecked").input("{\"id\": 1}").output().await;
    succeeded(&unchecked);
    assert_eq!(on.peek(&on.queues.names().ingest_queue()).await.len(), 1);
}

#[tokio::test]
async fn rejected_messages_are_listed_and_shown_and_stay_however_often_one_looks() {
    let on = Queues::declared().await;
    assert_eq!(succeeded(&on.lokctl(&["rejected", "list"]).output().await), "no rejected messages");
    on.reject("order-1", "{\"event\":\"booking.created\",\"n\":1.50}").await;
    on.reject("order-2", "not JSON").await;

    let list = on.lokctl(&["rejected", "list"]);
    for _ in 0..5 {
        let output = list.output().await;
        let lines: Vec<_> = succeeded(&output).lines().collect();
        assert_eq!(lines.len(), 3, "{}", output.stdout);
        for word in ["1 ", "schema_violation", "booking.created", "order-1", "/data/id: is required"] {
            assert!(lines[1].contains(word), "{word} in {}", lines[1]);
        }
    }
    let shown = on.lokctl(&["rejected", "show", "order-1"]).output().await;
    assert!(succeeded(&shown).contains("header traceparent: 00-1"), "{}", shown.stdout);
    assert!(shown.stdout.ends_with("{\"event\":\"booking.created\",\"n\":1.50}"), "{}", shown.stdout);
    let payload = on.lokctl(&["rejected", "show", "2", "--payload-only"]).output().await;
    assert_eq!(payload.stdout, "not JSON");
    let absent = on.lokctl(&["rejected", "show", "3"]).output().await;
    assert_eq!(absent.code, Some(1));
}

#[tokio::test]
async fn a_republished_message_moves_to_the_exchange_as_it_was_first_published() {
    let on = Queues::declared().await;
    let names = on.queues.names();
    on.reject("order-1", "{\"event\":\"booking.created\"}").await;
    on.reject("order-2", "{}").await;
    succeeded(&on.lokctl(&["rejected", "republish", "order-2"]).output().await);

    let moved = on.peek(&names.ingest_queue()).await;
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0].routing_key, "booking.created");
    assert_eq!(moved[0].message_id.as_deref(), Some("order-2"));
    assert_eq!(moved[0].content_type.as_deref(), Some(wire::JSON));
    assert_eq!(moved[0].headers.text(ERROR_CODE_HEADER), None);
    assert_eq!(moved[0].headers.text("traceparent").as_deref(), Some("00-1"));
    let left = on.peek(&names.rejected_queue()).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].message_id.as_deref(), Some("order-1"));
}

#[tokio::test]
async fn a_mended_message_is_checked_and_takes_the_place_of_the_rejected_one() {
    let on = Queues::declared().await;
    let names = on.queues.names();
    on.reject("order-1", "broken").await;
    let directory = TempDir::new("mended");
    let still_wrong =
        directory.file("wrong.json", "{\"event\":\"message.received\",\"recipients\":[],\"data\":{}}");
    let output = on.lokctl(&["rejected", "republish", "1", "--payload", &still_wrong]).output().await;
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("/recipients"), "{}", output.stderr);
    assert_eq!(on.peek(&names.rejected_queue()).await.len(), 1);

    let event = testkit::Event::example(domain::EventType::MessageReceived).to("user_1").to_json();
    let mended = directory.file("mended.json", &event);
    succeeded(&on.lokctl(&["rejected", "republish", "1", "--payload", &mended]).output().await);
    let moved = on.peek(&names.ingest_queue()).await;
    assert_eq!(moved[0].routing_key, "message.received");
    assert_eq!(moved[0].body, event.as_bytes());
    assert_eq!(on.peek(&names.rejected_queue()).await.len(), 0);
}

#[tokio::test]
async fn all_are_republished_except_those_that_do_not_tell_where_to() {
    let on = Queues::declared().await;
    let names = on.queues.names();
    on.put(Message::to_queue(names.rejected_queue(), "lost".into()).message_id("lost")).await;
    for n in 0..150 {
        on.reject(&format!("order-{n}"), "{}").await;
    }
    let output = on.lokctl(&["rejected", "republish", "--all"]).output().await;
    assert_eq!(output.code, Some(1), "{}", output.stderr);
    assert!(output.stderr.contains("lost"), "{}", output.stderr);
    assert_eq!(output.stdout.lines().count(), 150);
    let left = on.peek(&names.rejected_queue()).await;
    assert_eq!(left.len(), 1);
    assert_eq!(on.inspector().depth(&names.ingest_queue()).await.unwrap(), Some(150));
}

#[tokio::test]
async fn a_job_that_was_set_aside_as_poison_goes_back_to_its_queue() {
    let on = Queues::declared().await;
    let names = on.queues.names();
    let job = Message::to_queue(names.deliver_queue(), "job".into()).content_type(wire::PROTOBUF);
    let set_aside = rejected(job, &names, POISON, "failed 4 times");
    on.put(set_aside.header(SOURCE_QUEUE_HEADER, &names.deliver_queue())).await;

    let list = on.lokctl(&["rejected", "list"]).output().await;
    assert!(succeeded(&list).contains("poison"), "{}", list.stdout);
    succeeded(&on.lokctl(&["rejected", "republish", "1"]).output().await);
    let back = on.peek(&names.deliver_queue()).await;
    assert_eq!(back.len(), 1);
    assert_eq!(back[0].body, "job");
    assert_eq!(back[0].headers.text(SOURCE_QUEUE_HEADER), None);
    assert!(back[0].redelivered, "whoever worked on it may have done part of the work");
    assert_eq!(on.peek(&names.rejected_queue()).await.len(), 0);
}

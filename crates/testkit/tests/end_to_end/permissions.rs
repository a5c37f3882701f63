//! RabbitMQ's users have the least permissions that the operators' guide gives them: everything works, and nothing else.

use std::collections::BTreeMap;

use domain::EventType::{BookingCreated, PaymentSucceeded};
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeBindOptions,
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind, ExchangeKind,
};
use serde_json::{Value, json};
use testkit::{
    ApiClient, Binary, DEADLINE, Event, HttpClient, PrivateServer, Receiver, Reply, Service, Stack,
    eventually_ok, token,
};
use url::Url;

use crate::support::root;

const PASSWORD: &str = "only-for-this-test";

const QUEUES: [&str; 32] = [
    "ingest.events",
    "ingest.events.bulk",
    "ingest.events.bulk.isolated",
    "ingest.events.isolated",
    "webhooks.fanout",
    "webhooks.fanout.isolated",
    "webhooks.deliver",
    "webhooks.deliver.isolated",
    "webhooks.retry.100ms",
    "webhooks.park.5s",
    "webhooks.park.10s",
    "webhooks.park.20s",
    "webhooks.park.40s",
    "webhooks.park.80s",
    "webhooks.park.160s",
    "webhooks.park.320s",
    "webhooks.park.640s",
    "webhooks.fanout.park.5s",
    "webhooks.fanout.s1",
    "webhooks.deliver.s1",
    "webhooks.retry.100ms.s1",
    "webhooks.park.5s.s1",
    "webhooks.park.10s.s1",
    "webhooks.park.20s.s1",
    "webhooks.park.40s.s1",
    "webhooks.park.80s.s1",
    "webhooks.park.160s.s1",
    "webhooks.park.320s.s1",
    "webhooks.park.640s.s1",
    "webhooks.fanout.park.5s.s1",
    "webhooks.dead",
    "lokroom.events.rejected",
];

/// The words of every `rabbitmqctl` command in a guide.
fn commands(guide: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(root().join("docs").join(guide)).expect("the guide is there");
    let text = text.replace("\\\n", " ");
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("rabbitmqctl "));
    let word = |word: &str| word.trim_matches('\'').to_owned();
    lines.map(|line| line.split_whitespace().map(word).collect()).collect()
}

/// What RabbitMQ imports instead: one call of its tool takes as long as all of them.
fn definitions(commands: &[Vec<String>]) -> Value {
    let (mut users, mut permissions, mut topic_permissions) = (Vec::new(), Vec::new(), Vec::new());
    for command in commands {
        match command.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["add_user", name] => users.push(json!({ "name": name, "password": PASSWORD, "tags": "" })),
            ["set_permissions", user, configure, write, read] => permissions.push(json!({
                "user": user, "vhost": "/", "configure": configure, "write": write, "read": read
            })),
            ["set_topic_permissions", user, exchange, write, read] => topic_permissions.push(json!({
                "user": user, "vhost": "/", "exchange": exchange, "write": write, "read": read
            })),
            ["delete_queue" | "export_definitions", ..] => {}
            _ => panic!("a command that this test does not know: {command:?}"),
        }
    }
    json!({ "users": users, "permissions": permissions, "topic_permissions": topic_permissions })
}

async fn import(broker: &PrivateServer, definitions: &Value) {
    let log = broker.log_directory();
    let home = log.parent().expect("a folder of its own").join("rabbitmq");
    let file = home.join("definitions.json");
    std::fs::write(&file, definitions.to_string()).expect("the folder is the test's");
    let port = broker.url().port().expect("a port of its own");
    let output = Binary::program("rabbitmqctl", "/usr/lib/rabbitmq/bin/rabbitmqctl")
        .env("HOME", home.to_str().expect("a path in UTF-8"))
        .env("LANG", "C.UTF-8")
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_NODENAME", "lokroom@localhost")
        .env("ERL_EPMD_PORT", (port + 2000).to_string())
        .arg("import_definitions")
        .arg(file.to_str().expect("a path in UTF-8"))
        .output()
        .await;
    assert_eq!(output.code, Some(0), "{output:?}");
}

fn url_of(broker: &PrivateServer, user: &str) -> String {
    let mut url: Url = broker.url().clone();
    url.set_username(user).expect("an AMQP URL has a user");
    url.set_password(Some(PASSWORD)).expect("an AMQP URL has a password");
    url.to_string()
}

/// A user's own connection.
struct User {
    name: &'static str,
    connection: Connection,
}

impl User {
    async fn connect(broker: &PrivateServer, name: &'static str) -> Self {
        let connection = Connection::connect(&url_of(broker, name), ConnectionProperties::default()).await;
        Self { name, connection: connection.unwrap_or_else(|error| panic!("{name}: {error}")) }
    }

    async fn channel(&self) -> Channel {
        let channel = self.connection.create_channel().await.expect("a connection that lives");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("a channel that lives");
        channel
    }

    /// Publishes, and waits until the broker has taken it or refused.
    async fn publish(&self, exchange: &str, key: &str, body: &str, cc: Option<&str>) -> lapin::Result<()> {
        let mut headers = FieldTable::default();
        if let Some(cc) = cc {
            let keys = vec![AMQPValue::LongString(LongString::from(cc))];
            headers.insert("CC".into(), AMQPValue::FieldArray(keys.into()));
        }
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let channel = self.channel().await;
        let confirm = channel
            .basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties)
            .await?
            .await?;
        assert!(matches!(confirm, Confirmation::Ack(None)), "{} {exchange} {key}: {confirm:?}", self.name);
        Ok(())
    }

    async fn publish_event(&self, event: &Event) -> lapin::Result<()> {
        self.publish("lokroom.events", event.event_type().as_str(), &event.to_json(), None).await
    }

    async fn cannot_publish(&self, exchange: &str, key: &str) {
        refused(
            self.name,
            &format!("publish to `{exchange}` {key}"),
            self.publish(exchange, key, "{}", None).await,
        );
    }

    /// On a channel of its own: a refusal closes it.
    async fn cannot<T: std::fmt::Debug>(
        &self,
        what: &str,
        act: impl AsyncFnOnce(Channel) -> lapin::Result<T>,
    ) {
        refused(self.name, what, act(self.channel().await).await);
    }

    /// Nothing that has to do with a queue, but by publishing.
    async fn cannot_touch(&self, queue: &str) {
        self.cannot_read(queue).await;
        self.cannot(&format!("delete {queue}"), async |channel| {
            channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await
        })
        .await;
        self.cannot(&format!("bind {queue}"), async |channel| {
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            channel.queue_bind(queue.into(), "lokroom.events".into(), "#".into(), options, arguments).await
        })
        .await;
        self.cannot(&format!("unbind {queue}"), async |channel| {
            channel
                .queue_unbind(queue.into(), "lokroom.events".into(), "#".into(), FieldTable::default())
                .await
        })
        .await;
    }

    async fn cannot_read(&self, queue: &str) {
        self.cannot(&format!("consume {queue}"), async |channel| {
            let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
            channel.basic_consume(queue.into(), "test".into(), options, arguments).await.map(drop)
        })
        .await;
        self.cannot(&format!("get from {queue}"), async |channel| {
            channel.basic_get(queue.into(), BasicGetOptions::default()).await.map(drop)
        })
        .await;
        self.cannot(&format!("purge {queue}"), async |channel| {
            channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await
        })
        .await;
    }

    /// Nothing new, and no change of what is there.
    async fn cannot_configure(&self) {
        for queue in ["mine", "", "webhooks.deliver.mine", "lokroom.events"] {
            self.cannot(&format!("declare queue `{queue}`"), async |channel| {
                let options = QueueDeclareOptions::default();
                channel.queue_declare(queue.into(), options, FieldTable::default()).await.map(drop)
            })
            .await;
        }
        for exchange in ["mine", "lokroom.events"] {
            self.cannot(&format!("declare exchange {exchange}"), async |channel| {
                let (options, arguments) = (ExchangeDeclareOptions::default(), FieldTable::default());
                channel.exchange_declare(exchange.into(), ExchangeKind::Topic, options, arguments).await
            })
            .await;
            self.cannot(&format!("delete exchange {exchange}"), async |channel| {
                channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await
            })
            .await;
        }
        self.cannot("bind exchanges", async |channel| {
            let (options, arguments) = (ExchangeBindOptions::default(), FieldTable::default());
            let (to, from) = ("amq.fanout".into(), "lokroom.events".into());
            channel.exchange_bind(to, from, "#".into(), options, arguments).await
        })
        .await;
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(name: &str, what: &str, result: lapin::Result<T>) {
    const ACCESS_REFUSED: u16 = 403;
    let error = result.expect_err(&format!("{name} may {what}"));
    let code = match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_id(),
        _ => 0,
    };
    assert_eq!(code, ACCESS_REFUSED, "{name}: {what}: {error}");
}

/// The services, each as its user.
struct Services {
    api: ApiClient,
    stack: Stack,
    _processes: Vec<Service>,
}

impl Services {
    async fn start(stack: Stack) -> Self {
        let broker = &stack.servers().rabbitmq;
        let environment = |user: &str, declare: &str| -> BTreeMap<String, String> {
            let mut environment = stack.environment().clone();
            for (name, value) in [
                ("LOK__AMQP__URL", url_of(broker, user)),
                ("LOK__AMQP__PREFIX", String::new()),
                ("LOK__AMQP__SHARDS", "2".to_owned()),
                ("LOK__AMQP__DECLARE", declare.to_owned()),
                ("LOK__DELIVERY__RETRY_DELAYS", "100ms".to_owned()),
            ] {
                environment.insert(name.to_owned(), value);
            }
            environment
        };
        let start = |name: &str, declare| Binary::new(name).envs(&environment(name, declare)).spawn();
        // The dispatcher last: the others wait for what it declares.
        let mut processes = vec![start("management-api", "false"), start("event-ingest", "false")];
        let url = processes[0].url().await;
        processes.push(start("dispatcher", "true"));
        for process in &mut processes {
            process.wait_ready(DEADLINE).await;
        }
        let token = token::hs256(stack.hs256_secret(), "user_1");
        let api = ApiClient::new(HttpClient::default(), url).bearer(&token);
        Self { api, stack, _processes: processes }
    }

    fn broker(&self) -> &PrivateServer {
        &self.stack.servers().rabbitmq
    }

    async fn lokctl(&self, arguments: &[&str]) -> String {
        let mut lokctl = self
            .stack
            .binary("lokctl")
            .env("LOK__AMQP__URL", url_of(self.broker(), "operator"))
            .env("LOK__AMQP__PREFIX", "")
            .env("LOK__AMQP__DECLARE", "false");
        for argument in arguments {
            lokctl = lokctl.arg(*argument);
        }
        let output = lokctl.output().await;
        assert_eq!(output.code, Some(0), "{output:?}");
        output.stdout
    }
}

#[tokio::test]
async fn with_the_guides_permissions_everything_works_and_nothing_else() {
    let operators = commands("operators.md");
    let publishers = commands("publishers.md");
    assert!(
        publishers.iter().all(|command| operators.contains(command)),
        "one guide says what the other does"
    );
    let stack = Stack::builder().private_servers().no_api().ingests(0).dispatchers(0).start().await;
    import(&stack.servers().rabbitmq, &definitions(&operators)).await;
    let services = Services::start(stack).await;
    let broker = services.broker();
    let publisher = User::connect(broker, "bookings").await;

    // Everything works: an event on its whole way, with a retry; a test event; a rejected one put back.
    let receiver = Receiver::start().await;
    let webhook = json!({ "url": receiver.url("/"), "events": ["booking.created", "payment.succeeded"] });
    let webhook = services.api.post("/api/webhooks", &webhook).await.expect(201).json();
    receiver.answer_next(Reply::status(500));
    let event = Event::example(BookingCreated).to("user_1").id("first");
    publisher.publish_event(&event).await.expect("the publisher may publish its events");
    let requests = receiver.until(2).await;
    assert_eq!(requests.iter().map(testkit::Request::attempt).collect::<Vec<_>>(), [1, 2]);
    let test = format!("/api/webhooks/{}/test", webhook["id"].as_str().expect("an id"));
    services.api.post(&test, &json!({})).await.expect(202);
    receiver.until(3).await;

    // What another's routing key in `CC` brings in goes by its own key, and is rejected.
    let payment = Event::example(PaymentSucceeded).to("user_1").id("forged").to_json();
    let forged = publisher.publish("lokroom.events", "booking.created", &payment, Some("payment.succeeded"));
    forged.await.expect("CC is not checked");
    eventually_ok("the forged event is rejected", DEADLINE, async || {
        let listed = services.lokctl(&["rejected", "list"]).await;
        if listed.contains("routing_key_mismatch") { Ok(()) } else { Err(listed) }
    })
    .await;
    services.lokctl(&["publish", "--event", "payment.succeeded", "--recipient", "user_1"]).await;
    assert_eq!(receiver.until(4).await[3].header("x-lok-event"), Some("payment.succeeded"));

    // The publisher: its own events, and nothing else.
    for (exchange, key) in [
        ("lokroom.events", "payment.succeeded"),
        ("lokroom.events", "booking"),
        ("lokroom.events", "booking."),
        ("lokroom.events", "xbooking.created"),
        ("lokroom.events", "booking.created.payment.succeeded"),
        ("lokroom.events", "#"),
        ("", "webhooks.deliver"),
        ("", "ingest.events"),
        ("amq.topic", "booking.created"),
        ("amq.fanout", ""),
    ] {
        publisher.cannot_publish(exchange, key).await;
    }
    publisher.cannot_configure().await;
    for queue in QUEUES {
        publisher.cannot_touch(queue).await;
    }
    let passively = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let channel = publisher.channel().await;
    let declared = channel.exchange_declare(
        "lokroom.events".into(),
        ExchangeKind::Topic,
        passively,
        FieldTable::default(),
    );
    declared.await.expect("as its guide says");

    // The services, were one taken over.
    for (name, reads) in [
        ("management-api", &[][..]),
        (
            "event-ingest",
            &["ingest.events", "ingest.events.isolated", "ingest.events.bulk", "ingest.events.bulk.isolated"],
        ),
        ("keda", &[]),
    ] {
        let user = User::connect(broker, name).await;
        user.cannot_configure().await;
        user.cannot_publish("lokroom.events", "booking.created").await;
        for queue in QUEUES.into_iter().filter(|queue| !reads.contains(queue)) {
            user.cannot_touch(queue).await;
        }
    }
    let dispatcher = User::connect(broker, "dispatcher").await;
    dispatcher.cannot_read("lokroom.events.rejected").await;
    dispatcher.cannot_publish("lokroom.events", "booking.created").await;
    let operator = User::connect(broker, "operator").await;
    operator.cannot_configure().await;
    for queue in QUEUES.into_iter().filter(|queue| *queue != "lokroom.events.rejected") {
        operator.cannot_touch(queue).await;
    }
    let keda = User::connect(broker, "keda").await;
    keda.cannot_publish("", "webhooks.deliver").await;
    let passively = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let length = keda.channel().await;
    length
        .queue_declare("webhooks.deliver".into(), passively, FieldTable::default())
        .await
        .expect("its length");

    // And still everything works.
    publisher.publish_event(&event.clone().id("last")).await.expect("the publisher may publish its events");
    eventually_ok("the last event arrives", DEADLINE, async || {
        let requests = receiver.requests();
        let last = requests.last().map(|request| request.event_id().to_owned());
        if last.as_deref() == Some("last") { Ok(()) } else { Err(format!("{last:?}")) }
    })
    .await;
}

//! Nothing that must stay secret is in what a run leaves: logs, tables, messages, metrics.

mod leaks;

use std::time::Duration;

use bytes::Bytes;
use domain::EventType::{BookingCancelled, BookingCreated};
use http::Method;
use serde_json::json;
use testkit::database::SECRET_KEYS;
use testkit::{DEADLINE, Event, Receiver, Reply, Stack, StackBuilder, Webhook, eventually, token};

use crate::support::settled;
use leaks::Secrets;

/// Personal data in an event.
const PERSONAL: &str = "Appelez-moi au 06 12 34 56 78";

/// In the query of a webhook's URL.
const IN_URL: &str = "hidden-in-the-query";

/// What a receiver answers beside what it was sent.
const ANSWER: &str = "receivers-answer";

/// A token that somebody sends where it does not belong.
const MISPLACED: &str = "misplaced-token-4f1c9ad27be0";

/// The wait before the last attempt.
const LAST_DELAY: Duration = Duration::from_secs(2);

/// As loud as possible, more specific than what is quiet.
const LOUDEST: &str = "trace,lapin=trace,lapin::channel=trace,lapin::io_loop=trace,lapin::acknowledgement=trace,\
                       tokio_postgres::query=trace,tokio_postgres::prepare=trace,h2::codec=trace,hyper::proto=trace,\
                       hyper_util::client=trace";

/// What a run has to keep secret.
struct Secret {
    /// Stands nowhere.
    everywhere: Secrets,
    /// Stands in no log and no metric. The database and the broker hold it, as they have to.
    in_logs: Secrets,
}

fn loud() -> StackBuilder {
    Stack::builder().env("RUST_LOG", LOUDEST).env("LOK__DELIVERY__RETRY_DELAYS", "100ms,2s")
}

/// Everything that happens to webhooks, with secrets wherever somebody may put them.
async fn a_rich_run(stack: &mut Stack, receiver: &Receiver, urls: [&str; 2]) -> Secret {
    let mut everywhere = Secrets::default();
    let url = receiver.url(&format!("/?token={IN_URL}"));
    let webhook = stack.given_webhook("user_1", &url, &[BookingCreated]).await;
    let failing = stack.given_webhook("user_1", &receiver.url("/failing"), &[BookingCancelled]).await;
    everywhere.webhook("a webhook's secret", &failing.secret);
    everywhere.webhook("a regenerated secret", &webhook.secret);

    // A receiver that sends back what it was sent, and what it knows.
    let known = webhook.secret.clone();
    receiver.answer_with(move |request| {
        let echo =
            json!({ "answer": ANSWER, "secret": known, "signature": request.header("webhook-signature") });
        let reply = Reply::json(&echo);
        if request.target == "/failing" {
            Reply::status(500).body(format!("{ANSWER} {known}"))
        } else {
            reply
        }
    });
    let event = Event::example(BookingCreated).to("user_1").data(with_note(PERSONAL));
    stack.publish(&event.clone().id("once")).await;
    stack.publish(&event.clone().id("once")).await;
    stack.publish_protobuf(&event.clone().id("protobuf")).await;
    stack.publish(&Event::example(BookingCancelled).to("user_1").id("fails")).await;
    receiver.until(4).await;
    stack.api("user_1").post(&format!("{}/test", webhook.path()), &json!({})).await.expect(202);
    let path = format!("{}/regenerate-secret", webhook.path());
    let new = stack.api("user_1").post(&path, &json!({})).await.expect(200).json();
    everywhere.webhook("the new secret", new["secret"].as_str().expect("the new secret is in the answer"));
    let ingest = stack.ingest();
    ingest.post_text("/v1/events", event.clone().id("by-http").to_json()).await.expect(202);
    settled(stack, &webhook, 4).await;
    settled(stack, &failing, 1).await;

    let wrong_token = misplace(stack, &webhook, &event).await;

    everywhere.token("a wrong bearer token", &wrong_token);
    everywhere.text("the HS256 secret", stack.hs256_secret());
    let header = token::hs256(stack.hs256_secret(), "user_1");
    everywhere.text("a bearer token", header.split('.').next().expect("a token has parts"));
    everywhere.text("the ingest token", stack.ingest_token());
    everywhere.base64("the key of secrets at rest", SECRET_KEYS.split_once(':').expect("id:key").1);
    everywhere.password_in("the database's password", urls[0]);
    everywhere.password_in("the broker's password", urls[1]);
    let mut in_logs = everywhere.clone();
    in_logs.text("any webhook's secret", "whsec_");
    in_logs.text("personal data of an event", PERSONAL);
    in_logs.text("the URL's query", IN_URL);
    in_logs.text("what a receiver answered", ANSWER);
    in_logs.text("a misplaced token", MISPLACED);
    Secret { everywhere, in_logs }
}

/// The type's example with a note, which the schema lets through.
fn with_note(note: &str) -> String {
    let data = BookingCreated.example_text().trim_end().trim_end_matches('}').to_owned();
    format!("{data}, \"note\": \"{note}\"}}")
}

/// Tokens where they do not belong: in what is rejected, in paths, queries and headers. Returns a wrong bearer token.
async fn misplace(stack: &Stack, webhook: &Webhook, event: &Event) -> String {
    let broken = event.clone().id("broken").data(format!("{{\"totalPrice\": \"{MISPLACED} {PERSONAL}\"}}"));
    stack.publish(&broken).await;
    let half = &broken.to_json()[..broken.to_json().len() - 3];
    for body in [half.to_owned(), MISPLACED.to_owned(), format!("{{\"{MISPLACED}\": 1}}")] {
        let mut message = stack.message(event);
        message.body = body.clone().into();
        stack.publish_message(message.clone()).await;
        stack.publish_message(message.content_type(wire::PROTOBUF)).await;
        let refused = stack.ingest().post_text("/v1/events", body.clone()).await;
        assert!(refused.status.is_client_error(), "{}: {}", refused.status, refused.text());
        let refused = stack.api("user_1").post_text("/api/webhooks", body).await;
        assert!(refused.status.is_client_error(), "{}: {}", refused.status, refused.text());
    }
    let api = stack.api("user_1");
    let of_the_wrong_type =
        json!({ "url": { "token": MISPLACED }, "events": [MISPLACED], "active": MISPLACED });
    api.post("/api/webhooks", &of_the_wrong_type).await.expect(422);
    let with_password =
        json!({ "url": format!("https://u:{MISPLACED}@example.com/"), "events": ["booking.created"] });
    api.post("/api/webhooks", &with_password).await.expect(422);
    api.get(&format!("/api/webhooks?page={MISPLACED}")).await.expect(422);
    api.get(&format!("/api/webhooks/{MISPLACED}?access_token={MISPLACED}")).await.expect(404);
    api.get(&format!("/api/{MISPLACED}")).await.expect(404);
    api.header("idempotency-key", &format!("{MISPLACED} {MISPLACED}"))
        .post("/api/webhooks", &json!({}))
        .await;

    let wrong_token = token::hs256("some other secret, long enough for HS256", "user_1");
    for api in [
        stack.anonymous_api().bearer(&wrong_token),
        stack.anonymous_api().bearer(MISPLACED),
        stack.anonymous_api().header("authorization", &format!("Basic {MISPLACED}")),
        stack.anonymous_api().header("cookie", &format!("session={MISPLACED}")),
    ] {
        api.get(&webhook.path()).await.expect(401);
    }
    for token in [&wrong_token, MISPLACED] {
        stack.ingest().bearer(token).post_text("/v1/events", "{}").await.expect(401);
    }
    let method = Method::from_bytes(b"PURGE").expect("a method");
    stack.api("user_1").raw(method, &format!("/api/webhooks?{MISPLACED}"), None, Bytes::new()).await;
    let rejected = stack.queues().names().rejected_queue();
    eventually("what was broken is rejected", DEADLINE, async || {
        (stack.depth(&rejected).await >= 7).then_some(())
    })
    .await;
    wrong_token
}

/// Leaves messages in the queues between the services, for whoever looks, and ends the services.
async fn end(stack: &mut Stack) {
    let names = stack.queues().names();
    stack.publish(&Event::example(BookingCancelled).to("user_1").id("fails-again")).await;
    let retries = names.first().retry_queue(LAST_DELAY);
    eventually("an attempt waits for its retry", DEADLINE, async || {
        (stack.depth(&retries).await > 0).then_some(())
    })
    .await;
    for dispatcher in &mut stack.dispatchers {
        assert!(dispatcher.terminate(DEADLINE).await.success());
    }
    let event = Event::example(BookingCreated).to("user_1");
    stack.publish_all(&[event.clone().id("left-1"), event.id("left-2")]).await;
    let fan_out = names.fan_out_queue();
    eventually("events wait for a dispatcher", DEADLINE, async || {
        (stack.depth(&fan_out).await > 0).then_some(())
    })
    .await;
}

async fn assert_nothing_leaked(stack: &mut Stack, secret: &Secret) {
    let running = leaks::metrics(stack).await;
    end(stack).await;
    let messages = leaks::messages(stack).await;
    for queues in ["rejected", "webhooks.fanout", "webhooks.dead", "webhooks.retry.2s or webhooks.deliver"] {
        let mut queues = queues.split(" or ");
        let is_there = queues.any(|queue| messages.iter().any(|(place, _)| place.ends_with(queue)));
        assert!(is_there, "nothing is in {queues:?}");
    }
    let headers: Vec<_> = messages.iter().filter(|(place, _)| place.contains("headers")).cloned().collect();
    let mut misplaced = Secrets::default();
    misplaced.text("a misplaced token", MISPLACED);
    let tables = leaks::tables(&stack.database).await;

    for service in stack.api.iter_mut().chain(&mut stack.ingests) {
        assert!(service.terminate(DEADLINE).await.success());
    }
    let mut found = secret.in_logs.found_in(&leaks::logs(stack));
    found.extend(secret.in_logs.found_in(&running));
    found.extend(secret.everywhere.found_in(&tables));
    found.extend(secret.everywhere.found_in(&messages));
    // What is rejected is kept whole, but nobody repeats it.
    found.extend(misplaced.found_in(&tables));
    found.extend(misplaced.found_in(&headers));
    assert!(found.is_empty(), "{}", found.join("\n"));
    let has_an_answer = |rows: &[u8]| rows.windows(16).any(|part| part == b"whsec_[redacted]");
    assert!(tables.iter().any(|(_, rows)| has_an_answer(rows)), "no answer with a secret is kept");
}

fn urls(stack: &Stack) -> [String; 2] {
    ["LOK__DATABASE__URL", "LOK__AMQP__URL"].map(|name| stack.environment()[name].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_logs_tables_messages_or_metrics_though_database_and_broker_go_away() {
    let mut stack = loud().private_servers().start().await;
    let receiver = Receiver::start().await;
    let [database, amqp] = urls(&stack);
    let secret = a_rich_run(&mut stack, &receiver, [&database, &amqp]).await;

    let servers = stack.servers();
    servers.postgres.kill9().await;
    let create = json!({ "url": receiver.url("/more"), "events": ["booking.created"] });
    stack.api("user_1").post("/api/webhooks", &create).await.expect(503);
    servers.postgres.start_again().await;
    servers.rabbitmq.kill9().await;
    servers.rabbitmq.start_again().await;
    for service in stack.services() {
        service.wait_ready(DEADLINE * 2).await;
    }
    let more = stack.given_webhook("user_2", &receiver.url("/more"), &[BookingCreated]).await;
    stack.publish(&Event::example(BookingCreated).to("user_2")).await;
    settled(&stack, &more, 1).await;

    let mut shown = Vec::new();
    for name in ["management-api", "event-ingest", "dispatcher"] {
        let output = stack.binary(name).arg("--print-config").output().await;
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        shown.push((format!("--print-config of {name}"), output.stdout.into_bytes()));
    }
    for arguments in [["keys", "list"], ["keys", "rotate"], ["rejected", "list"]] {
        let lokctl = arguments.iter().fold(stack.binary("lokctl"), |lokctl, argument| lokctl.arg(*argument));
        let output = lokctl.output().await;
        assert_eq!(output.code, Some(0), "{arguments:?}: {}", output.stderr);
        shown.push((format!("{arguments:?}"), format!("{}{}", output.stdout, output.stderr).into_bytes()));
    }
    assert_nothing_leaked(&mut stack, &secret).await;
    let found = secret.everywhere.found_in(&[shown, leaks::server_logs(&stack)].concat());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_logs_for_people_either() {
    let mut stack = loud().env("LOK__LOG__FORMAT", "text").start().await;
    let receiver = Receiver::start().await;
    let [database, amqp] = urls(&stack);
    let secret = a_rich_run(&mut stack, &receiver, [&database, &amqp]).await;
    for service in stack.services() {
        let log = service.log();
        assert!(log.contains(" TRACE ") && !log.contains("{\"timestamp\""), "{}", service.name());
    }
    assert_nothing_leaked(&mut stack, &secret).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_planted_anywhere_is_found_there() {
    let mut stack = Stack::builder().start().await;
    let webhook = stack.given_webhook("user_1", "http://127.0.0.1:1/", &[BookingCreated]).await;
    let mut secrets = Secrets::default();
    secrets.webhook("the secret", &webhook.secret);
    assert_eq!(secrets.found_in(&leaks::tables(&stack.database).await), Vec::<String>::new());

    let note = json!({ "description": webhook.secret });
    stack.api("user_1").put(&webhook.path(), &note).await.expect(200);
    let in_tables = secrets.found_in(&leaks::tables(&stack.database).await);
    assert!(in_tables[0].contains("is in table webhooks"), "{in_tables:?}");

    let client = stack.database.connect().await;
    client.batch_execute("UPDATE webhooks SET description = NULL").await.expect("it can be changed");
    let body: Event = Event::example(BookingCreated).to("nobody").data(with_note(&webhook.secret));
    stack.publish(&body).await;
    let in_bytes = eventually("the event is stored", DEADLINE, async || {
        let found = secrets.found_in(&leaks::tables(&stack.database).await);
        (!found.is_empty()).then_some(found)
    })
    .await;
    assert!(in_bytes[0].contains("is in table events"), "{in_bytes:?}");

    stack.ingests.clear();
    let in_header = stack.message(&body.clone().data("{}")).header("x-note", &webhook.secret);
    stack.publish_message(in_header).await;
    let in_messages = secrets.found_in(&leaks::messages(&stack).await);
    assert!(in_messages.iter().any(|found| found.contains("the headers of a message")), "{in_messages:?}");

    let mut in_log = Secrets::default();
    in_log.text("an id", &webhook.id);
    let found = in_log.found_in(&leaks::logs(&mut stack));
    assert!(found[0].contains("the log of management-api"), "{found:?}");
}

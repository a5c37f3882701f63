//! Queues in several shards carry what one carries, while their number changes too.

use std::time::Duration;

use broker::{Message, Received};
use domain::EventType::BookingCreated;
use domain::WebhookId;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use testkit::receiver::Gate;
use testkit::{
    Binary, DEADLINE, Event, Receiver, Reply, ServerKind, Service, Stack, StackBuilder, Webhook,
    eventually_ok, servers,
};
use wire::names::{SOURCE_QUEUE_HEADER, ShardNames};
use wire::{FanOut, FanOutEvent, PROTOBUF, read_probe};

use crate::support::{by_event_id, settled};

const SHARDS: usize = 4;

const WEBHOOKS: usize = 16;

/// Long enough to look at what waits for it.
const RETRY_DELAY: Duration = Duration::from_secs(4);

fn sharded() -> StackBuilder {
    Stack::builder()
        .env("LOK__AMQP__SHARDS", SHARDS.to_string())
        // Jobs are made of every event for more than one webhook.
        .env("LOK__DELIVERY__INLINE_FAN_OUT", "1")
        .env("LOK__DELIVERY__RETRY_DELAYS", format!("{}s,1h", RETRY_DELAY.as_secs()))
        // The history of many webhooks is asked for again and again.
        .env("LOK__API__USER_RATE", "10000")
        .env("LOK__API__USER_BURST", "10000")
}

/// Within six seconds what should have been looked at counts as lost.
fn soon_lost() -> StackBuilder {
    sharded()
        .env("LOK__DELIVERY__TIMEOUT", "2s")
        .env("LOK__EGRESS__CONNECT_TIMEOUT", "1s")
        .env("LOK__RECOVERY__INTERVAL", "500ms")
        .env("LOK__RECOVERY__SLACK", "1s")
}

/// A webhook for each of the users.
async fn given_webhooks(stack: &Stack, receiver: &Receiver) -> Vec<Webhook> {
    let mut webhooks = Vec::new();
    for n in 0..WEBHOOKS {
        let url = receiver.url(&format!("/{n}"));
        webhooks.push(stack.given_webhook(&format!("user_{n}"), &url, &[BookingCreated]).await);
    }
    webhooks
}

fn to_all(id: &str) -> Event {
    (0..WEBHOOKS).fold(Event::example(BookingCreated).id(id), |event, n| event.to(&format!("user_{n}")))
}

async fn all_settled(stack: &Stack, webhooks: &[Webhook], deliveries: u64) -> Vec<Value> {
    let mut all = Vec::new();
    for webhook in webhooks {
        all.extend(settled(stack, webhook, deliveries).await);
    }
    all
}

/// What waits in a queue; probes do not count. Nobody may consume it.
async fn waiting_in(stack: &Stack, queue: &str) -> Vec<Received> {
    let pulled = stack.broker().inspector().pull(queue, 1000).await.expect("the queue can be looked at");
    let waiting = pulled.messages().filter(|message| read_probe(message).is_none()).cloned().collect();
    pulled.close().await.expect("messages are given back");
    waiting
}

/// Waits until as many messages as there are webhooks of each shard are in the shard's queue.
async fn one_of_each_webhook(
    stack: &Stack,
    webhooks: &[Webhook],
    queue_of: impl Fn(ShardNames<'_>) -> String,
) {
    let names = stack.queues().names();
    let of_webhook = |webhook: &Webhook| {
        let id: WebhookId = webhook.id.parse().expect("the API gives ids");
        queue_of(names.of_webhook(id))
    };
    let queues: Vec<_> = names.all_shards().map(&queue_of).collect();
    let expected: Vec<_> = queues
        .iter()
        .map(|queue| webhooks.iter().filter(|webhook| of_webhook(webhook) == *queue).count())
        .collect();
    assert!(expected.iter().filter(|count| **count > 0).count() > 1, "all are of one shard: {expected:?}");
    eventually_ok(&format!("{expected:?} messages are in {queues:?}"), DEADLINE, async || {
        let mut found = Vec::new();
        for queue in &queues {
            found.push(waiting_in(stack, queue).await.len());
        }
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// Deliveries and events that were put back, by the dispatchers' own count.
async fn put_back(stack: &mut Stack) -> f64 {
    let mut count = 0.0;
    for dispatcher in &mut stack.dispatchers {
        count += dispatcher.metric("recovered_total").await;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_the_way_of_their_webhooks_shard_and_a_killed_dispatcher_loses_none() {
    let mut stack = sharded().dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let webhooks = given_webhooks(&stack, &receiver).await;
    receiver.answer(Reply::status(500));
    stack.publish(&to_all("event")).await;
    receiver.until(WEBHOOKS).await;
    one_of_each_webhook(&stack, &webhooks, |shard| shard.retry_queue(RETRY_DELAY)).await;

    for dispatcher in &mut stack.dispatchers {
        dispatcher.kill9();
    }
    one_of_each_webhook(&stack, &webhooks, |shard| shard.deliver_queue()).await;
    receiver.answer(Reply::status(200));
    for dispatcher in &mut stack.dispatchers {
        dispatcher.restart().await;
    }
    for delivery in all_settled(&stack, &webhooks, 1).await {
        assert_eq!((&delivery["status"], &delivery["attempts"]), (&json!("success"), &json!(2)));
    }
    assert_eq!(receiver.requests().len(), 2 * WEBHOOKS, "an attempt was made twice");
    assert!(put_back(&mut stack).await < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_events_go_the_way_of_their_webhooks_shard() {
    let mut stack = sharded().ingests(0).dispatchers(0).start().await;
    let receiver = Receiver::start().await;
    let webhooks = given_webhooks(&stack, &receiver).await;
    for webhook in &webhooks {
        let path = format!("{}/test", webhook.path());
        stack.api(&webhook.user).post(&path, &json!({})).await.expect(202);
    }
    one_of_each_webhook(&stack, &webhooks, |shard| shard.deliver_queue()).await;
    stack.dispatchers.push(start(&stack, "dispatcher", &[]).await);
    all_settled(&stack, &webhooks, 1).await;
    assert_eq!(receiver.requests().len(), WEBHOOKS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_their_copies_go_the_way_of_their_shard_and_are_delivered_once() {
    const EVENTS: usize = 16;
    let mut stack = sharded().dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let webhooks = given_webhooks(&stack, &receiver).await;
    for dispatcher in &mut stack.dispatchers {
        dispatcher.kill9();
    }
    // Each is stored, and handed over, before the next comes.
    for n in 0..EVENTS {
        let event: Value =
            serde_json::from_str(&to_all(&format!("event-{n}")).to_json()).expect("it is JSON");
        stack.ingest().post("/v1/events", &event).await.expect(202);
    }
    let names = stack.queues().names();
    let (mut fan_outs, mut ways) = (Vec::new(), 0);
    for shard in names.all_shards() {
        let queue = shard.fan_out_queue();
        let waiting = waiting_in(&stack, &queue).await;
        ways += usize::from(!waiting.is_empty());
        for message in waiting {
            let FanOut { events } = FanOut::decode(message.body.clone()).expect("it is a fan-out message");
            assert_eq!(names.of_events(&events).fan_out_queue(), queue);
            fan_outs.push((message, events));
        }
    }
    assert!(fan_outs.len() == EVENTS && ways > 1, "{} events in {ways} queues", fan_outs.len());

    // A copy waits where it comes back to the same queue.
    let is_of_another =
        |events: &[FanOutEvent]| names.of_events(events).fan_out_queue() != names.fan_out_queue();
    let (copied, events) =
        fan_outs.iter().find(|(_, events)| is_of_another(events)).expect("a way besides the first");
    let shard = names.of_events(events);
    let copy = Message::to_queue(shard.fan_out_queue(), copied.body.clone()).content_type(PROTOBUF);
    stack.publish_message(copy.may_be_copy()).await;
    for dispatcher in &mut stack.dispatchers {
        dispatcher.restart().await;
    }
    let parked = shard.fan_out_park_queue(Duration::from_secs(5));
    for (depth, what) in [(1, "the copy is parked"), (0, "and comes back")] {
        eventually_ok(what, DEADLINE, async || {
            let found = stack.depth(&parked).await;
            if found == depth { Ok(()) } else { Err(found) }
        })
        .await;
    }
    all_settled(&stack, &webhooks, EVENTS as u64).await;
    assert_eq!(receiver.requests().len(), EVENTS * WEBHOOKS, "an event was delivered twice");
    assert!(put_back(&mut stack).await < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_turn_is_parked_in_its_shard_and_comes_back() {
    const EVENTS: usize = 3;
    let stack = sharded()
        .env("LOK__DELIVERY__MAX_IN_FLIGHT_PER_WEBHOOK", "1")
        .env("LOK__DELIVERY__MAX_WAIT", "100ms")
        .start()
        .await;
    let receiver = Receiver::start().await;
    let webhooks = given_webhooks(&stack, &receiver).await;
    let gate = Gate::default();
    receiver.answer(Reply::status(200).when_open(&gate));
    stack.publish(&to_all("event-0")).await;
    receiver.until(WEBHOOKS).await;
    stack.publish(&to_all("event-1")).await;
    one_of_each_webhook(&stack, &webhooks, |shard| shard.park_queue(Duration::from_secs(5))).await;
    gate.open();
    stack.publish(&to_all("event-2")).await;
    all_settled(&stack, &webhooks, EVENTS as u64).await;
    assert_eq!(receiver.requests().len(), EVENTS * WEBHOOKS, "a delivery was made twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_lost_every_shard_is_put_right() {
    let builder = sharded().private_servers().dispatchers(2);
    let builder = builder.env("LOK__DELIVERY__TIMEOUT", "6s").env("LOK__RECOVERY__SLACK", "4s");
    let mut stack = builder.start().await;
    let receiver = Receiver::start().await;
    let webhooks = given_webhooks(&stack, &receiver).await;
    // Some on the wire, some not yet fanned out.
    receiver.answer(Reply::hang());
    stack.publish(&to_all("on-the-wire")).await;
    receiver.until(WEBHOOKS).await;
    for dispatcher in &mut stack.dispatchers {
        dispatcher.kill9();
    }
    let event: Value = serde_json::from_str(&to_all("stored").to_json()).expect("it is JSON");
    stack.ingest().post("/v1/events", &event).await.expect(202);

    let broker = stack.servers().get(ServerKind::Rabbitmq);
    broker.kill9().await;
    broker.wipe().await;
    receiver.answer(Reply::status(200));
    let before = receiver.requests().len();
    broker.start_again().await;
    for dispatcher in &mut stack.dispatchers {
        dispatcher.restart().await;
    }
    receiver.until_within(before + 2 * WEBHOOKS, DEADLINE * 6).await;
    all_settled(&stack, &webhooks, 2).await;
    let after = receiver.requests().split_off(before);
    assert_eq!(by_event_id(&after).len(), 2);
    assert_eq!(after.len(), 2 * WEBHOOKS, "a delivery was made twice");
}

/// Takes what comes out of a queue before all other consumers, and does nothing with it. Dropped, it is all back.
struct Hoarder {
    _channel: Channel,
    _consumer: lapin::Consumer,
    _connection: Connection,
}

impl Hoarder {
    async fn before_others_at(queue: &str) -> Self {
        let connection = Connection::connect(&servers::amqp_url(), ConnectionProperties::default())
            .await
            .expect("the broker is there");
        let channel = connection.create_channel().await.expect("a connection that lives");
        channel.basic_qos(1000, BasicQosOptions::default()).await.expect("a channel that lives");
        let mut arguments = FieldTable::default();
        arguments.insert("x-priority".into(), AMQPValue::LongInt(10));
        let consumer = channel
            .basic_consume(queue.into(), "hoarder".into(), BasicConsumeOptions::default(), arguments)
            .await
            .expect("the queue is there");
        Self { _channel: channel, _consumer: consumer, _connection: connection }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_stands_still_keeps_everything_from_being_taken_for_lost() {
    const EVENTS: usize = 16;
    let mut stack = soon_lost().start().await;
    let receiver = Receiver::start().await;
    let webhooks = given_webhooks(&stack, &receiver).await;
    let names = stack.queues().names();
    let way_of = |webhook: &Webhook| names.of_webhook(webhook.id.parse().expect("an id")).deliver_queue();
    let mut shut: Vec<_> = names.all_shards().map(|shard| shard.deliver_queue()).collect();
    shut.retain(|queue| *queue != way_of(&webhooks[0]));
    let last = names.all_shards().last().expect("there are shards").fan_out_queue();
    let mut hoarders = vec![Hoarder::before_others_at(&last).await];
    for queue in &shut {
        hoarders.push(Hoarder::before_others_at(queue).await);
    }
    // Each by itself, so that some of them go the way that is shut.
    for n in 0..EVENTS {
        let event: Value =
            serde_json::from_str(&to_all(&format!("event-{n}")).to_json()).expect("it is JSON");
        stack.ingest().post("/v1/events", &event).await.expect(202);
    }
    let watched = tokio::time::Instant::now();
    while watched.elapsed() < Duration::from_secs(15) {
        assert!(put_back(&mut stack).await < 0.5, "what merely waits was taken for lost");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for (n, webhook) in webhooks.iter().enumerate() {
        let is_shut = shut.contains(&way_of(webhook));
        assert_eq!(receiver.requests_to(&format!("/{n}")).is_empty(), is_shut, "{}", way_of(webhook));
    }

    drop(hoarders);
    all_settled(&stack, &webhooks, EVENTS as u64).await;
    assert_eq!(receiver.requests().len(), EVENTS * WEBHOOKS, "a delivery was made twice");
}

/// A process with other shards than the stack's.
async fn start(stack: &Stack, name: &str, environment: &[(&str, usize)]) -> Service {
    let with = |binary: Binary, (name, value): &(&str, usize)| binary.env(name, value.to_string());
    let mut service = environment.iter().fold(stack.binary(name), with).spawn();
    service.wait_ready(DEADLINE).await;
    service
}

/// Ends all dispatchers, then all of event-ingest, one after the other, and starts others.
async fn restart_with(stack: &mut Stack, environment: &[(&str, usize)]) {
    for dispatcher in &mut stack.dispatchers {
        assert!(dispatcher.terminate(DEADLINE).await.success());
    }
    stack.dispatchers = vec![start(stack, "dispatcher", environment).await];
    for ingest in &mut stack.ingests {
        assert!(ingest.terminate(DEADLINE).await.success());
    }
    stack.ingests = vec![start(stack, "event-ingest", environment).await];
}

const ONE_SHARD: &[(&str, usize)] = &[("LOK__AMQP__SHARDS", 1)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_grows_and_shrinks_while_retries_wait() {
    let mut stack = sharded().ingests(0).dispatchers(0).start().await;
    let receiver = Receiver::start().await;
    let webhooks = given_webhooks(&stack, &receiver).await;
    let is_first = |request: &testkit::Request| request.attempt() == 1;
    receiver.answer_with(move |request| Reply::status(if is_first(request) { 500 } else { 200 }));
    let names = stack.queues().names();
    restart_with(&mut stack, ONE_SHARD).await;
    stack.publish(&to_all("while-it-was-small")).await;
    receiver.until(WEBHOOKS).await;
    let first = names.first().retry_queue(RETRY_DELAY);
    eventually_ok("all wait in the one queue", DEADLINE, async || {
        let found = stack.depth(&first).await;
        if found as usize == WEBHOOKS { Ok(()) } else { Err(found) }
    })
    .await;

    restart_with(&mut stack, &[]).await;
    all_settled(&stack, &webhooks, 1).await;
    stack.publish(&to_all("while-it-was-large")).await;
    receiver.until(3 * WEBHOOKS).await;
    one_of_each_webhook(&stack, &webhooks, |shard| shard.retry_queue(RETRY_DELAY)).await;

    restart_with(&mut stack, &[("LOK__AMQP__SHARDS", 1), ("LOK__AMQP__DRAIN_SHARDS", SHARDS)]).await;
    all_settled(&stack, &webhooks, 2).await;
    stack.publish(&to_all("when-it-was-small-again")).await;
    receiver.until(5 * WEBHOOKS).await;
    for shard in names.all_shards().skip(1) {
        assert_eq!(stack.depth(&shard.retry_queue(RETRY_DELAY)).await, 0, "nothing new comes there");
    }
    all_settled(&stack, &webhooks, 3).await;
    assert_eq!(receiver.requests().len(), 6 * WEBHOOKS, "an attempt was made twice");
    assert!(put_back(&mut stack).await < 0.5, "something had lost its message");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_in_shards_that_nobody_works_off_any_more_is_put_back() {
    let mut stack = soon_lost().start().await;
    let receiver = Receiver::start().await;
    let webhooks = given_webhooks(&stack, &receiver).await;
    receiver.answer(Reply::status(500));
    stack.publish(&to_all("event")).await;
    receiver.until(WEBHOOKS).await;
    one_of_each_webhook(&stack, &webhooks, |shard| shard.retry_queue(RETRY_DELAY)).await;
    receiver.answer(Reply::status(200));
    restart_with(&mut stack, ONE_SHARD).await;

    all_settled(&stack, &webhooks, 1).await;
    assert_eq!(receiver.requests().len(), 2 * WEBHOOKS, "an attempt was made twice");
    assert!(put_back(&mut stack).await > 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_set_aside_from_any_shard_can_be_put_back() {
    let stack = sharded().start().await;
    let names = stack.queues().names();
    let mut count = 0;
    for shard in names.all_shards() {
        for queue in [shard.fan_out_queue(), shard.deliver_queue()] {
            stack.publish_message(Message::to_queue(queue, "nonsense".into()).content_type(PROTOBUF)).await;
            count += 1;
        }
    }
    let are_rejected = async || {
        eventually_ok("all are set aside", DEADLINE, async || {
            let found = stack.depth(&names.rejected_queue()).await;
            if found == count { Ok(()) } else { Err(found) }
        })
        .await;
    };
    are_rejected().await;
    for message in waiting_in(&stack, &names.rejected_queue()).await {
        let queue = message.headers.text(SOURCE_QUEUE_HEADER).expect("it says where it can be put back");
        assert!([names.fan_out_queue(), names.deliver_queue()].contains(&queue), "{queue}");
    }
    // Wherever the shards are by then.
    let lokctl =
        stack.binary("lokctl").env("LOK__AMQP__SHARDS", "1").arg("rejected").arg("republish").arg("--all");
    let output = lokctl.output().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stdout.lines().count(), count as usize, "{output:?}");
    are_rejected().await;
}

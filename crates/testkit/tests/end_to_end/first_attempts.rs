//! First attempts are made by whoever fans the event out, without a job: what they find written, what stands for them
//! meanwhile, and what comes of messages that come back, late or twice.

mod changed_webhooks;

use std::time::{Duration, Instant};

use broker::{ConsumerConfig, Message};
use bytes::Bytes;
use domain::EventType::BookingCreated;
use domain::{EventId, PublicEventId, Timestamp, UserId};
use serde_json::json;
use testkit::receiver::Gate;
use testkit::{DEADLINE, Event, Receiver, Reply, Stack, StackBuilder, Webhook, eventually, eventually_ok};
use wire::{FanOut, FanOutEvent, PROTOBUF, probe, read_probe};

use crate::support::{lose_all, settled};

/// Copies of one message.
const COPIES: usize = 20;

/// After that the next message is tried.
const A_MOMENT: Duration = Duration::from_millis(100);

/// For [`StackBuilder::env`]: an event's message is held however long its requests take.
const FOR_LONG: &str = "60s";

fn event(id: &str, user: &str) -> Event {
    Event::example(BookingCreated).to(user).id(id)
}

/// A stack where another message stands for requests that take longer than a moment, and an event's message is taken only
/// when the one before it is acknowledged.
fn with_stand_ins() -> StackBuilder {
    Stack::builder()
        .env("LOK__DELIVERY__HOLD", "200ms")
        .env("LOK__DELIVERY__TIMEOUT", "8s")
        .env("LOK__DELIVERY__PARK_DELAYS", "1s,10s")
        .env("LOK__DELIVERY__FAN_OUT_PREFETCH", "1")
}

/// The event `slow` is on its way to a receiver that answers when the gate opens.
async fn on_the_wire(stack: &Stack) -> (Receiver, Webhook, Gate) {
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    receiver.answer_next(Reply::status(200).when_open(&gate));
    stack.publish(&event("slow", "user_1")).await;
    receiver.until(1).await;
    (receiver, webhook, gate)
}

/// The message by which event-ingest handed this event over.
async fn fan_out_of(stack: &Stack, id: &str) -> Bytes {
    let sql = "SELECT id, timestamp, recipients, body FROM events WHERE public_id = $1";
    let database = stack.database.connect().await;
    let row = eventually("the event is stored", DEADLINE, async || {
        database.query_opt(sql, &[&id]).await.expect("events can be read")
    })
    .await;
    let recipients: Vec<String> = row.get(2);
    let event = FanOutEvent {
        id: EventId::from_uuid(row.get(0)),
        public_id: PublicEventId::parse(id).expect("a stored id is valid"),
        event_type: BookingCreated,
        timestamp: row.get(1),
        recipients: recipients.iter().map(|user| UserId::parse(user).expect("it is stored")).collect(),
        body: row.get::<_, Vec<u8>>(3).into(),
    };
    FanOut { events: vec![event] }.encode()
}

async fn count(stack: &Stack, sql: &str) -> i64 {
    stack.database.connect().await.query_one(sql, &[]).await.expect("rows can be counted").get(0)
}

async fn rows(stack: &Stack) -> i64 {
    count(stack, "SELECT count(*) FROM deliveries").await
}

async fn events_are_done_with(stack: &Stack, events: i64) {
    let sql = "SELECT count(*) FROM events
                WHERE NOT EXISTS (SELECT FROM events_to_fan_out WHERE event_id = id)";
    eventually_ok("the events are done with", DEADLINE, async || {
        let done = count(stack, sql).await;
        if done == events { Ok(()) } else { Err(done) }
    })
    .await;
}

/// Waits until the one delivery waits for a message that is parked beside the request on the wire.
async fn is_stood_in_for(stack: &Stack) {
    let sql = "SELECT count(*) FROM deliveries
                WHERE status = 'pending' AND attempts = 0 AND next_attempt_at > now() + interval '2 seconds'";
    eventually("it is written as pending", DEADLINE, async || (count(stack, sql).await == 1).then_some(()))
        .await;
    let parked = stack.queues().names().first().park_queue(Duration::from_secs(10));
    eventually("the stand-in is parked", DEADLINE, async || (stack.depth(&parked).await == 1).then_some(()))
        .await;
    events_are_done_with(stack, 1).await;
}

async fn is_empty(stack: &Stack, queue: &str) {
    eventually(&format!("{queue} is worked off"), DEADLINE, async || {
        (stack.depth(queue).await == 0).then_some(())
    })
    .await;
}

/// Jobs that are left in the queue.
async fn jobs_left(stack: &Stack) -> usize {
    let queue = stack.queues().names().deliver_queue();
    let pulled = stack.broker().inspector().pull(&queue, 1000).await.expect("the queue can be looked at");
    let jobs = pulled.messages().filter(|message| read_probe(message).is_none()).count();
    pulled.close().await.expect("the channel closes");
    jobs
}

/// The sum of a metric over the dispatchers.
async fn metric(stack: &mut Stack, name: &str) -> f64 {
    let mut sum = 0.0;
    for dispatcher in &mut stack.dispatchers {
        sum += dispatcher.metric(name).await;
    }
    sum
}

async fn metric_reaches(stack: &mut Stack, name: &str, least: u32) {
    eventually_ok(&format!("{name} reaches {least}"), DEADLINE, async || {
        let value = metric(stack, name).await;
        if value >= f64::from(least) { Ok(()) } else { Err(value) }
    })
    .await;
}

/// Ends the dispatchers, which finish what they have begun.
async fn finish(stack: &mut Stack) {
    for dispatcher in &mut stack.dispatchers {
        assert!(dispatcher.terminate(DEADLINE).await.success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_attempt_needs_no_job_and_its_delivery_is_written_once() {
    const EVENTS: u64 = 40;
    // A request that takes long is written before, with what stands in for it.
    let stack = Stack::builder().env("LOK__DELIVERY__HOLD", FOR_LONG).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    // Takes every second job, if there are any.
    let queue = stack.queues().names().deliver_queue();
    let config = ConsumerConfig { prefetch: 1000, tag: "witness".to_owned() };
    let mut witness = stack.broker().consumer(&queue, config);
    eventually("the witness takes its part", DEADLINE, async || {
        stack.publish_message(probe(&queue, Timestamp::UNIX_EPOCH)).await;
        tokio::time::timeout(A_MOMENT, witness.next()).await.ok().flatten()
    })
    .await;

    let events: Vec<_> = (0..EVENTS).map(|n| event(&format!("event-{n}"), "user_1")).collect();
    stack.publish_all(&events).await;
    tokio::select! {
        deliveries = settled(&stack, &webhook, EVENTS) => {
            assert!(deliveries.iter().all(|delivery| delivery["attempts"] == 1));
        }
        job = async {
            loop {
                let taken = witness.next().await.expect("the broker is open");
                if read_probe(&taken.received).is_none() {
                    return taken;
                }
            }
        } => panic!("there is a job: {:?}", job.received),
    }
    assert_eq!(receiver.requests().len() as u64, EVENTS);
    // A row that is written again takes another place in the table.
    let places = "SELECT sum(last)::bigint FROM (
                      SELECT max((ctid::text::point)[1]) AS last FROM deliveries GROUP BY tableoid) AS partitions";
    assert_eq!(count(&stack, places).await, EVENTS.cast_signed(), "a delivery was written twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_request_does_not_hold_its_event_and_what_stands_in_for_it_changes_nothing() {
    let mut stack = with_stand_ins().env("RUST_LOG", "info,dispatcher=debug").start().await;
    let (receiver, webhook, gate) = on_the_wire(&stack).await;
    is_stood_in_for(&stack).await;
    // The event's message is acknowledged: only then the next one is taken.
    let other = Receiver::start().await;
    stack.given_webhook("user_2", &other.url("/"), &[BookingCreated]).await;
    stack.publish(&event("next", "user_2")).await;
    other.until(1).await;
    assert_eq!(stack.history(&webhook, "").await["deliveries"][0]["attempts"], 0);

    gate.open();
    let recorded = settled(&stack, &webhook, 1).await;
    let dispatcher = &stack.dispatchers[0];
    eventually("the stand-in came out and found nothing to do", DEADLINE, async || {
        dispatcher.log_lines().iter().any(|line| line["message"] == "nothing left to do").then_some(())
    })
    .await;
    finish(&mut stack).await;
    assert_eq!(receiver.requests().len(), 1, "the stand-in was sent");
    assert_eq!(settled(&stack, &webhook, 1).await, recorded);
    assert_eq!((&recorded[0]["status"], &recorded[0]["attempts"]), (&json!("success"), &json!(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_for_a_request_makes_the_attempt_if_its_dispatcher_has_died() {
    let mut stack = with_stand_ins().start().await;
    let (receiver, webhook, gate) = on_the_wire(&stack).await;
    is_stood_in_for(&stack).await;
    let other = Receiver::start().await;
    stack.given_webhook("user_2", &other.url("/"), &[BookingCreated]).await;
    stack.publish(&event("next", "user_2")).await;
    other.until(1).await;

    stack.dispatchers[0].kill9();
    gate.open();
    stack.dispatchers[0].restart().await;
    receiver.until(2).await;
    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!((&deliveries[0]["status"], &deliveries[0]["attempts"]), (&json!("success"), &json!(1)));
    let requests = receiver.requests();
    assert!(requests.len() == 2 && requests.iter().all(|request| request.attempt() == 1));
    // Nobody else came to it: whoever issues a job anew raises its fence.
    let issued_anew = "SELECT count(*) FROM deliveries WHERE fence > 0";
    assert_eq!(count(&stack, issued_anew).await, 0);
    finish(&mut stack).await;
    assert_eq!(receiver.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_sent_is_left_to_what_stands_in_for_it() {
    // An egress proxy that takes its time to say that it does not know us, and knows us then.
    let (proxy, gate) = (Receiver::start().await, Gate::default());
    let unknown = Reply::status(407).header("proxy-authenticate", "Basic realm=\"egress\"");
    proxy.answer_next(unknown.when_open(&gate));
    proxy.answer(Reply::status(403));
    let stack =
        with_stand_ins().env("LOK__EGRESS__PROXY", proxy.url("")).env("LOK__DELIVERY__RETRY_DELAYS", "");
    let mut stack = stack.start().await;
    let webhook = stack.given_webhook("user_1", "http://127.0.0.1:9/", &[BookingCreated]).await;
    stack.publish(&event("slow", "user_1")).await;
    proxy.until(1).await;
    is_stood_in_for(&stack).await;

    gate.open();
    let requests = proxy.until(2).await;
    let between = requests[1].arrived - requests[0].arrived;
    assert!(between >= Duration::from_secs(10), "a second job came after {between:?}");
    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!((&deliveries[0]["status"], &deliveries[0]["attempts"]), (&json!("failed"), &json!(1)));
    assert!((stack.dispatchers[0].metric("attempts_put_off_total").await - 1.0).abs() < 0.5);
    finish(&mut stack).await;
    assert_eq!(proxy.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_dispatcher_died_with_its_request_on_the_wire_comes_back() {
    let mut stack = Stack::builder().env("LOK__DELIVERY__HOLD", FOR_LONG).start().await;
    let (receiver, webhook, gate) = on_the_wire(&stack).await;
    // Nothing is written as long as there is nothing to say.
    assert_eq!(rows(&stack).await, 0);
    stack.dispatchers[0].kill9();
    gate.open();
    let queue = stack.queues().names().fan_out_queue();
    eventually("its message is back", DEADLINE, async || (stack.depth(&queue).await == 1).then_some(()))
        .await;
    assert_eq!(rows(&stack).await, 0);

    stack.dispatchers[0].restart().await;
    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!((&deliveries[0]["status"], &deliveries[0]["attempts"]), (&json!("success"), &json!(1)));
    finish(&mut stack).await;
    let requests = receiver.requests();
    assert!(requests.len() == 2 && requests.iter().all(|request| request.attempt() == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_an_event_that_wait_in_vain_for_its_long_request_leave_it_alone() {
    let stack = Stack::builder().dispatchers(2).env("LOK__DELIVERY__TIMEOUT", "12s");
    let mut stack = stack.env("LOK__DELIVERY__PARK_DELAYS", "1s,30s").start().await;
    let (receiver, webhook, gate) = on_the_wire(&stack).await;
    let (names, copy) = (stack.queues().names(), fan_out_of(&stack, "slow").await);
    for _ in 0..COPIES {
        let copy = Message::to_queue(names.fan_out_queue(), copy.clone()).content_type(PROTOBUF);
        stack.publish_message(copy.may_be_copy()).await;
    }
    let all = 1 + u32::try_from(COPIES).expect("it is small");
    metric_reaches(&mut stack, "fanout_events_total", all).await;
    // A job among them would be at the other dispatcher by the time that this is.
    stack.publish(&event("after", "user_1")).await;
    receiver.until(2).await;

    gate.open();
    settled(&stack, &webhook, 2).await;
    is_empty(&stack, &names.fan_out_queue()).await;
    is_empty(&stack, &names.deliver_queue()).await;
    finish(&mut stack).await;
    assert_eq!(jobs_left(&stack).await, 0);
    assert_eq!(receiver.requests().len(), 2, "a copy caused a request");
}

#[tokio::test]
async fn a_copy_of_an_event_whose_message_never_was_is_delivered_when_it_has_waited() {
    const WAIT: Duration = Duration::from_secs(2);
    let mut stack = Stack::builder().env("LOK__DELIVERY__PARK_DELAYS", "2s,30s").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    stack.dispatchers[0].kill9();
    stack.publish(&event("lost", "user_1")).await;
    let (queue, copy) = (stack.queues().names().fan_out_queue(), fan_out_of(&stack, "lost").await);
    // The broker has probes in it too.
    eventually("the event's message is lost", DEADLINE, async || {
        let depth = stack.depth(&queue).await;
        (depth > 0).then_some(depth as usize)
    })
    .await;
    lose_all(&stack, &queue, stack.depth(&queue).await as usize).await;
    stack.dispatchers[0].restart().await;

    let published = Instant::now();
    stack.publish_message(Message::to_queue(&queue, copy).content_type(PROTOBUF).may_be_copy()).await;
    receiver.until(1).await;
    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!(deliveries[0]["attempts"], 1);
    let requests = receiver.requests();
    assert_eq!(requests.len(), 1);
    let waited = requests[0].arrived - published;
    assert!(waited >= WAIT, "it waited for {waited:?} only: the first may be on the wire");
    assert!(metric(&mut stack, "recovered_total").await < 0.5, "it was put back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_for_many_webhooks_is_spread_over_all_dispatchers_and_reaches_each_once() {
    const WEBHOOKS: usize = 12;
    let builder = Stack::builder().dispatchers(2).env("LOK__DELIVERY__HOLD", FOR_LONG);
    let mut stack = builder.env("LOK__DELIVERY__INLINE_FAN_OUT", "2").start().await;
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    receiver.answer(Reply::status(200).when_open(&gate));
    let mut webhooks = Vec::new();
    for n in 0..WEBHOOKS {
        let url = receiver.url(&format!("/{n}"));
        webhooks.push(stack.given_webhook("user_1", &url, &[BookingCreated]).await);
    }
    for n in 0..2 {
        stack.given_webhook("user_2", &receiver.url(&format!("/few/{n}")), &[BookingCreated]).await;
    }
    // So many are made by whoever fans out, and not written before there is something to say.
    stack.publish(&event("few", "user_2")).await;
    receiver.until(2).await;
    assert_eq!(rows(&stack).await, 0);

    stack.publish(&event("many", "user_1")).await;
    receiver.until(2 + WEBHOOKS).await;
    for dispatcher in &mut stack.dispatchers {
        let on_the_wire = dispatcher.metric("requests_in_flight").await;
        assert!(on_the_wire > 2.5, "one dispatcher has only {on_the_wire} of {WEBHOOKS} requests");
    }
    assert_eq!(rows(&stack).await, i64::try_from(WEBHOOKS).expect("it is small"));
    gate.open();
    for webhook in &webhooks {
        let deliveries = settled(&stack, webhook, 1).await;
        assert_eq!(deliveries[0]["attempts"], 1);
    }
    events_are_done_with(&stack, 2).await;
    finish(&mut stack).await;
    assert_eq!(receiver.requests().len(), 2 + WEBHOOKS);
}

#[tokio::test]
async fn a_message_that_comes_after_its_copy_may_have_been_worked_off_looks_first() {
    let mut stack = Stack::builder().env("LOK__DELIVERY__PARK_DELAYS", "100ms,30s").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    stack.publish(&event("late", "user_1")).await;
    let recorded = settled(&stack, &webhook, 1).await;
    let older = "SELECT count(*) FROM events WHERE received_at < now() - interval '200 milliseconds'";
    eventually("a copy would have waited", DEADLINE, async || {
        (count(&stack, older).await == 1).then_some(())
    })
    .await;
    let late = fan_out_of(&stack, "late").await;

    // As one whose publish took so long that the publisher's copy came first.
    let queue = stack.queues().names().fan_out_queue();
    stack.publish_message(Message::to_queue(&queue, late).content_type(PROTOBUF)).await;
    metric_reaches(&mut stack, "fanout_events_total", 2).await;
    finish(&mut stack).await;
    assert_eq!(receiver.requests().len(), 1, "it was sent after its success was recorded");
    assert_eq!(settled(&stack, &webhook, 1).await, recorded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_channel_is_lost_while_it_waits_for_room_sends_nothing_that_another_has_sent() {
    // One delivery at a time, no message beyond those two, and nothing but the lost channel tells that another may have
    // one of them.
    let builder = Stack::builder().behind_proxies().env("LOK__DELIVERY__PREFETCH", "1");
    let builder = builder.env("LOK__DELIVERY__FAN_OUT_PREFETCH", "2").env("LOK__DELIVERY__HOLD", FOR_LONG);
    let builder = builder.env("LOK__DELIVERY__TIMEOUT", FOR_LONG).env("LOK__SHUTDOWN__GRACE", "90s");
    let mut stack = builder.env("LOK__DELIVERY__PARK_DELAYS", "10m").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_2", &receiver.url("/"), &[BookingCreated]).await;
    // What is known of a webhook need not be read, after which it would be looked at again.
    stack.publish(&event("before", "user_2")).await;
    settled(&stack, &webhook, 1).await;
    let (_slow, _webhook, gate) = on_the_wire(&stack).await;
    // That is answered when the event is on its way.
    stack.ingest().post_text("/v1/events", event("waits", "user_2").to_json()).await.expect(202);
    is_empty(&stack, &stack.queues().names().fan_out_queue()).await;
    stack.dispatchers.push(stack.binary("dispatcher").spawn());
    stack.wait_ready().await;
    assert_eq!(receiver.requests().len(), 1, "it did not wait");

    stack.amqp_proxy().cut();
    stack.amqp_proxy().restore();
    receiver.until(2).await;
    let recorded = settled(&stack, &webhook, 2).await;
    gate.open();
    eventually("the first dispatcher has done with all three", DEADLINE, async || {
        (stack.dispatchers[0].metric("fanout_events_total").await > 2.5).then_some(())
    })
    .await;
    finish(&mut stack).await;
    assert_eq!(receiver.requests().len(), 2, "it was sent after its success was recorded");
    assert_eq!(settled(&stack, &webhook, 2).await, recorded);
}

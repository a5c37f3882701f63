//! PostgreSQL is the truth, the broker is the clock: what the broker lost is put back, what merely waits is not.

use std::time::{Duration, Instant};

use domain::EventType::BookingCreated;
use testkit::receiver::Gate;
use testkit::{DEADLINE, Event, Receiver, Reply, ServerKind, Stack, StackBuilder, Webhook, eventually};

use crate::support::{by_event_id, lose_all, settled, take_and_drop};

/// What operators are promised.
const PROMISED: Duration = Duration::from_secs(120);

fn events(count: usize) -> Vec<Event> {
    (0..count).map(|n| Event::example(BookingCreated).to("user_1").id(format!("event-{n}"))).collect()
}

/// A stack that takes for lost within some seconds what should have been looked at.
fn impatient() -> StackBuilder {
    Stack::builder()
        .env("LOK__DELIVERY__TIMEOUT", "2s")
        .env("LOK__EGRESS__CONNECT_TIMEOUT", "1s")
        .env("LOK__RECOVERY__INTERVAL", "500ms")
        .env("LOK__RECOVERY__SLACK", "1s")
}

/// Deliveries that were put back, by the dispatchers' own count.
async fn put_back(stack: &mut Stack) -> f64 {
    let mut count = 0.0;
    for dispatcher in &mut stack.dispatchers {
        count += dispatcher.metric("recovered_total").await;
    }
    count
}

async fn has_deliveries(stack: &Stack, webhook: &Webhook, count: usize) {
    eventually("every event is fanned out", DEADLINE, async || {
        (stack.history(webhook, "").await["statistics"]["total"] == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_lost_all_its_data_gets_500_pending_deliveries_back() {
    const EVENTS: usize = 500;
    // The defaults need 20 s more.
    let builder = Stack::builder().private_servers().dispatchers(2);
    let builder = builder.env("LOK__DELIVERY__TIMEOUT", "6s").env("LOK__RECOVERY__SLACK", "4s");
    let mut stack = builder.start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    // Jobs on the queue, parked, and on the wire.
    receiver.answer(Reply::hang());
    stack.publish_all(&events(EVENTS)).await;
    has_deliveries(&stack, &webhook, EVENTS).await;
    for dispatcher in &mut stack.dispatchers {
        dispatcher.kill9();
    }

    let broker = stack.servers().get(ServerKind::Rabbitmq);
    broker.kill9().await;
    broker.wipe().await;
    receiver.answer(Reply::status(200));
    let before = receiver.requests().len();
    let begun = Instant::now();
    broker.start_again().await;
    for dispatcher in &mut stack.dispatchers {
        dispatcher.restart().await;
    }

    receiver.until_within(before + EVENTS, PROMISED).await;
    settled(&stack, &webhook, EVENTS as u64).await;
    assert!(begun.elapsed() < PROMISED, "it took {:?}", begun.elapsed());
    let after = receiver.requests().split_off(before);
    assert_eq!(by_event_id(&after).len(), EVENTS);
    assert_eq!(after.len(), EVENTS, "a delivery was made twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_merely_long_is_not_taken_for_lost() {
    const EVENTS: usize = 6_000;
    // Two dispatchers with 40 requests of 250 ms each make at most 320 a second of it: the last wait for 18 s, three times
    // as long as anything may be late.
    let mut stack = impatient()
        .dispatchers(2)
        .env("LOK__RECOVERY__SLACK", "3s")
        // One webhook gets a quarter of what is free.
        .env("LOK__DELIVERY__MAX_IN_FLIGHT", "320")
        .env("LOK__DELIVERY__MAX_IN_FLIGHT_PER_WEBHOOK", "40")
        .env("LOK__DELIVERY__PREFETCH", "60")
        .start()
        .await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    receiver.answer(Reply::status(200).after(Duration::from_millis(250)));
    let begun = Instant::now();
    stack.publish_all(&events(EVENTS)).await;
    receiver.until_within(EVENTS, Duration::from_secs(50)).await;
    assert!(begun.elapsed() > Duration::from_secs(15), "the queue was not long: {:?}", begun.elapsed());

    settled(&stack, &webhook, EVENTS as u64).await;
    assert_eq!(receiver.requests().len(), EVENTS, "an event was delivered twice");
    assert!(put_back(&mut stack).await.abs() < 0.5, "work was multiplied");
}

#[tokio::test]
async fn a_job_that_is_parked_again_and_again_is_not_taken_for_lost() {
    const EVENTS: usize = 20;
    let mut stack = impatient()
        .env("LOK__RECOVERY__SLACK", "4s")
        .env("LOK__DELIVERY__MAX_IN_FLIGHT_PER_WEBHOOK", "1")
        .env("LOK__DELIVERY__MAX_WAIT", "100ms")
        .env("LOK__DELIVERY__PARK_DELAYS", "1s,30s")
        .start()
        .await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    // One after the other, each for a second: the last is parked for three times as long as anything may be late.
    receiver.answer(Reply::status(200).after(Duration::from_secs(1)));
    stack.publish_all(&events(EVENTS)).await;
    receiver.until_within(EVENTS, Duration::from_secs(50)).await;
    settled(&stack, &webhook, EVENTS as u64).await;
    assert_eq!(receiver.requests().len(), EVENTS, "an event was delivered twice");
    assert!(put_back(&mut stack).await.abs() < 0.5, "work was multiplied");
}

#[tokio::test]
async fn an_event_whose_fan_out_was_lost_is_fanned_out() {
    let mut stack = impatient().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    stack.dispatchers[0].kill9();
    stack.publish_all(&events(3)).await;
    let queue = stack.queues().names().fan_out_queue();
    let row = "SELECT count(*) FROM events";
    let database = stack.database.connect().await;
    eventually("the events are stored", DEADLINE, async || {
        let stored: i64 = database.query_one(row, &[]).await.expect("events can be counted").get(0);
        (stored == 3).then_some(())
    })
    .await;
    // Stored together, they may travel together: what is left of the queue decides.
    eventually("the fan-out messages are lost", DEADLINE, async || {
        lose_all(&stack, &queue, 1).await;
        (stack.depth(&queue).await == 0).then_some(())
    })
    .await;

    stack.dispatchers[0].restart().await;
    settled(&stack, &webhook, 3).await;
    assert_eq!(receiver.requests().len(), 3);
    assert!(put_back(&mut stack).await > 0.5);
}

#[tokio::test]
async fn a_retry_that_was_lost_is_made_when_it_is_due_and_counts_as_the_next_attempt() {
    let stack = impatient().env("LOK__DELIVERY__RETRY_DELAYS", "1500ms,1h").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    receiver.answer_next(Reply::status(500));
    stack.publish(&events(1)[0]).await;
    receiver.until(1).await;
    lose_all(&stack, &stack.queues().names().first().retry_queue(Duration::from_millis(1500)), 1).await;

    let requests = receiver.until(2).await;
    assert_eq!(requests[1].attempt(), 2);
    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!(deliveries[0]["attempts"], 2);
}

#[tokio::test]
async fn what_is_put_back_while_the_first_message_still_exists_is_delivered_once() {
    let mut stack = impatient().env("LOK__DELIVERY__MAX_IN_FLIGHT_PER_WEBHOOK", "1").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    // Two messages for every delivery: an operator asks for recovery while the queue is whole.
    let gate = Gate::default();
    stack.dispatchers[0].kill9();
    stack.publish_all(&events(20)).await;
    let fan_out = stack.queues().names().fan_out_queue();
    eventually("the events are on their way", DEADLINE, async || {
        (stack.depth(&fan_out).await > 0).then_some(())
    })
    .await;
    receiver.answer(Reply::status(200).when_open(&gate));
    stack.dispatchers[0].restart().await;
    has_deliveries(&stack, &webhook, 20).await;
    stack.dispatchers[0].kill9();
    let overdue = "UPDATE deliveries SET next_attempt_at = next_attempt_at - interval '30 minutes'
                    WHERE status = 'pending'";
    stack.database.connect().await.execute(overdue, &[]).await.expect("deliveries can be made older");
    let before = receiver.requests().len();
    let dry = stack.binary("lokctl").arg("recover").arg("--since").arg("1h").arg("--dry-run").output().await;
    assert!(dry.stdout.contains("deliveries: 20"), "{dry:?}");
    let recovered = stack.binary("lokctl").arg("recover").arg("--since").arg("1h").output().await;
    assert!(recovered.code == Some(0) && recovered.stdout.contains("deliveries: 20"), "{recovered:?}");
    let again = stack.binary("lokctl").arg("recover").arg("--since").arg("1h").output().await;
    assert!(again.stdout.contains("deliveries: 0"), "{again:?}");

    gate.open();
    stack.dispatchers[0].restart().await;
    settled(&stack, &webhook, 20).await;
    assert_eq!(receiver.requests().len() - before, 20, "a delivery was made twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_event_whose_job_was_never_published_is_delivered() {
    let mut stack = impatient().behind_proxies().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    // The answer is never given: the process dies between its commit and the broker's confirm.
    stack.amqp_proxy().freeze();
    let api = stack.api("user_1");
    let path = format!("{}/test", webhook.path());
    let asking = tokio::spawn(async move { api.post(&path, &serde_json::json!({})).await });
    let database = stack.database.connect().await;
    eventually("the delivery is written", DEADLINE, async || {
        let count = database.query_one("SELECT count(*) FROM deliveries", &[]).await;
        (count.expect("deliveries can be counted").get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    let api = stack.api.as_mut().expect("the stack has an API");
    api.kill9();
    asking.abort();
    stack.amqp_proxy().cut();
    stack.amqp_proxy().restore();
    stack.api.as_mut().expect("the stack has an API").restart().await;
    stack.wait_ready().await;

    receiver.until_within(1, DEADLINE * 2).await;
    settled(&stack, &webhook, 1).await;
    assert_eq!(receiver.requests().len(), 1);
}

/// Returns after which a message is worked off alone.
const SUSPICIOUS: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_isolation_is_not_taken_for_lost() {
    const EVENTS: usize = 10;
    let mut stack = impatient().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let gate = Gate::default();
    receiver.answer(Reply::status(200).when_open(&gate));
    stack.publish_all(&events(EVENTS)).await;
    has_deliveries(&stack, &webhook, EVENTS).await;
    stack.dispatchers[0].kill9();
    gate.open();
    let names = stack.queues().names();
    take_and_drop(&stack, &names.deliver_queue(), EVENTS, SUSPICIOUS).await;

    // One after the other, each as long as a request may take: the last waits far longer than anything may be late.
    receiver.answer(Reply::hang());
    let before = receiver.requests().len();
    stack.dispatchers[0].restart().await;
    eventually("each was tried alone", DEADLINE * 2, async || {
        (receiver.requests().len() >= before + EVENTS).then_some(())
    })
    .await;
    assert!(put_back(&mut stack).await < 1.0);
    assert!(by_event_id(&receiver.requests()[before..]).values().all(|requests| requests.len() == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_fan_out_waits_in_isolation_is_marked_as_waiting() {
    let mut stack = impatient().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    assert!(stack.dispatchers[0].terminate(DEADLINE).await.success());
    stack.publish_all(&events(1)).await;
    let names = stack.queues().names();
    eventually("it is to be fanned out", DEADLINE, async || {
        (stack.depth(&names.fan_out_queue()).await == 1).then_some(())
    })
    .await;
    take_and_drop(&stack, &names.fan_out_queue(), 1, SUSPICIOUS).await;

    let (locking, observer) = (stack.database.connect().await, stack.database.connect().await);
    locking.batch_execute("BEGIN; LOCK TABLE deliveries").await.expect("the lock is free");
    stack.dispatchers[0].start_again();
    eventually("it waits, and says so", DEADLINE, async || {
        let waits = "SELECT bool_and(queued_at > now() + interval '20 minutes') FROM events_to_fan_out";
        let row = observer.query_one(waits, &[]).await.expect("what waits can be read");
        row.get::<_, bool>(0).then_some(())
    })
    .await;
    locking.batch_execute("COMMIT").await.expect("the lock is let go");
    settled(&stack, &webhook, 1).await;
    assert_eq!(receiver.requests().len(), 1);
}

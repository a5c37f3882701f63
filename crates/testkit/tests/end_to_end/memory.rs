//! Whatever waits, hangs, is large or is away: no service ever takes more than 256 MiB.
//!
//! With `LOK_TEST_FULL_LOAD` set the loads are those that operators may have to bear, and the tests take minutes.

use std::time::Duration;

use domain::EventType::BookingCreated;
use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use testkit::receiver::Gate;
use testkit::{ApiClient, DEADLINE, Event, PrivateServer, Receiver, Reply, Service, Stack, eventually_ok};
use tokio::time::{Instant, interval, sleep_until};

/// The most that any service may ever have taken.
const BOUND: u64 = 256 * MIB;

const MIB: u64 = 1024 * 1024;

/// The largest body there is, but for what the event adds to it.
const LARGE: usize = 255 * 1024;

/// The largest body that travels with its job, nearly.
const INLINE: usize = 15 * 1024;

/// A body like most.
const SMALL: usize = 100;

/// How long things may take that a busy machine takes long for.
const PATIENCE: Duration = DEADLINE.saturating_mul(3);

/// One or the other, by what is asked for.
fn load<T>(usual: T, full: T) -> T {
    if std::env::var_os("LOK_TEST_FULL_LOAD").is_some() { full } else { usual }
}

/// An event with a body of about this many bytes, to nobody yet.
fn event(id: impl Into<String>, bytes: usize) -> Event {
    let example = BookingCreated.example_text().trim_end();
    let members = example.strip_suffix('}').expect("the example is an object");
    let notes = "x".repeat(bytes.saturating_sub(example.len()));
    Event::example(BookingCreated).id(id).data(format!("{members},\"notes\":\"{notes}\"}}"))
}

fn events(name: &str, count: usize, bytes: usize) -> Vec<Event> {
    (0..count).map(|n| event(format!("{name}-{n}"), bytes).to("user_1")).collect()
}

/// Creates `count` webhooks of one user.
async fn webhooks(stack: &Stack, receiver: &Receiver, user: &str, count: usize) {
    for n in 0..count {
        stack.given_webhook(user, &receiver.url(&format!("/{n}")), &[BookingCreated]).await;
    }
}

/// Starts one event-ingest and one dispatcher beside what waits for them.
async fn start_services(stack: &mut Stack) {
    stack.ingests.push(stack.binary("event-ingest").spawn());
    stack.dispatchers.push(stack.binary("dispatcher").spawn());
    stack.wait_ready().await;
}

/// Waits until a service counted this much.
async fn counted(service: &mut Service, metric: &str, count: u32) {
    let what = format!("{metric} of {} reaches {count}", service.name());
    eventually_ok(&what, load(PATIENCE, PATIENCE * 10), async || {
        let counted = service.metric(metric).await;
        if counted >= f64::from(count) { Ok(()) } else { Err(counted) }
    })
    .await;
}

/// Every service took less than the bound, at any time since it was started.
#[expect(clippy::print_stderr, reason = "the figures are looked at when sizes are decided on")]
fn assert_bounded(stack: &mut Stack) {
    let taken: Vec<_> =
        stack.services().map(|service| (service.name().to_owned(), service.memory())).collect();
    for (name, memory) in &taken {
        eprintln!("{name} takes {} MiB and took {} MiB at most", memory.resident / MIB, memory.peak / MIB);
    }
    for (name, memory) in taken {
        assert!(memory.peak < BOUND, "{name} took {} MiB", memory.peak / MIB);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_thousand_events_wait_on_the_broker() {
    let mut stack = Stack::builder().ingests(0).dispatchers(0).start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::hang());
    webhooks(&stack, &receiver, "user_1", 2).await;
    // Each call has to be confirmed within the deadline.
    for some in events("event", 200_000, SMALL).chunks(20_000) {
        stack.publish_all(some).await;
    }

    start_services(&mut stack).await;
    counted(&mut stack.ingests[0], "ingest_events_total", load(10_000, 150_000)).await;
    counted(&mut stack.dispatchers[0], "fanout_deliveries_total", load(2_000, 100_000)).await;
    assert_bounded(&mut stack);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_at_receivers_that_hang_wait_on_the_broker() {
    let mut stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::hang());
    webhooks(&stack, &receiver, "user_1", 100).await;
    stack.publish_all(&events("event", load(200, 2_000), SMALL)).await;

    counted(&mut stack.dispatchers[0], "fanout_deliveries_total", load(20_000, 200_000)).await;
    counted(&mut stack.dispatchers[0], "deliveries_parked_total", 2_000).await;
    assert_bounded(&mut stack);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_that_hang_with_bodies_that_travel_with_their_jobs() {
    let mut stack = Stack::builder().env("LOK__DELIVERY__TIMEOUT", "5s").start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::hang());
    webhooks(&stack, &receiver, "user_1", 100).await;
    stack.publish_all(&events("event", 40, INLINE)).await;

    // Far more than that do not come: a receiver that hangs is probed.
    receiver.until_within(1_000, PATIENCE).await;
    assert_bounded(&mut stack);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_read_wait_for_memory_at_receivers_that_hang_and_small_ones_pass_them() {
    const WEBHOOKS: usize = 100;
    /// `delivery.body_memory` holds so many.
    const AT_ONCE: usize = 32 * 1024 / 256;
    let builder = Stack::builder().env("LOK__DELIVERY__TIMEOUT", "60s").env("LOK__SHUTDOWN__GRACE", "90s");
    let mut stack = builder.start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::hang());
    webhooks(&stack, &receiver, "user_1", WEBHOOKS).await;
    stack.publish_all(&events("large", 40, LARGE)).await;
    receiver.until_within(AT_ONCE, PATIENCE).await;
    counted(&mut stack.dispatchers[0], "deliveries_parked_total", 2_000).await;

    stack.publish(&events("small", 1, SMALL)[0]).await;
    let requests = receiver.until_within(AT_ONCE + WEBHOOKS, PATIENCE).await;
    let large = requests.iter().filter(|request| request.body.len() >= LARGE).count();
    assert_eq!(large, AT_ONCE, "memory for bodies was exceeded, or lay idle");
    assert_bounded(&mut stack);
}

/// Events of the largest size, as many as one request may carry.
fn large_request() -> String {
    let events: Vec<_> = (0..15).map(|n| event(format!("http-{n}"), LARGE).to("nobody").to_json()).collect();
    format!("[{}]", events.join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_and_many_recipients_all_the_way() {
    const RECIPIENTS: usize = 200;
    const BODY: usize = LARGE - 20 * RECIPIENTS;
    let mut stack = Stack::builder().ingests(0).dispatchers(0).start().await;
    let receiver = Receiver::start().await;
    webhooks(&stack, &receiver, "user_1", 2).await;
    let strangers = |event: Event, n: usize| {
        (0..RECIPIENTS).fold(event, |event, recipient| event.to(&format!("stranger_{n}_{recipient}")))
    };
    let events = events("event", load(500, 2_000), BODY).into_iter().zip(0..);
    let events: Vec<_> = events.map(|(event, n)| strangers(event, n)).collect();
    stack.publish_all(&events).await;

    start_services(&mut stack).await;
    let body = large_request();
    let requests = async {
        let posting = (0..16).map(async |_| stack.ingest().post_text("/v1/events", body.clone()).await);
        join_all(posting).await
    };
    let (requests, _) = tokio::join!(requests, receiver.until_within(load(200, 4_000), PATIENCE));
    assert!(requests.iter().all(|answer| [202, 503].contains(&answer.status.as_u16())), "{requests:?}");
    assert_bounded(&mut stack);
}

/// Posts large events again and again.
async fn post_until(end: Instant, ingest: ApiClient) {
    let body = event("http", LARGE).to("nobody").to_json();
    while Instant::now() < end {
        let answer = ingest.post_text("/v1/events", body.clone()).await;
        assert!([202, 503, 408].contains(&answer.status.as_u16()), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_while_channels_are_lost_and_events_come() {
    const WEBHOOKS: usize = 20;
    const BACKLOG: usize = 120;
    let outage = Duration::from_secs(load(20, 120));
    let mut stack = Stack::builder().behind_proxies().start().await;
    let (receiver, gate) = (Receiver::start().await, Gate::default());
    receiver.answer(Reply::status(200).when_open(&gate));
    webhooks(&stack, &receiver, "user_1", WEBHOOKS).await;
    webhooks(&stack, &receiver, "user_2", 2).await;
    stack.publish_all(&events("before", BACKLOG, INLINE)).await;
    counted(&mut stack.dispatchers[0], "fanout_deliveries_total", 2_400).await;

    let end = Instant::now() + outage;
    let failing = async {
        stack.database_proxy().freeze();
        gate.open();
        sleep_until(end - outage / 2).await;
        stack.database_proxy().cut();
        sleep_until(end).await;
        stack.database_proxy().restore();
    };
    // Twice: what came back more often would be worked off one by one.
    let losing_channels = async {
        for before_end in [outage * 2 / 3, outage / 3] {
            sleep_until(end - before_end).await;
            stack.amqp_proxy().cut();
            stack.amqp_proxy().restore();
        }
    };
    let publishing = async {
        let (mut pace, mut published) = (interval(Duration::from_secs(1)), 0);
        while pace.tick().await < end {
            stack.publish(&event(format!("during-{published}"), INLINE).to("user_1")).await;
            stack.publish(&event(format!("large-{published}"), LARGE).to("user_2")).await;
            published += 1;
        }
        published
    };
    let posting = join_all((0..64).map(|_| post_until(end, stack.ingest())));
    let ((), (), published, _) = tokio::join!(failing, losing_channels, publishing, posting);

    let deliveries = (BACKLOG + published) * WEBHOOKS + published * 2;
    receiver.until_within(deliveries, PATIENCE).await;
    assert_bounded(&mut stack);
}

/// Publishes a message of this size, and says whether the broker took it.
async fn is_taken(connection: &Connection, bytes: usize) -> bool {
    let channel = connection.create_channel().await.expect("a channel can be opened");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("publishes can be confirmed");
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let body = vec![b'x'; bytes];
    let published = channel.basic_publish("".into(), "nowhere".into(), options, &body, properties).await;
    match published {
        Ok(confirm) => confirm.await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_refuses_what_is_far_larger_than_any_message() {
    const MOST: usize = 4 * 1024 * 1024;
    let server = PrivateServer::rabbitmq().await;
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(server.url().as_str(), properties).await.expect("it is ready");
    assert!(is_taken(&connection, MOST).await);
    assert!(!is_taken(&connection, MOST + 1).await);
}

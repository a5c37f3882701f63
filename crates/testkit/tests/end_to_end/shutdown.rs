//! SIGTERM drains: no loss, no duplicate, exit code 0.

use std::time::Duration;

use domain::EventType::BookingCreated;
use testkit::receiver::Gate;
use testkit::{DEADLINE, Event, Receiver, Reply, Stack, eventually};

use crate::support::{by_event_id, settled};

/// The attempt's timeout and 5 s.
const BOUND: Duration = Duration::from_secs(15);

fn events(count: usize) -> Vec<Event> {
    (0..count).map(|n| Event::example(BookingCreated).to("user_1").id(format!("event-{n}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_dispatchers_under_load_loses_and_repeats_nothing() {
    const EVENTS: usize = 1_000;
    let mut stack = Stack::builder().dispatchers(2).env("LOK__DELIVERY__PARK_DELAY", "200ms").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    // Slow enough that every restart finds requests on the wire.
    receiver.answer(Reply::status(200).after(Duration::from_millis(50)));

    stack.publish_all(&events(EVENTS)).await;
    for n in 0..2 {
        receiver.until(EVENTS / 4 * (n + 1)).await;
        let status = stack.dispatchers[n].terminate(BOUND).await;
        assert_eq!(status.code(), Some(0), "{status}");
        stack.dispatchers[n].restart().await;
    }

    settled(&stack, &webhook, EVENTS as u64).await;
    let requests = receiver.requests();
    assert_eq!(by_event_id(&requests).len(), EVENTS, "an event was lost");
    assert_eq!(requests.len(), EVENTS, "an event was delivered twice");
}

#[tokio::test]
async fn a_request_on_the_wire_is_finished_and_recorded() {
    let mut stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let gate = Gate::default();
    receiver.answer(Reply::status(200).when_open(&gate));
    stack.publish(&events(1)[0]).await;
    receiver.until(1).await;

    let dispatcher = &mut stack.dispatchers[0];
    let ready = format!("{}/readyz", dispatcher.admin_url().await);
    dispatcher.signal_terminate();
    eventually("readiness is off while it drains", DEADLINE, async || {
        (testkit::HttpClient::default().get(&ready).await.status == 503).then_some(())
    })
    .await;
    assert!(dispatcher.is_running());
    gate.open();
    assert_eq!(dispatcher.wait_ended(BOUND).await.code(), Some(0));

    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!(deliveries[0]["status"], "success");
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn a_receiver_that_hangs_cannot_hold_a_shutdown_beyond_the_timeout() {
    let mut stack = Stack::builder().env("LOK__DELIVERY__TIMEOUT", "2s").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    receiver.answer(Reply::hang());
    stack.publish(&events(1)[0]).await;
    receiver.until(1).await;

    let status = stack.dispatchers[0].terminate(Duration::from_secs(2 + 5)).await;
    assert_eq!(status.code(), Some(0));
    let delivery = stack.history(&webhook, "").await["deliveries"][0].clone();
    assert_eq!((&delivery["attempts"], &delivery["status"]), (&1.into(), &"pending".into()), "{delivery}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_event_ingest_under_load_loses_and_repeats_nothing() {
    const EVENTS: usize = 1_000;
    let mut stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;

    let events = events(EVENTS);
    tokio::join!(stack.publish_all(&events), receiver.until(EVENTS / 10));
    assert_eq!(stack.ingests[0].terminate(BOUND).await.code(), Some(0));
    stack.ingests[0].restart().await;

    settled(&stack, &webhook, EVENTS as u64).await;
    assert_eq!(receiver.requests().len(), EVENTS);
}

#[tokio::test]
async fn every_service_ends_by_itself_when_told() {
    let mut stack = Stack::builder().start().await;
    for service in stack.services() {
        let name = service.name().to_owned();
        assert_eq!(service.terminate(BOUND).await.code(), Some(0), "{name}");
    }
}

//! SIGTERM drains: no loss, no duplicate, exit code 0.

use std::sync::Mutex;
use std::time::Duration;

use domain::EventType::BookingCreated;
use testkit::receiver::Gate;
use testkit::{DEADLINE, Event, HttpClient, Receiver, Reply, Stack, eventually, eventually_ok};

use crate::support::{by_event_id, settled};

/// The attempt's timeout and 5 s.
const BOUND: Duration = Duration::from_secs(15);

fn events(count: usize) -> Vec<Event> {
    (0..count).map(|n| Event::example(BookingCreated).to("user_1").id(format!("event-{n}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_dispatchers_under_load_loses_and_repeats_nothing() {
    const EVENTS: usize = 1_000;
    let mut stack =
        Stack::builder().dispatchers(2).env("LOK__DELIVERY__PARK_DELAYS", "200ms,30s").start().await;
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
        (HttpClient::default().get(&ready).await.status == 503).then_some(())
    })
    .await;
    assert!(dispatcher.is_running());
    gate.open();
    assert_eq!(dispatcher.wait_ended(BOUND).await.code(), Some(0));

    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!(deliveries[0]["status"], "success");
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_with_a_request_on_the_wire_and_one_that_waits_is_not_given_back() {
    let builder = Stack::builder().dispatchers(2).env("LOK__DELIVERY__MAX_IN_FLIGHT", "1");
    let mut stack = builder.env("LOK__DELIVERY__HOLD", "60s").start().await;
    stack.dispatchers[1].kill9();
    let receiver = Receiver::start().await;
    let first = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let second = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let gate = Gate::default();
    receiver.answer_next(Reply::status(200).when_open(&gate));
    stack.publish(&events(1)[0]).await;
    receiver.until(1).await;

    // What waits becomes a job for the other; what is on the wire stays here, and nobody else makes it.
    stack.dispatchers[0].signal_terminate();
    stack.dispatchers[1].restart().await;
    receiver.until(2).await;
    stack.publish(&Event::example(BookingCreated).to("user_1").id("after")).await;
    receiver.until(4).await;
    gate.open();
    assert_eq!(stack.dispatchers[0].wait_ended(BOUND).await.code(), Some(0));

    for webhook in [&first, &second] {
        settled(&stack, webhook, 2).await;
    }
    assert_eq!(receiver.requests().len(), 4, "a delivery was made twice");
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

/// Where the processes of event-ingest listen now.
type Urls = Mutex<Vec<String>>;

/// Publishes events over HTTP one after another, each to whichever process takes it: one that stops answers what it took
/// and refuses the rest.
async fn publish_over_http(events: &[Event], urls: &Urls, token: &str) {
    let http = HttpClient::default();
    let mut turns = 0..;
    for event in events {
        eventually_ok("one of the processes takes the event", DEADLINE, async || {
            let url = {
                let urls = urls.lock().expect("nobody panics with it");
                urls[turns.next().expect("endless") % urls.len()].clone()
            };
            let request = http::Request::post(format!("{url}/v1/events"))
                .header("authorization", format!("Bearer {token}"))
                .header("content-type", "application/json")
                .body(event.to_json().into())
                .expect("a request");
            match http.try_send(request).await {
                Ok(answer) if answer.status == 202 => Ok(()),
                Ok(answer) => Err(answer.text()),
                Err(reason) => Err(reason),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_event_ingest_under_load_loses_and_repeats_nothing() {
    const EVENTS: usize = 1_000;
    const OVER_HTTP: usize = 200;
    let mut stack = Stack::builder().ingests(2).env("LOK__INGEST__BATCH_EVENTS", "20").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let urls = Urls::default();
    for ingest in &mut stack.ingests {
        let url = ingest.url().await;
        urls.lock().expect("nobody panics with it").push(url);
    }

    let events = events(EVENTS + OVER_HTTP);
    let (over_http, over_amqp) = events.split_at(OVER_HTTP);
    let token = stack.ingest_token().to_owned();
    let publishing = publish_over_http(over_http, &urls, &token);
    let rolling = async {
        for (n, events) in over_amqp.chunks(EVENTS / 2).enumerate() {
            let before = receiver.requests().len();
            tokio::join!(stack.publish_all(events), receiver.until(before + EVENTS / 10));
            let status = stack.ingests[n].terminate(BOUND).await;
            assert_eq!(status.code(), Some(0), "{status}");
            stack.ingests[n].restart().await;
            let url = stack.ingests[n].url().await;
            urls.lock().expect("nobody panics with it")[n] = url;
        }
    };
    tokio::join!(publishing, rolling);

    settled(&stack, &webhook, (EVENTS + OVER_HTTP) as u64).await;
    let requests = receiver.requests();
    assert_eq!(by_event_id(&requests).len(), EVENTS + OVER_HTTP, "an event was lost");
    assert_eq!(requests.len(), EVENTS + OVER_HTTP, "an event was delivered twice");
}

#[tokio::test]
async fn every_service_ends_by_itself_when_told() {
    let mut stack = Stack::builder().start().await;
    for service in stack.services() {
        let name = service.name().to_owned();
        assert_eq!(service.terminate(BOUND).await.code(), Some(0), "{name}");
    }
}

/// Under load, with events on every stage of their way, `fail` hits and every service is told to stop: each ends in time
/// by itself, and what it leaves is done after the next start.
async fn told_to_stop_under(fail: fn(&Stack), restore: fn(&Stack)) {
    const EVENTS: usize = 400;
    const GRACE: Duration = Duration::from_secs(6);
    let builder = Stack::builder().behind_proxies().dispatchers(2).ingests(2);
    let builder = builder.env("LOK__SHUTDOWN__GRACE", "6s").env("LOK__DELIVERY__TIMEOUT", "2s");
    let mut stack = builder.start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    receiver.answer(Reply::status(200).after(Duration::from_millis(50)));
    let events = events(EVENTS);
    tokio::join!(stack.publish_all(&events), receiver.until(EVENTS / 10));

    fail(&stack);
    let told = tokio::time::Instant::now();
    for service in stack.services() {
        service.signal_terminate();
    }
    for service in stack.services() {
        let name = service.name().to_owned();
        let left = GRACE.saturating_sub(told.elapsed());
        assert_eq!(service.wait_ended(left).await.code(), Some(0), "{name}");
    }

    restore(&stack);
    for service in stack.services() {
        service.start_again();
    }
    stack.wait_ready().await;
    settled(&stack, &webhook, EVENTS as u64).await;
    assert_eq!(by_event_id(&receiver.requests()).len(), EVENTS, "an event was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_gone_holds_up_no_shutdown() {
    told_to_stop_under(|stack| stack.amqp_proxy().cut(), |stack| stack.amqp_proxy().restore()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_holds_up_no_shutdown() {
    told_to_stop_under(|stack| stack.amqp_proxy().freeze(), |stack| stack.amqp_proxy().restore()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_holds_up_no_shutdown() {
    told_to_stop_under(|stack| stack.database_proxy().cut(), |stack| stack.database_proxy().restore()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_holds_up_no_shutdown() {
    told_to_stop_under(|stack| stack.database_proxy().freeze(), |stack| stack.database_proxy().restore())
        .await;
}

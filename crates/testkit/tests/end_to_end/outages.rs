//! The database or the broker goes away for a while under load: nothing is lost, and services come back by themselves.

use std::time::Duration;

use domain::EventType::BookingCreated;
use testkit::{DEADLINE, Event, FaultProxy, Receiver, Stack, eventually};

use crate::support::{by_event_id, settled};

const EVENTS: usize = 1_000;

/// The longest that a service may take to notice that a server is back.
const RECOVERY: Duration = Duration::from_secs(30);

async fn readiness(stack: &mut Stack) -> Vec<(String, u16)> {
    let mut statuses = Vec::new();
    for service in stack.services() {
        let url = format!("{}/readyz", service.admin_url().await);
        let answer = testkit::HttpClient::default().get(&url).await;
        statuses.push((service.name().to_owned(), answer.status.as_u16()));
    }
    statuses
}

/// Publishes under an outage: `fail` after the first deliveries, `restore` when every service said that it is not
/// ready. Returns the number of requests that came.
async fn outage_under_load(proxy: fn(&Stack) -> &FaultProxy, fail: fn(&FaultProxy)) -> usize {
    let mut stack = Stack::builder().dispatchers(2).behind_proxies().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let event = |n| Event::example(BookingCreated).to("user_1").id(format!("event-{n}"));
    let events: Vec<_> = (0..EVENTS).map(event).collect();

    let failing = async {
        receiver.until(EVENTS / 20).await;
        fail(proxy(&stack));
    };
    tokio::join!(stack.publish_all(&events), failing);
    assert!(receiver.requests().len() < EVENTS, "it failed too late to be under load");
    eventually("who needs the server is not ready", DEADLINE, async || {
        let statuses = readiness(&mut stack).await;
        let is_away = |(name, status): &(String, u16)| *status == 503 || name == "management-api";
        statuses.iter().all(is_away).then_some(())
    })
    .await;
    proxy(&stack).restore();

    for service in stack.services() {
        service.wait_ready(RECOVERY).await;
    }
    settled(&stack, &webhook, EVENTS as u64).await;
    let requests = receiver.requests();
    assert_eq!(by_event_id(&requests).len(), EVENTS, "an event was lost");
    requests.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_loses_and_repeats_nothing() {
    let requests = outage_under_load(Stack::database_proxy, FaultProxy::cut).await;
    assert_eq!(requests, EVENTS, "an attempt that could not be recorded at once was made again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_broker_loses_and_repeats_nothing() {
    let requests = outage_under_load(Stack::amqp_proxy, FaultProxy::cut).await;
    assert_eq!(requests, EVENTS, "what the broker delivered again was sent again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_loses_nothing() {
    outage_under_load(Stack::database_proxy, FaultProxy::freeze).await;
}

#[tokio::test]
async fn without_a_database_the_api_says_when_to_come_again() {
    let stack = Stack::builder().ingests(0).dispatchers(0).behind_proxies().start().await;
    stack.database_proxy().cut();
    let answer = stack.api("user_1").get("/api/webhooks").await.expect(503);
    assert!(answer.header("retry-after").is_some_and(|value| value.parse::<u32>().is_ok()), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    stack.database_proxy().restore();
    eventually("the API works again", DEADLINE, async || {
        (stack.api("user_1").get("/api/webhooks").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn services_start_without_their_servers_and_are_ready_when_those_come() {
    let mut stack = Stack::builder().behind_proxies().start().await;
    for service in stack.services() {
        assert!(service.terminate(DEADLINE).await.success());
    }
    stack.database_proxy().cut();
    stack.amqp_proxy().cut();
    for service in stack.services() {
        service.start_again();
    }
    for service in stack.services() {
        let url = format!("{}/readyz", service.admin_url().await);
        assert_eq!(testkit::HttpClient::default().get(&url).await.status, 503, "{}", service.name());
        assert!(service.is_running());
    }
    stack.database_proxy().restore();
    stack.amqp_proxy().restore();
    for service in stack.services() {
        service.wait_ready(RECOVERY).await;
    }
}

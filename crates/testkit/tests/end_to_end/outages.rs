//! The database or the broker goes away for a while under load: nothing is lost, and services come back by themselves.

use std::time::Duration;

use domain::EventType::BookingCreated;
use testkit::receiver::Gate;
use testkit::{DEADLINE, Event, FaultProxy, Receiver, Reply, Request, Stack, eventually};

use tokio_postgres::Client;

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

/// The longest from the start of a request to its record, here, where receivers answer at once.
const ON_THE_WIRE: Duration = Duration::from_secs(3);

/// Publishes under an outage: `fail` after the first deliveries, `restore` when every service said that it is not
/// ready. Returns the requests that came.
async fn outage_under_load(proxy: fn(&Stack) -> &FaultProxy, fail: fn(&FaultProxy)) -> Vec<Request> {
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
    requests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_loses_and_repeats_nothing() {
    let requests = outage_under_load(Stack::database_proxy, FaultProxy::cut).await;
    assert_eq!(requests.len(), EVENTS, "an attempt that could not be recorded at once was made again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_broker_loses_nothing_and_repeats_only_what_two_dispatchers_had_at_once() {
    let requests = outage_under_load(Stack::amqp_proxy, FaultProxy::cut).await;
    for (id, requests) in by_event_id(&requests) {
        let (first, last) = (requests[0], requests[requests.len() - 1]);
        assert!(requests.len() <= 2, "{id} came {} times", requests.len());
        assert_eq!(first.attempt(), last.attempt(), "{id}: a repetition is the same attempt");
        // The broker gave the job to a second dispatcher while the first had the request on the wire.
        assert!(last.arrived - first.arrived < ON_THE_WIRE, "{id} was sent again after it was recorded");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_loses_nothing() {
    outage_under_load(Stack::database_proxy, FaultProxy::freeze).await;
}

/// A stack whose dispatcher alone has its database behind the proxy.
async fn dispatcher_behind_proxy(retry_delays: &str) -> Stack {
    let builder = Stack::builder().no_api().ingests(0).behind_proxies();
    let mut stack = builder.env("LOK__DELIVERY__RETRY_DELAYS", retry_delays).start().await;
    let direct = |name: &str| stack.binary(name).env("LOK__DATABASE__URL", stack.database.url()).spawn();
    (stack.api, stack.ingests) = (Some(direct("management-api")), vec![direct("event-ingest")]);
    stack.wait_ready().await;
    stack
}

/// Makes `act` cause a statement that commits and whose answer nobody gets: it is held by `lock` until the proxy
/// lets no answer through, and the connection is cut when the database has what `committed` counts once.
async fn unanswered(stack: &Stack, lock: &str, committed: &str, act: impl AsyncFnOnce()) {
    let database = stack.database.connect().await;
    database.batch_execute(&format!("BEGIN; {lock}")).await.expect("the lock is free");
    act().await;
    // Snapshots of the statistics last for a transaction: another connection looks.
    let observer = stack.database.connect().await;
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'";
    counts_one(&observer, waiting).await;
    stack.database_proxy().mute();
    database.batch_execute("COMMIT").await.expect("the lock is let go");
    counts_one(&observer, committed).await;
    stack.database_proxy().cut();
    stack.database_proxy().restore();
}

async fn counts_one(database: &Client, query: &str) {
    eventually(query, DEADLINE, async || {
        let row = database.query_one(query, &[]).await.expect("rows can be counted");
        (row.get::<_, i64>(0) == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_fan_out_whose_commit_was_not_answered_is_handed_over() {
    let stack = dispatcher_behind_proxy("60s").await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;

    // The counter that the fan-out has to change. A lock of the whole table would hold it before it is run.
    let lock =
        "INSERT INTO webhook_statistics (webhook_id, event_type) SELECT id, 'booking.created' FROM webhooks";
    unanswered(&stack, lock, "SELECT count(*) FROM deliveries", async || {
        stack.publish(&Event::example(BookingCreated).to("user_1")).await;
    })
    .await;

    receiver.until(1).await;
    settled(&stack, &webhook, 1).await;
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn an_attempt_whose_commit_was_not_answered_is_followed_by_the_next() {
    let stack = dispatcher_behind_proxy("300ms").await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let gate = Gate::default();
    receiver.answer_next(Reply::status(500).when_open(&gate));
    stack.publish(&Event::example(BookingCreated).to("user_1")).await;
    receiver.until(1).await;

    // A request that takes long has a row, on which its attempt is recorded.
    counts_one(&stack.database.connect().await, "SELECT count(*) FROM deliveries").await;
    let lock = "SELECT FROM deliveries FOR UPDATE";
    unanswered(&stack, lock, "SELECT count(*) FROM deliveries WHERE attempts = 1", async || gate.open())
        .await;

    let attempts: Vec<_> = receiver.until(2).await.iter().map(Request::attempt).collect();
    assert_eq!(attempts, [1, 2]);
    settled(&stack, &webhook, 1).await;
    assert_eq!(receiver.requests().len(), 2);
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

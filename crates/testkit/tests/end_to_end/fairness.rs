//! One receiver cannot hurt another, and one that hangs is asked only as often as tells whether it still does.

use std::time::Duration;

use domain::EventType::BookingCreated;
use testkit::{DEADLINE, Event, Receiver, Reply, Stack, eventually_ok};

/// One user's events.
fn events(name: &str, user: &str, count: usize) -> Vec<Event> {
    (0..count).map(|n| Event::example(BookingCreated).id(format!("{name}-{n}")).to(user)).collect()
}

async fn attempted(stack: &Stack, user: &str) -> i64 {
    let sql =
        "SELECT count(*) FROM deliveries delivery JOIN webhooks webhook ON webhook.id = delivery.webhook_id
                WHERE webhook.user_id = $1 AND delivery.attempts > 0";
    let row = stack.database.connect().await.query_one(sql, &[&user]).await;
    row.expect("deliveries can be counted").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_hangs_is_probed_its_deliveries_are_parked_longer_and_all_come_when_it_is_back() {
    const EVENTS: usize = 60;
    /// Beyond where stand-ins are: only who is parked because the receiver has been failing for long is there.
    const LONGEST: Duration = Duration::from_secs(5);
    let stack = Stack::builder().env("LOK__DELIVERY__TIMEOUT", "1s");
    let mut stack = stack.env("LOK__DELIVERY__PARK_DELAYS", "200ms,2500ms,5s").start().await;
    let (hanging, healthy) = (Receiver::start().await, Receiver::start().await);
    hanging.answer(Reply::hang());
    stack.given_webhook("user_1", &hanging.url("/"), &[BookingCreated]).await;
    stack.given_webhook("user_2", &healthy.url("/"), &[BookingCreated]).await;

    stack.publish_all(&events("hangs", "user_1", EVENTS)).await;
    let first = hanging.until(32).await.len();
    assert!(first < EVENTS, "all {first} were sent at once");
    eventually_ok("the first requests timed out", DEADLINE, async || {
        let attempts = attempted(&stack, "user_1").await;
        if attempts >= 32 { Ok(()) } else { Err(attempts) }
    })
    .await;

    // Each probe takes a second; meanwhile nothing else is on the wire.
    let before = hanging.requests().len();
    while hanging.requests().len() < before + 4 {
        let on_the_wire = stack.dispatchers[0].metric("requests_in_flight").await;
        assert!(on_the_wire < 1.5, "{on_the_wire} requests are on the wire to a receiver that hangs");
    }
    stack.publish(&events("passes", "user_2", 1)[0]).await;
    healthy.until(1).await;
    let longest = stack.queues().names().first().park_queue(LONGEST);
    eventually_ok("jobs are parked for longer", DEADLINE, async || {
        let parked = stack.depth(&longest).await;
        if parked > 0 { Ok(()) } else { Err(parked) }
    })
    .await;

    hanging.answer(Reply::status(200));
    // What timed out is tried again after a minute, and what waited comes now.
    eventually_ok("every delivery was attempted", DEADLINE * 2, async || {
        let attempts = attempted(&stack, "user_1").await;
        if attempts == i64::try_from(EVENTS).expect("it is small") { Ok(()) } else { Err(attempts) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_that_together_would_fill_a_dispatcher_leave_places_to_another() {
    const WEBHOOKS: usize = 20;
    const PLACES: usize = 64;
    let stack = Stack::builder().env("LOK__DELIVERY__TIMEOUT", "60s").env("LOK__SHUTDOWN__GRACE", "90s");
    let stack = stack.env("LOK__DELIVERY__MAX_IN_FLIGHT", PLACES.to_string()).start().await;
    let (hanging, healthy) = (Receiver::start().await, Receiver::start().await);
    hanging.answer(Reply::hang());
    for n in 0..WEBHOOKS {
        stack.given_webhook("user_1", &hanging.url(&format!("/{n}")), &[BookingCreated]).await;
    }
    stack.given_webhook("user_2", &healthy.url("/"), &[BookingCreated]).await;
    stack.publish_all(&events("hangs", "user_1", 2 * PLACES / WEBHOOKS * 4)).await;
    // All that those who are many may have.
    hanging.until(PLACES / 2).await;

    for event in &events("passes", "user_2", 20) {
        stack.publish(event).await;
        healthy.expect_request().await;
    }
    assert!(hanging.requests().len() < PLACES, "every place was taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_users_burst_does_not_hold_up_anothers_events() {
    const BURST: usize = 2000;
    const SINGLES: usize = 5;
    // The single ones are less than a quarter of the fewest that are looked at.
    let stack = Stack::builder().env("LOK__INGEST__BURST_BATCH", "50");
    let mut stack = stack.start().await;
    let receiver = Receiver::start().await;
    for user in ["user_1", "user_2"] {
        stack.given_webhook(user, &receiver.url(&format!("/{user}")), &[BookingCreated]).await;
    }
    stack.database.store_bursts_slowly().await;
    assert!(stack.ingests[0].terminate(DEADLINE).await.success());
    stack.publish_all(&events("burst", "user_1", BURST)).await;
    stack.publish_all(&events("single", "user_2", SINGLES)).await;
    stack.ingests[0].restart().await;

    let requests = receiver.until(BURST + SINGLES).await;
    let last = requests.iter().rposition(|request| request.event_id().starts_with("single"));
    let before = last.expect("they come") + 1 - SINGLES;
    assert!(before < BURST / 2, "{before} of the burst came first");
    let requests = receiver.requests();
    let times = crate::support::by_event_id(&requests);
    assert_eq!(times.len(), BURST + SINGLES);
    assert!(times.values().all(|requests| requests.len() == 1), "each comes once");
}

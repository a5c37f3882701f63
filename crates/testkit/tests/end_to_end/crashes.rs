//! `kill -9` at any instant loses nothing; duplicates are only those that the crash explains.

use std::time::{Duration, Instant};

use domain::EventType::BookingCreated;
use testkit::{Event, Receiver, Reply, Stack, Webhook};

use crate::support::{by_event_id, settled};

/// Deliveries of one test.
const EVENTS: usize = 2_000;

/// The longest time from a request to the record of it, on a machine that does everything else at once.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);

/// Webhooks that share them.
const WEBHOOKS: usize = 10;

/// `WEBHOOKS` webhooks of one user each, and `EVENTS` events, each to one of them.
async fn load(stack: &Stack, receiver: &Receiver) -> (Vec<Webhook>, Vec<Event>) {
    let mut webhooks = Vec::new();
    for n in 0..WEBHOOKS {
        let url = receiver.url(&format!("/{n}"));
        webhooks.push(stack.given_webhook(&format!("user_{n}"), &url, &[BookingCreated]).await);
    }
    let event =
        |n| Event::example(BookingCreated).to(&format!("user_{}", n % WEBHOOKS)).id(format!("event-{n}"));
    (webhooks, (0..EVENTS).map(event).collect())
}

/// Waits until every event is delivered, by the history and by the receiver.
async fn all_delivered(stack: &Stack, receiver: &Receiver, webhooks: &[Webhook]) {
    for webhook in webhooks {
        let deliveries = settled(stack, webhook, (EVENTS / WEBHOOKS) as u64).await;
        assert!(deliveries.iter().all(|delivery| delivery["status"] == "success"));
        let statistics = stack.history(webhook, "").await["statistics"].clone();
        assert_eq!(statistics["success"], EVENTS / WEBHOOKS, "{statistics}");
    }
    assert_eq!(by_event_id(&receiver.requests()).len(), EVENTS, "an event was lost");
}

/// The longest that a loaded receiver takes to read what was sent to it.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// Whether the job of an event's one delivery was issued anew.
async fn was_issued_anew(stack: &Stack, id: &str) -> bool {
    let sql =
        "SELECT delivery.fence FROM deliveries delivery JOIN events event ON event.id = delivery.event_id
                WHERE event.public_id = $1";
    let row = stack.database.connect().await.query_one(sql, &[&id]).await;
    row.expect("the event has one delivery").get::<_, i32>(0) > 0
}

/// How many events are stored.
async fn stored(stack: &Stack) -> usize {
    let row = stack.database.connect().await.query_one("SELECT count(*) FROM events", &[]).await;
    let count: i64 = row.expect("events can be counted").get(0);
    usize::try_from(count).expect("a count is not negative")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_killed_under_load_loses_nothing_and_repeats_only_what_was_on_the_wire() {
    let mut stack = Stack::builder().dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let (webhooks, events) = load(&stack, &receiver).await;
    let mut dispatcher = stack.dispatchers.remove(0);

    let killed = async {
        receiver.until(EVENTS / 4).await;
        let before = Instant::now();
        dispatcher.kill9();
        (before, Instant::now())
    };
    let ((), (before, after)) = tokio::join!(stack.publish_all(&events), killed);
    assert!(receiver.requests().len() < EVENTS, "it was killed too late to be under load");
    dispatcher.restart().await;

    all_delivered(&stack, &receiver, &webhooks).await;
    for (id, requests) in by_event_id(&receiver.requests()) {
        assert!(
            requests.iter().all(|request| request.attempt() == 1),
            "{id}: a repetition is the same attempt"
        );
        if let [first, again @ ..] = &requests[..]
            && !again.is_empty()
        {
            assert!(again.len() == 1, "{id} came {} times", requests.len());
            // Either the killed process had sent it and not recorded it; or the killed process had handed the job over
            // and not said so, the job was issued anew, and the first was on the wire in that instant.
            let between = again[0].arrived.saturating_duration_since(first.arrived);
            assert!(again[0].arrived >= before, "{id}: a duplicate before the crash");
            // What it had written to its sockets arrives when the receiver comes to read it.
            if first.arrived > after + READ_WITHIN {
                assert!(
                    was_issued_anew(&stack, id).await && between < RECORDED_WITHIN,
                    "{id}: a duplicate that the crash does not explain: again {between:?} after the first"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_ingest_killed_under_load_loses_nothing_and_repeats_nothing() {
    // Small groups: all at once, the events would be stored before the first is delivered.
    let builder = Stack::builder().env("LOK__INGEST__PREFETCH", "20").env("LOK__INGEST__BATCH_EVENTS", "10");
    let mut stack = builder.start().await;
    let receiver = Receiver::start().await;
    let (webhooks, events) = load(&stack, &receiver).await;
    let mut ingest = stack.ingests.remove(0);

    let killed = async {
        receiver.until(1).await;
        ingest.kill9();
        stored(&stack).await
    };
    let ((), stored) = tokio::join!(stack.publish_all(&events), killed);
    assert!((1..EVENTS).contains(&stored), "{stored} events were stored: it was not killed under load");
    ingest.restart().await;

    all_delivered(&stack, &receiver, &webhooks).await;
    assert_eq!(receiver.requests().len(), EVENTS, "a repeated message was delivered twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_killed_at_once_under_load_loses_nothing() {
    let mut stack = Stack::builder().ingests(2).dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let (webhooks, events) = load(&stack, &receiver).await;
    let (mut ingests, mut dispatchers) =
        (std::mem::take(&mut stack.ingests), std::mem::take(&mut stack.dispatchers));

    let killed = async {
        receiver.until(EVENTS / 10).await;
        ingests.iter_mut().chain(&mut dispatchers).for_each(testkit::Service::kill9);
    };
    tokio::join!(stack.publish_all(&events), killed);
    assert!(receiver.requests().len() < EVENTS, "they were killed too late to be under load");
    for service in ingests.iter_mut().chain(&mut dispatchers) {
        service.restart().await;
    }

    all_delivered(&stack, &receiver, &webhooks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_back_for_a_receiver_that_hangs_does_not_hold_others_up() {
    const PREFETCH: usize = 40;
    let builder = Stack::builder()
        .env("LOK__DELIVERY__PREFETCH", PREFETCH.to_string())
        .env("LOK__DELIVERY__MAX_IN_FLIGHT_PER_WEBHOOK", "4");
    let mut stack = builder.start().await;
    let (hanging, healthy) = (Receiver::start().await, Receiver::start().await);
    hanging.answer(Reply::hang());
    stack.given_webhook("hanging", &hanging.url("/"), &[BookingCreated]).await;
    stack.given_webhook("healthy", &healthy.url("/"), &[BookingCreated]).await;
    let to_hanging = |n| Event::example(BookingCreated).to("hanging").id(format!("event-{n}"));
    stack.publish_all(&(0..PREFETCH).map(to_hanging).collect::<Vec<_>>()).await;
    hanging.until(4).await;
    // All that the process may hold comes back: what is on the wire, and what waits for its turn.
    stack.dispatchers[0].kill9();
    stack.dispatchers[0].restart().await;
    hanging.until(8).await;

    stack.publish(&Event::example(BookingCreated).to("healthy")).await;
    healthy.expect_request_within(Duration::from_secs(5)).await;
}

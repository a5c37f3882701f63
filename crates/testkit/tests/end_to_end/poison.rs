//! A message that makes its service fail is set aside after a bounded number of tries, with the reason, and no other is.

use broker::{Message, Received};
use domain::EventType::BookingCreated;
use testkit::{DEADLINE, Event, Receiver, Reply, Stack, Webhook, eventually, eventually_ok};
use wire::names::{ERROR_CODE_HEADER, ERROR_HEADER, SOURCE_QUEUE_HEADER};
use wire::{DeliveryJob, PROTOBUF};

use crate::support::{by_event_id, settled, take_and_drop};

/// Once with its event, five times on the queue, six in isolation.
const MOST_DEATHS: usize = 12;

/// Innocent events that are there from the beginning.
const INNOCENT: usize = 200;

fn event(id: impl Into<String>) -> Event {
    Event::example(BookingCreated).to("user_1").id(id)
}

/// What is in the rejected queue now.
async fn rejected(stack: &Stack) -> Vec<Received> {
    let queue = stack.queues().names().rejected_queue();
    let pulled = stack.broker().inspector().pull(&queue, 1000).await.expect("the queue can be looked at");
    let messages = pulled.messages().cloned().collect();
    pulled.close().await.expect("messages are given back");
    messages
}

/// Waits until every event is delivered, and nothing is set aside.
async fn all_delivered(stack: &Stack, receiver: &Receiver, webhook: &Webhook, count: usize) {
    let deliveries = settled(stack, webhook, count as u64).await;
    assert!(deliveries.iter().all(|delivery| delivery["status"] == "success"));
    assert_eq!(by_event_id(&receiver.requests()).len(), count);
    assert!(rejected(stack).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_kills_its_dispatcher_is_set_aside_and_all_others_are_delivered() {
    let mut stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let is_poison = |id: &str| id == "poison";
    receiver.answer_with(
        move |request| {
            if is_poison(request.event_id()) { Reply::hang() } else { Reply::status(200) }
        },
    );
    let mut dispatcher = stack.dispatchers.remove(0);

    let half =
        |range: std::ops::Range<usize>| range.map(|n| event(format!("innocent-{n}"))).collect::<Vec<_>>();
    stack.publish_all(&half(0..INNOCENT / 2)).await;
    stack.publish(&event("poison")).await;
    stack.publish_all(&half(INNOCENT / 2..INNOCENT)).await;

    // Its fan-out comes back no more: that would make a new job of it, whose returns are counted anew. Fan-outs are acknowledged
    // one after the other.
    let is_requested =
        async |id: &str| receiver.requests().iter().any(|request| request.event_id() == id).then_some(());
    eventually("it is at work", DEADLINE, async || is_requested("poison").await).await;
    stack.publish(&event("behind-it")).await;
    eventually("its fan-out is acknowledged", DEADLINE, async || is_requested("behind-it").await).await;

    let (mut deaths, mut published) = (0, INNOCENT + 1);
    let is_rejected = async || stack.depth(&stack.queues().names().rejected_queue()).await == 1;
    loop {
        let is_at_work = eventually("it is tried once more, or set aside", DEADLINE, async || {
            let tries = receiver.requests().iter().filter(|request| is_poison(request.event_id())).count();
            if tries > deaths { Some(true) } else { is_rejected().await.then_some(false) }
        })
        .await;
        if !is_at_work {
            break;
        }
        dispatcher.kill9();
        deaths += 1;
        assert!(deaths <= MOST_DEATHS, "it is tried for the {deaths}th time");
        dispatcher.restart().await;
        // The world goes on.
        stack.publish(&event(format!("innocent-{published}"))).await;
        published += 1;
    }

    let [set_aside] = &rejected(&stack).await[..] else { panic!("one message is set aside") };
    let job = DeliveryJob::decode(set_aside.body.clone()).expect("it is whole");
    assert_eq!(job.public_id.as_str(), "poison");
    let header = |name| set_aside.headers.text(name);
    assert_eq!(header(ERROR_CODE_HEADER).as_deref(), Some("poison"));
    assert_eq!(header(SOURCE_QUEUE_HEADER), Some(stack.queues().names().deliver_queue()));
    let reason = header(ERROR_HEADER).expect("there is a reason");
    assert!(reason.contains("6 times"), "{reason}");
    assert!(dispatcher.metric("messages_set_aside_total").await >= 1.0);

    settled(&stack, &webhook, published as u64 + 1).await;
    let failed = stack.history(&webhook, "status=failed").await;
    let [failed] = &failed["deliveries"].as_array().expect("a list")[..] else { panic!("{failed}") };
    assert_eq!(failed["id"], job.delivery.to_string(), "{failed}");
    let reason = failed["error"].as_str().expect("the developer sees why");
    assert!(reason.contains("fail again and again"), "{reason}");
    assert_eq!(by_event_id(&receiver.requests()).len(), published + 1, "all others are delivered");
    for queue in [stack.queues().names().deliver_queue(), stack.queues().names().fan_out_queue()] {
        assert_eq!(stack.depth(&stack.queues().names().isolated_queue(&queue)).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_events_in_bursts_that_came_back_many_times_are_worked_off_one_by_one() {
    const GROUPS: usize = 5;
    let mut stack = Stack::builder().no_api().dispatchers(0).start().await;
    assert!(stack.ingests[0].terminate(DEADLINE).await.success());
    let queue = stack.queues().names().bulk_queue();
    for group in 0..GROUPS {
        let events: Vec<_> = (0..10).map(|n| event(format!("event-{group}-{n}"))).collect();
        stack.publish_message(Message::to_queue(&queue, stack.moved(&events)).content_type(PROTOBUF)).await;
    }
    take_and_drop(&stack, &queue, GROUPS, 6).await;

    stack.ingests[0].restart().await;
    let client = stack.database.connect().await;
    eventually_ok("all are stored", DEADLINE, async || {
        let row = client.query_one("SELECT count(*) FROM events", &[]).await;
        let stored: i64 = row.expect("events can be counted").get(0);
        if stored == 50 { Ok(()) } else { Err(stored) }
    })
    .await;
    let isolated = stack.ingests[0].metric("messages_isolated_total").await;
    assert_eq!(isolated.to_string(), GROUPS.to_string(), "each was isolated");
    assert!(rejected(&stack).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_came_back_many_times_through_no_fault_of_theirs_are_delivered_after_all() {
    const EVENTS: usize = 100;
    let mut stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let names = stack.queues().names();

    // Events that nobody stored.
    assert!(stack.ingests[0].terminate(DEADLINE).await.success());
    stack.publish_all(&(0..EVENTS).map(|n| event(format!("event-{n}"))).collect::<Vec<_>>()).await;
    take_and_drop(&stack, &names.ingest_queue(), EVENTS, 6).await;

    // Stored events that nobody fanned out.
    assert!(stack.dispatchers[0].terminate(DEADLINE).await.success());
    stack.ingests[0].restart().await;
    let fan_outs = eventually_ok("all are stored and handed over", DEADLINE, async || {
        let row = stack.database.connect().await.query_one("SELECT count(*) FROM events", &[]).await;
        let stored: i64 = row.expect("events can be counted").get(0);
        let waiting = stack.depth(&names.isolated_queue(&names.ingest_queue())).await;
        if stored == 100 && waiting == 0 {
            Ok(stack.depth(&names.fan_out_queue()).await as usize)
        } else {
            Err(format!("{stored} stored"))
        }
    })
    .await;
    take_and_drop(&stack, &names.fan_out_queue(), fan_outs, 6).await;

    stack.dispatchers[0].restart().await;
    all_delivered(&stack, &receiver, &webhook, EVENTS).await;
    assert_eq!(receiver.requests().len(), EVENTS, "nothing was delivered twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_not_blamed_for_an_event_ingest_that_dies_because_its_database_hangs() {
    const EVENTS: usize = 20;
    let mut stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;

    let database = stack.database.connect().await;
    database.batch_execute("BEGIN; LOCK TABLE events").await.expect("the lock is free");
    stack.publish_all(&(0..EVENTS).map(|n| event(format!("event-{n}"))).collect::<Vec<_>>()).await;
    let observer = stack.database.connect().await;
    // Sessions of killed processes wait on: the server does not look for their clients.
    let mut before = 0;
    for _ in 0..2 * MOST_DEATHS {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%events%'";
        before = eventually("it waits for the database with events in its hands", DEADLINE, async || {
            let row = observer.query_one(waiting, &[]).await.expect("sessions can be counted");
            let now: i64 = row.get(0);
            (now > before).then_some(now)
        })
        .await;
        stack.ingests[0].kill9();
        stack.ingests[0].start_again();
    }
    database.batch_execute("COMMIT").await.expect("the lock is let go");

    stack.ingests[0].wait_ready(DEADLINE).await;
    all_delivered(&stack, &receiver, &webhook, EVENTS).await;
}

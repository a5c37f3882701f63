//! Events of a user who gets more than others wait in a queue of their own, and are stored after those of others.

use broker::Message;
use bytes::Bytes;
use domain::EventType::BookingCreated;
use testkit::{DEADLINE, Event, Stack, StackBuilder, eventually_ok};
use wire::FanOut;
use wire::names::{ERROR_CODE_HEADER, ROUTING_KEY_HEADER, SOURCE_QUEUE_HEADER};

use crate::seen::{
    Taker, event, events, expect_stored, expect_worked_off, ingest_alone, refuse_poison, stored,
};

const EVENTS: usize = 2_000;
const ROWS: i64 = 2_000;

/// A stack in which much of one user's is not needed for a burst.
fn bursts_of_everything() -> StackBuilder {
    ingest_alone().env("LOK__INGEST__BURST_BATCH", "10")
}

/// Has event-ingest find everything that `publish` publishes.
async fn all_at_once(stack: &mut Stack, publish: impl AsyncFnOnce(&Stack)) {
    assert!(stack.ingests[0].terminate(DEADLINE).await.success());
    publish(stack).await;
    stack.ingests[0].restart().await;
}

async fn moved(stack: &mut Stack) -> usize {
    let moved = stack.ingests[0].metric("ingest_moved_to_bulk_total").await;
    format!("{moved}").parse().expect("it is a whole number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anothers_event_behind_a_burst_is_handed_over_before_most_of_it_and_all_are_once() {
    let single = Event::example(BookingCreated).to("user_2").id("single");
    let mut stack = bursts_of_everything().start().await;
    stack.database.store_bursts_slowly().await;
    all_at_once(&mut stack, async |stack| {
        stack.publish_all(&events("burst", EVENTS)).await;
        stack.publish(&single).await;
    })
    .await;

    let (mut fan_outs, mut order) = (Taker::of_fan_outs(&stack), Vec::new());
    while order.len() < EVENTS + 1 {
        let message = fan_outs.next().await;
        let ids = FanOut::decode(message.body).unwrap().events.into_iter().map(|event| event.public_id);
        order.extend(ids.map(|id| id.as_str().to_owned()));
    }
    let place = order.iter().position(|id| id == "single").expect("it is handed over");
    assert!(place < EVENTS / 2, "{place} events of the burst went first");
    order.sort();
    order.dedup();
    assert_eq!(order.len(), EVENTS + 1, "each is handed over once");
    expect_stored(&stack, ROWS + 1).await;
    let moved = moved(&mut stack).await;
    assert!((EVENTS / 2..=EVENTS).contains(&moved), "{moved} were moved");
    assert_eq!(second_consumers(&stack), 1);
}

/// How often a second consumer of what was published began.
fn second_consumers(stack: &Stack) -> usize {
    stack.ingests[0].log().matches(r#""prefetch":1000,"#).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_small_events_of_everybody_more_are_taken_ahead_and_none_moves() {
    let mut stack = ingest_alone().start().await;
    let of = |n| Event::example(BookingCreated).to(&format!("user_{n}")).id(format!("everybody-{n}"));
    let all: Vec<_> = (0..EVENTS).map(of).collect();
    all_at_once(&mut stack, async |stack| stack.publish_all(&all).await).await;
    expect_stored(&stack, ROWS).await;
    assert_eq!(moved(&mut stack).await, 0);
    eventually_ok("a second consumer begins", DEADLINE, async || {
        let begun = second_consumers(&stack);
        if begun == 1 { Ok(()) } else { Err(begun) }
    })
    .await;
    assert_eq!(Taker::of_fan_outs(&stack).handed_over(EVENTS).await.len(), EVENTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_large_events_come_between_small_ones_nothing_is_taken_ahead_and_given_back_again_and_again() {
    let mut stack = bursts_of_everything().start().await;
    let example = BookingCreated.example_text().trim_end().strip_suffix('}').expect("it is an object");
    let large = format!("{example},\"notes\":\"{}\"}}", "x".repeat(20 * 1024));
    let mut all = events("burst", EVENTS);
    for event in all.iter_mut().skip(500).step_by(50) {
        *event = event.clone().data(large.clone());
    }
    all_at_once(&mut stack, async |stack| stack.publish_all(&all).await).await;
    expect_stored(&stack, ROWS).await;
    assert!(second_consumers(&stack) <= 1);
    assert!(moved(&mut stack).await > EVENTS / 2);
    let isolated = stack.ingests[0].metric("messages_isolated_total").await;
    assert!(isolated < 1.0, "{isolated} came back often");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_a_burst_every_event_is_stored_once_and_handed_over() {
    let stack =
        bursts_of_everything().env("LOK__INGEST__PREFETCH", "60").env("LOK__INGEST__BATCH_EVENTS", "20");
    let mut stack = stack.start().await;
    let mut ingest = stack.ingests.remove(0);
    stack.publish_all(&events("burst", EVENTS)).await;
    let client = stack.database.connect().await;
    for step in 1..=3 {
        eventually_ok("some more are stored", DEADLINE, async || {
            let row = client.query_one("SELECT count(*) FROM events", &[]).await.unwrap();
            let rows: i64 = row.get(0);
            if rows > step * 200 { Ok(()) } else { Err(rows) }
        })
        .await;
        ingest.kill9();
        let (rows, _) = stored(&stack).await;
        assert!(rows < ROWS, "the end came before the work was done");
        ingest.restart().await;
    }
    expect_stored(&stack, ROWS).await;
    assert_eq!(Taker::of_fan_outs(&stack).handed_over(EVENTS).await.len(), EVENTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_in_a_burst_is_set_aside_as_ever() {
    let mut stack = bursts_of_everything().start().await;
    refuse_poison(&stack).await;
    all_at_once(&mut stack, async |stack| {
        stack.publish_all(&events("burst", 200)).await;
        let poison = Message { message_id: Some("poison".into()), ..stack.message(&event("poison")) };
        stack.publish_message(poison.header("traceparent", "00-1")).await;
        let wrong = Message { body: Bytes::from_static(b"?"), ..stack.message(&event("wrong")) };
        stack.publish_message(wrong).await;
    })
    .await;

    let mut rejected = Taker::of_rejected(&stack);
    // It takes no detour, so it is there first.
    let malformed = rejected.next().await;
    let refused = rejected.next().await;
    for (message, code) in [(&malformed, "malformed_json"), (&refused, "not_storable")] {
        assert_eq!(message.headers.text(ERROR_CODE_HEADER).as_deref(), Some(code));
        assert_eq!(message.headers.text(ROUTING_KEY_HEADER).as_deref(), Some("booking.created"), "{code}");
    }
    assert_eq!(malformed.body, Bytes::from_static(b"?"), "kept whole");
    let poison = stack.message(&event("poison"));
    assert_eq!((refused.body, refused.content_type), (poison.body, poison.content_type), "kept whole");
    assert_eq!(refused.message_id.as_deref(), Some("poison"));
    assert_eq!(refused.headers.text("traceparent").as_deref(), Some("00-1"));
    expect_stored(&stack, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_have_everything_is_not_moved_and_what_was_is_worked_off() {
    let stack = ingest_alone().env("LOK__INGEST__BURST_SHARE", "100").env("LOK__INGEST__BURST_BATCH", "10");
    let mut stack = stack.start().await;
    let queue = stack.queues().names().bulk_queue();
    let message = Message::to_queue(queue, stack.moved(&[event("moved-before")]));
    stack.publish_message(message.content_type(wire::PROTOBUF)).await;
    stack.publish_all(&events("burst", 500)).await;
    expect_stored(&stack, 501).await;
    assert_eq!(moved(&mut stack).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_moved_twice_is_stored_once_whether_or_not_its_publisher_gave_an_id() {
    let mut stack = ingest_alone().start().await;
    let queue = stack.queues().names().bulk_queue();
    for event in [event("order-1"), Event::example(BookingCreated).to("user_1")] {
        let group = stack.moved(&[event]);
        for _copy in 0..2 {
            stack
                .publish_message(Message::to_queue(&queue, group.clone()).content_type(wire::PROTOBUF))
                .await;
        }
    }
    expect_worked_off(&mut stack, 4.0).await;
    expect_stored(&stack, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_among_what_moved_is_set_aside_and_the_rest_is_stored() {
    let stack = ingest_alone().start().await;
    let queue = stack.queues().names().bulk_queue();
    stack.publish_message(Message::to_queue(&queue, Bytes::from_static(b"?"))).await;
    stack.publish_message(Message::to_queue(&queue, stack.moved(&[event("order-1")]))).await;
    let set_aside = Taker::of_rejected(&stack).next().await;
    assert_eq!(set_aside.headers.text(ERROR_CODE_HEADER).as_deref(), Some("unusable_message"));
    assert_eq!(set_aside.headers.text(SOURCE_QUEUE_HEADER), Some(queue));
    expect_stored(&stack, 1).await;
}

//! Publishing an id again within 24 hours delivers nothing twice.

use domain::EventType::BookingCreated;
use testkit::{DEADLINE, Event, Receiver, Stack, eventually};

use crate::support::{by_event_id, settled};

fn event(id: impl Into<String>) -> Event {
    Event::example(BookingCreated).to("user_1").id(id)
}

/// Waits until every published message was taken from its queue and what it caused is durable; event-ingest is gone
/// then.
async fn ingested(stack: &mut Stack) {
    let names = stack.queues().names();
    let queues = [names.ingest_queue(), names.bulk_queue()];
    let waiting = async |stack: &Stack| stack.depth(&queues[0]).await + stack.depth(&queues[1]).await;
    loop {
        eventually("the ingest queues are empty", DEADLINE, async || {
            (waiting(stack).await == 0).then_some(())
        })
        .await;
        // A queue does not count what is being worked on. A service that goes down finishes that or gives it back.
        for ingest in &mut stack.ingests {
            assert!(ingest.terminate(DEADLINE).await.success());
        }
        if waiting(stack).await == 0 {
            return;
        }
        for ingest in &mut stack.ingests {
            ingest.restart().await;
        }
    }
}

#[tokio::test]
async fn an_id_published_again_is_delivered_once_whatever_the_way() {
    let mut stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;

    stack.publish(&event("again")).await;
    receiver.until(1).await;
    stack.publish(&event("again")).await;
    stack.publish_protobuf(&event("again")).await;
    let json = event("again").to_json();
    stack.ingest().post_text("/v1/events", json).await.expect(202);
    let without_id = Event::example(BookingCreated).to("user_1");
    stack.publish_message(stack.message(&without_id).message_id("again")).await;

    ingested(&mut stack).await;
    settled(&stack, &webhook, 1).await;
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn an_id_published_again_while_two_processes_race_is_delivered_once() {
    const IDS: usize = 60;
    let mut stack = Stack::builder().ingests(2).dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;

    // Copies next to each other, so that the two processes take the same ids at the same time.
    let events: Vec<_> = (0..IDS).flat_map(|n| (0..6).map(move |_| event(format!("id-{n}")))).collect();
    stack.publish_all(&events).await;

    ingested(&mut stack).await;
    settled(&stack, &webhook, IDS as u64).await;
    let requests = receiver.requests();
    assert_eq!(by_event_id(&requests).len(), IDS);
    assert_eq!(requests.len(), IDS, "an id was delivered twice");
}

#[tokio::test]
async fn events_without_id_are_all_different() {
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let event = Event::example(BookingCreated).to("user_1");
    stack.publish_all(&vec![event; 5]).await;
    settled(&stack, &webhook, 5).await;
    assert_eq!(by_event_id(&receiver.requests()).len(), 5);
}

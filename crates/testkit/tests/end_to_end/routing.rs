//! Who gets what: only active webhooks of an event's recipients that subscribe to its type.

use std::collections::BTreeMap;

use domain::EventType::{self, BookingCreated, MessageReceived, ReviewCreated};
use serde_json::{Value, json};
use testkit::{Event, Receiver, Stack};

use crate::support::settled;

#[tokio::test]
async fn every_event_type_of_the_guide_reaches_a_subscriber() {
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    stack.given_webhook("user_1", &receiver.url("/"), EventType::ALL).await;

    for event_type in EventType::ALL {
        stack.publish(&Event::example(*event_type).to("user_1")).await;
    }

    let mut data_of: BTreeMap<String, Value> = BTreeMap::new();
    for request in receiver.until(EventType::ALL.len()).await {
        let body = request.json();
        assert_eq!(body["event"], request.header("x-lok-event").unwrap());
        data_of.insert(body["event"].as_str().unwrap().to_owned(), body["data"].clone());
    }
    for event_type in EventType::ALL {
        let example: Value = serde_json::from_str(event_type.example_text()).unwrap();
        // `250.00` leaves as `250`: as numbers the same.
        assert!(same(&data_of[event_type.as_str()], &example), "{event_type}");
    }
}

/// Equality as JavaScript has it: `250.00` is `250`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.keys().eq(b.keys()) && a.iter().zip(b).all(|((_, a), (_, b))| same(a, b))
        }
        _ => a == b,
    }
}

#[tokio::test]
async fn guest_and_host_each_get_the_event_and_nobody_else_does() {
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook =
        async |user: &str, path: &str, event| stack.given_webhook(user, &receiver.url(path), &[event]).await;
    let guest = webhook("guest", "/guest", BookingCreated).await;
    let host = webhook("host", "/host", BookingCreated).await;
    let host_again = webhook("host", "/host-again", BookingCreated).await;
    let stranger = webhook("stranger", "/stranger", BookingCreated).await;
    let other_type = webhook("guest", "/other-type", ReviewCreated).await;

    stack.publish(&Event::example(BookingCreated).to("guest").to("host").to("nobody")).await;
    for webhook in [&guest, &host, &host_again] {
        let deliveries = settled(&stack, webhook, 1).await;
        assert_eq!(deliveries[0]["status"], "success");
    }

    // All deliveries of an event are made in one statement: who has none now gets none.
    settled(&stack, &stranger, 0).await;
    settled(&stack, &other_type, 0).await;
    let requests = receiver.requests();
    let mut paths: Vec<_> = requests.iter().map(|request| request.target.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/guest", "/host", "/host-again"]);
    assert!(requests.iter().all(|request| request.event_id() == requests[0].event_id()));
    assert_ne!(requests[0].delivery_id(), requests[1].delivery_id());
    assert_ne!(requests[0].header("x-lok-signature"), requests[1].header("x-lok-signature"));
}

#[tokio::test]
async fn a_user_named_twice_gets_an_event_once() {
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[ReviewCreated]).await;

    stack.publish(&Event::example(ReviewCreated).to("user_1").to("user_2").to("user_1")).await;

    settled(&stack, &webhook, 1).await;
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn an_inactive_webhook_gets_nothing() {
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let off = stack.given_webhook("user_1", &receiver.url("/off"), &[MessageReceived]).await;
    let on = stack.given_webhook("user_1", &receiver.url("/on"), &[MessageReceived]).await;
    stack.api("user_1").put(&off.path(), &json!({"active": false})).await.expect(200);

    stack.publish(&Event::example(MessageReceived).to("user_1")).await;

    settled(&stack, &on, 1).await;
    settled(&stack, &off, 0).await;
    assert_eq!(receiver.requests_to("/off").len(), 0);
}

#[tokio::test]
async fn an_event_that_nobody_subscribes_to_is_taken_and_goes_nowhere() {
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[MessageReceived]).await;
    stack.publish(&Event::example(BookingCreated).to("user_1")).await;
    stack.publish(&Event::example(MessageReceived).to("nobody")).await;
    stack.publish(&Event::example(MessageReceived).to("user_1")).await;
    settled(&stack, &webhook, 1).await;
    assert_eq!(receiver.requests().len(), 1);
    assert_eq!(stack.depth(&stack.queues().names().rejected_queue()).await, 0);
}

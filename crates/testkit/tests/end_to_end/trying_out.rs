//! `POST /api/webhooks/{id}/test`: guide, *Tester un webhook*.

use domain::EventType::{self, BookingCreated, PaymentSucceeded};
use serde_json::{Value, json};
use testkit::{Receiver, Stack, Webhook};

use crate::support::{lok_signature, settled};

async fn test(stack: &Stack, webhook: &Webhook, body: Value) -> testkit::Answer {
    stack.api(&webhook.user).post(&format!("{}/test", webhook.path()), &body).await
}

#[tokio::test]
async fn a_test_goes_to_this_webhook_alone_marked_and_signed() {
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/this"), EventType::ALL).await;
    let other = stack.given_webhook("user_1", &receiver.url("/other"), EventType::ALL).await;

    let answer = test(&stack, &webhook, json!({})).await.expect(202).json();
    assert_eq!(answer["success"], true);
    assert_eq!(answer["event"], "booking.created");
    assert_eq!(answer["testData"]["isTest"], true);

    let request = receiver.expect_request().await;
    assert_eq!(request.target, "/this");
    assert_eq!(request.delivery_id(), answer["deliveryId"]);
    assert_eq!(request.header("x-lok-event"), Some("booking.created"));
    let body = request.json();
    assert_eq!(body["data"], answer["testData"]);
    assert_eq!(body["timestamp"], request.header("x-lok-timestamp").unwrap());
    assert_eq!(
        request.header("x-lok-signature"),
        Some(lok_signature(&webhook.secret, &request.body).as_str())
    );

    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!(deliveries[0]["id"], answer["deliveryId"]);
    settled(&stack, &other, 0).await;
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn every_subscribed_type_can_be_tried_and_no_other() {
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let all = stack.given_webhook("user_1", &receiver.url("/"), EventType::ALL).await;
    for event_type in EventType::ALL {
        let answer = test(&stack, &all, json!({"event": event_type.as_str()})).await.expect(202).json();
        let request = receiver.expect_request().await;
        assert_eq!(request.header("x-lok-event"), Some(event_type.as_str()));
        assert_eq!(request.json()["data"], answer["testData"]);
        assert_eq!(request.json()["data"]["isTest"], true);
    }

    let one = stack.given_webhook("user_1", &receiver.url("/"), &[PaymentSucceeded]).await;
    test(&stack, &one, json!({})).await.expect(422);
    test(&stack, &one, json!({"event": BookingCreated.as_str()})).await.expect(422);
    test(&stack, &one, json!({"event": "booking.exploded"})).await.expect(422);
    let stranger = Webhook { user: "user_2".to_owned(), ..one.clone() };
    test(&stack, &stranger, json!({"event": "payment.succeeded"})).await.expect(404);
    settled(&stack, &one, 0).await;
}

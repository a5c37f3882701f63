//! What becomes of a first attempt whose webhook is changed before it is made.

use domain::EventType::BookingCreated;
use serde_json::json;
use testkit::{Receiver, Stack, Webhook};

use super::{FOR_LONG, event, events_are_done_with, fan_out_of, finish, metric_reaches, on_the_wire, rows};
use crate::support::settled;

/// A first attempt waits for the one place of its webhook, which is changed meanwhile. Returns the receiver when all is over.
async fn changed_while_it_waits(change: impl AsyncFnOnce(&Stack, &Webhook, &Receiver)) -> (Receiver, i64) {
    let builder = Stack::builder().env("LOK__DELIVERY__MAX_IN_FLIGHT_PER_WEBHOOK", "1");
    let builder = builder.env("LOK__DELIVERY__MAX_WAIT", FOR_LONG).env("LOK__DELIVERY__HOLD", FOR_LONG);
    let mut stack = builder.start().await;
    let (receiver, webhook, gate) = on_the_wire(&stack).await;
    stack.publish(&event("waits", "user_1")).await;
    // What was seen of the webhook was seen before this.
    metric_reaches(&mut stack, "fanout_deliveries_total", 2).await;
    change(&stack, &webhook, &receiver).await;

    gate.open();
    events_are_done_with(&stack, 2).await;
    finish(&mut stack).await;
    let rows = rows(&stack).await;
    (receiver, rows)
}

#[tokio::test]
async fn a_first_attempt_that_waits_for_a_webhook_that_is_deleted_is_not_made() {
    let (receiver, rows) = changed_while_it_waits(async |stack, webhook, _| {
        stack.api("user_1").delete(&webhook.path()).await.expect(204);
    })
    .await;
    assert_eq!(receiver.requests().len(), 1, "a deleted webhook was called");
    assert!(rows <= 1, "{rows} deliveries are left of a deleted webhook");
}

#[tokio::test]
async fn a_first_attempt_that_waits_for_a_webhook_that_is_disabled_is_not_made() {
    let (receiver, rows) = changed_while_it_waits(async |stack, webhook, _| {
        stack.api("user_1").put(&webhook.path(), &json!({"active": false})).await.expect(200);
    })
    .await;
    assert_eq!(receiver.requests().len(), 1, "a disabled webhook was called");
    assert_eq!(rows, 1, "what was not made is in the history");
}

#[tokio::test]
async fn a_first_attempt_that_waits_goes_to_the_url_that_its_webhook_has_by_then() {
    let (receiver, rows) = changed_while_it_waits(async |stack, webhook, receiver| {
        let change = json!({"url": receiver.url("/changed")});
        stack.api("user_1").put(&webhook.path(), &change).await.expect(200);
    })
    .await;
    let paths: Vec<_> = receiver.requests().iter().map(|request| request.target.clone()).collect();
    assert_eq!(paths, ["/", "/changed"]);
    assert_eq!(rows, 2);
}

#[tokio::test]
async fn an_event_for_a_webhook_that_is_known_to_be_active_and_is_not_any_more_leaves_no_delivery() {
    let mut stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    stack.publish(&event("before", "user_1")).await;
    settled(&stack, &webhook, 1).await;
    // The dispatcher is not told.
    let change = "ALTER TABLE webhooks DISABLE TRIGGER USER; UPDATE webhooks SET active = false";
    stack.database.connect().await.batch_execute(change).await.expect("the database is the test's own");

    stack.publish(&event("after", "user_1")).await;
    events_are_done_with(&stack, 2).await;
    finish(&mut stack).await;
    assert_eq!(receiver.requests().len(), 1);
    assert_eq!(rows(&stack).await, 1);
}

#[tokio::test]
async fn an_event_whose_only_webhook_is_deleted_before_it_is_fanned_out_is_done_with() {
    let mut stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    stack.dispatchers[0].kill9();
    stack.publish(&event("unwanted", "user_1")).await;
    fan_out_of(&stack, "unwanted").await;
    stack.api("user_1").delete(&webhook.path()).await.expect(204);
    stack.dispatchers[0].restart().await;
    events_are_done_with(&stack, 1).await;
    finish(&mut stack).await;
    assert!(receiver.requests().is_empty());
    assert_eq!(rows(&stack).await, 0);
}

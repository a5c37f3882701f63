//! Everything is idempotent: a message that stands twice on a queue causes what it causes once.

use std::time::Duration;

use broker::Message;
use bytes::Bytes;
use domain::EventType::BookingCreated;
use domain::protocol::{Fence, Ticket};
use domain::retry::AttemptNumber;
use domain::{DeliveryId, EventId, PublicEventId, WebhookId};
use serde_json::json;
use testkit::receiver::Gate;
use testkit::{DEADLINE, Event, Receiver, Reply, Stack, Webhook, eventually};
use wire::{DeliveryJob, FanOut, PROTOBUF};

use crate::support::{lose_all, settled};

/// How long a job stays parked by default.
const PARK_DELAY: Duration = Duration::from_secs(5);

/// Copies of one message.
const COPIES: usize = 20;

async fn publish_copies(stack: &Stack, queue: &str, body: Bytes, copies: usize) {
    for _ in 0..copies {
        let message = Message::to_queue(queue, body.clone()).content_type(PROTOBUF);
        stack.publish_message(message).await;
    }
}

/// The fan-out message of one event, taken while no dispatcher runs.
async fn taken_fan_out(stack: &Stack) -> Bytes {
    let queue = stack.queues().names().fan_out_queue();
    eventually("the event is on its way", DEADLINE, async || {
        let pulled = stack.broker().inspector().pull(&queue, 10).await.ok()?;
        let body = pulled.messages().find(|message| !message.body.is_empty()).map(|found| found.body.clone());
        pulled.close().await.ok()?;
        body
    })
    .await
}

async fn queue_is_empty(stack: &Stack, queue: &str) {
    eventually("the queue is worked off", DEADLINE, async || (stack.depth(queue).await == 0).then_some(()))
        .await;
}

/// The delivery of the event `copied`, as a job says it.
async fn job_of(stack: &Stack, webhook: &Webhook, attempt: u32, fence: u32) -> DeliveryJob {
    job_of_event(stack, webhook, "copied", attempt, fence).await
}

/// An event's one delivery, as a job says it.
async fn job_of_event(
    stack: &Stack,
    webhook: &Webhook,
    event: &str,
    attempt: u32,
    fence: u32,
) -> DeliveryJob {
    let sql = "SELECT delivery.id, delivery.webhook_id, delivery.event_id, event.public_id, event.timestamp,
                      event.body
                 FROM deliveries delivery JOIN events event ON event.id = delivery.event_id
                WHERE event.public_id = $1";
    let row = eventually("there is a delivery", DEADLINE, async || {
        stack.database.connect().await.query_opt(sql, &[&event]).await.expect("deliveries can be read")
    })
    .await;
    assert_eq!(WebhookId::from_uuid(row.get(1)).to_string(), webhook.id);
    let body: Vec<u8> = row.get(5);
    DeliveryJob {
        delivery: DeliveryId::from_uuid(row.get(0)),
        webhook: WebhookId::from_uuid(row.get(1)),
        event: EventId::from_uuid(row.get(2)),
        public_id: PublicEventId::parse(row.get(3)).expect("a stored id is valid"),
        event_type: BookingCreated,
        timestamp: row.get(4),
        ticket: Ticket {
            attempt: AttemptNumber::new(attempt).expect("attempts are counted from 1"),
            fence: Fence::new(fence),
        },
        body_bytes: u32::try_from(body.len()).expect("bodies are small"),
        body: Some(body.into()),
    }
}

/// The event `copied`, whose first request is answered when the gate opens, and its job.
async fn on_the_wire(stack: &Stack, receiver: &Receiver, webhook: &Webhook) -> (Gate, DeliveryJob) {
    let gate = Gate::default();
    receiver.answer(Reply::status(200).when_open(&gate));
    stack.publish(&Event::example(BookingCreated).to("user_1").id("copied")).await;
    receiver.until(1).await;
    (gate, job_of(stack, webhook, 1, 0).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan_out_that_stands_many_times_on_the_queue_of_two_dispatchers_is_one_delivery() {
    let mut stack = Stack::builder().dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    for dispatcher in &mut stack.dispatchers {
        dispatcher.kill9();
    }
    stack.publish(&Event::example(BookingCreated).to("user_1").id("copied")).await;
    let body = taken_fan_out(&stack).await;
    assert_eq!(FanOut::decode(body.clone()).map(|fan_out| fan_out.events.len()), Ok(1));
    let queue = stack.queues().names().fan_out_queue();
    for _ in 0..COPIES {
        let copy = Message::to_queue(&queue, body.clone()).content_type(PROTOBUF);
        stack.publish_message(copy.may_be_copy()).await;
    }
    for dispatcher in &mut stack.dispatchers {
        dispatcher.restart().await;
    }

    let deliveries = settled(&stack, &webhook, 1).await;
    queue_is_empty(&stack, &queue).await;
    queue_is_empty(&stack, &stack.queues().names().first().fan_out_park_queue(PARK_DELAY)).await;
    queue_is_empty(&stack, &queue).await;
    queue_is_empty(&stack, &stack.queues().names().deliver_queue()).await;
    assert_eq!(deliveries[0]["attempts"], 1);
    assert_eq!(receiver.requests().len(), 1, "it was delivered twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_copy_of_a_job_is_sent_once_a_success_is_recorded() {
    let stack = Stack::builder().dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    stack.publish(&Event::example(BookingCreated).to("user_1").id("copied")).await;
    settled(&stack, &webhook, 1).await;

    let queue = stack.queues().names().deliver_queue();
    for (attempt, fence) in [(1, 0), (2, 0), (1, 7)] {
        let job = job_of(&stack, &webhook, attempt, fence).await;
        publish_copies(&stack, &queue, job.encode(), COPIES).await;
    }
    // Whatever was taken before this one event is delivered was looked at.
    stack.publish(&Event::example(BookingCreated).to("user_1").id("after")).await;
    settled(&stack, &webhook, 2).await;
    queue_is_empty(&stack, &queue).await;
    assert_eq!(receiver.requests().len(), 2, "it was sent after its success");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_a_job_at_two_dispatchers_are_one_success_in_the_history() {
    let stack = Stack::builder().dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    // Both dispatchers hold copies while the first is on the wire.
    let (gate, job) = on_the_wire(&stack, &receiver, &webhook).await;
    publish_copies(&stack, &stack.queues().names().deliver_queue(), job.encode(), COPIES).await;
    queue_is_empty(&stack, &stack.queues().names().deliver_queue()).await;
    gate.open();

    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!(deliveries[0]["attempts"], 1, "an attempt was counted twice");
    // One on the wire of each process: the other cannot know of the first before it is recorded.
    assert!(receiver.requests().len() <= 2, "{} requests", receiver.requests().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_published_again_waits_for_the_first_to_be_over() {
    let stack = Stack::builder().dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let (gate, job) = on_the_wire(&stack, &receiver, &webhook).await;
    let deliver_queue = stack.queues().names().deliver_queue();
    for _ in 0..COPIES {
        let copy = Message::to_queue(&deliver_queue, job.encode()).content_type(PROTOBUF);
        stack.publish_message(copy.may_be_copy()).await;
    }
    queue_is_empty(&stack, &deliver_queue).await;
    let parked = stack.queues().names().first().park_queue(PARK_DELAY);
    // Some wait in their dispatcher for the first to end, all others are on their way back.
    eventually("a copy is parked", DEADLINE, async || (stack.depth(&parked).await > 0).then_some(())).await;
    gate.open();

    let deliveries = settled(&stack, &webhook, 1).await;
    queue_is_empty(&stack, &parked).await;
    queue_is_empty(&stack, &deliver_queue).await;
    assert_eq!(deliveries[0]["attempts"], 1);
    assert_eq!(receiver.requests().len(), 1, "a copy did not wait");
}

#[tokio::test]
async fn a_job_that_was_published_again_is_made_if_the_first_was_lost() {
    // What stands in for a request that its dispatcher does not live to see the end of comes soon.
    let stack = Stack::builder().env("LOK__DELIVERY__TIMEOUT", "3s");
    let mut stack = stack.env("LOK__DELIVERY__PARK_DELAYS", "1s,5s").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let (gate, job) = on_the_wire(&stack, &receiver, &webhook).await;
    stack.dispatchers[0].kill9();
    gate.open();
    let deliver_queue = stack.queues().names().deliver_queue();
    lose_all(&stack, &deliver_queue, 1).await;
    let copy = Message::to_queue(&deliver_queue, job.encode()).content_type(PROTOBUF);
    stack.publish_message(copy.may_be_copy()).await;
    stack.dispatchers[0].restart().await;

    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!(deliveries[0]["attempts"], 1);
    assert_eq!(receiver.requests().len(), 2);
}

#[tokio::test]
async fn a_job_that_was_issued_anew_is_not_sent() {
    let mut stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let gate = Gate::default();
    receiver.answer(Reply::status(200).when_open(&gate));
    // A test event has a job from the start.
    stack.api("user_1").post(&format!("{}/test", webhook.path()), &json!({})).await.expect(202);
    let fenced = receiver.until(1).await[0].event_id().to_owned();
    // The process dies with the request on the wire; meanwhile someone puts the delivery back.
    stack.dispatchers[0].kill9();
    let raise = "UPDATE deliveries SET fence = 3";
    stack.database.connect().await.execute(raise, &[]).await.expect("the fence can be raised");
    gate.open();
    stack.dispatchers[0].restart().await;
    // What is delivered after it shows that the void job had its time.
    stack.api("user_1").post(&format!("{}/test", webhook.path()), &json!({})).await.expect(202);
    let requests = receiver.until(2).await;
    assert_ne!(requests[1].event_id(), fenced, "the void job was sent");
    let queue = stack.queues().names().deliver_queue();
    queue_is_empty(&stack, &queue).await;

    let job = job_of_event(&stack, &webhook, &fenced, 1, 3).await;
    publish_copies(&stack, &queue, job.encode(), 1).await;
    settled(&stack, &webhook, 2).await;
    assert_eq!(receiver.requests().len(), 3, "the void job was sent too");
}

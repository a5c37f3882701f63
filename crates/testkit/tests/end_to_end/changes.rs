//! A change of a webhook takes effect within a second, on every dispatcher.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use domain::EventType::{self, BookingCreated, PaymentSucceeded};
use serde_json::json;
use testkit::{DEADLINE, Event, Receiver, Reply, Stack, Webhook, eventually};

use crate::support::{lok_signature, settled, standard_signature};

/// How long a change may take.
const EFFECT: Duration = Duration::from_secs(1);

/// For how long a test keeps publishing after a change: `EFFECT` and then enough to see it on every dispatcher.
const WATCHED: Duration = Duration::from_millis(1800);

/// Two dispatchers that both remember the webhook as it is, because both delivered to it.
async fn two_dispatchers_that_know(stack: &mut Stack, receiver: &Receiver, event_type: EventType) {
    let mut published = 0;
    loop {
        for _ in 0..10 {
            stack.publish(&Event::example(event_type).to("user_1")).await;
        }
        published += 10;
        receiver.until(published).await;
        let mut all_know = true;
        for dispatcher in &mut stack.dispatchers {
            all_know &= dispatcher.metric("delivery_attempts_total").await > 0.0;
        }
        if all_know {
            return;
        }
        assert!(published < 500, "one dispatcher gets nothing to do");
    }
}

/// Publishes events of these types for [`WATCHED`]; returns the ids of those published later than [`EFFECT`] after
/// `changed`, and the number of all.
async fn keep_publishing(stack: &Stack, changed: Instant, types: &[EventType]) -> (BTreeSet<String>, u64) {
    let mut interval = tokio::time::interval(Duration::from_millis(25));
    let (mut late, mut count) = (BTreeSet::new(), 0);
    while changed.elapsed() < WATCHED {
        interval.tick().await;
        for event_type in types {
            count += 1;
            let id = format!("{event_type}-{count}");
            if changed.elapsed() > EFFECT {
                late.insert(id.clone());
            }
            stack.publish(&Event::example(*event_type).to("user_1").id(id)).await;
        }
    }
    assert!(late.len() >= 2 * types.len(), "the machine is too slow for this test");
    (late, count)
}

fn ids(receiver: &Receiver, path: &str, event_type: EventType) -> BTreeSet<String> {
    let requests = receiver.requests_to(path);
    let of_type =
        requests.iter().filter(|request| request.header("x-lok-event") == Some(event_type.as_str()));
    of_type.map(|request| request.event_id().to_owned()).collect()
}

async fn put(stack: &Stack, webhook: &Webhook, change: serde_json::Value) -> Instant {
    stack.api(&webhook.user).put(&webhook.path(), &change).await.expect(200);
    Instant::now()
}

#[tokio::test]
async fn changed_subscriptions_hold_on_every_dispatcher_within_a_second() {
    let mut stack = Stack::builder().dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    two_dispatchers_that_know(&mut stack, &receiver, BookingCreated).await;
    let before = receiver.requests().len() as u64;
    let witness = stack.given_webhook("user_1", &receiver.url("/witness"), EventType::ALL).await;

    let changed = put(&stack, &webhook, json!({"events": ["payment.succeeded"]})).await;
    let (late, count) = keep_publishing(&stack, changed, &[BookingCreated, PaymentSucceeded]).await;

    // Once the witness has everything published after its own creation took effect, all is fanned out.
    eventually("the late events are all fanned out", DEADLINE, async || {
        let seen: BTreeSet<_> = [BookingCreated, PaymentSucceeded]
            .iter()
            .flat_map(|event_type| ids(&receiver, "/witness", *event_type))
            .collect();
        late.is_subset(&seen).then_some(())
    })
    .await;
    let statistics = eventually("nothing is pending", DEADLINE, async || {
        let statistics = stack.history(&webhook, "").await["statistics"].clone();
        (statistics["pending"] == 0).then_some(statistics)
    })
    .await;
    assert!(statistics["total"].as_u64().unwrap() <= before + count);
    let late_of = |event_type: EventType| {
        let of_type = late.iter().filter(move |id| id.starts_with(event_type.as_str()));
        of_type.cloned().collect::<BTreeSet<_>>()
    };
    let (booking, payment) = (ids(&receiver, "/", BookingCreated), ids(&receiver, "/", PaymentSucceeded));
    assert!(late_of(PaymentSucceeded).is_subset(&payment), "the new subscription did not hold everywhere");
    assert!(late_of(BookingCreated).is_disjoint(&booking), "the old subscription still held somewhere");
    drop(witness);
}

#[tokio::test]
async fn a_changed_url_holds_on_every_dispatcher_within_a_second() {
    let mut stack = Stack::builder().dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/old"), &[BookingCreated]).await;
    two_dispatchers_that_know(&mut stack, &receiver, BookingCreated).await;
    let before = receiver.requests().len() as u64;

    let changed = put(&stack, &webhook, json!({"url": receiver.url("/new")})).await;
    let (late, count) = keep_publishing(&stack, changed, &[BookingCreated]).await;

    eventually("all are delivered", DEADLINE, async || {
        (receiver.requests().len() as u64 == before + count).then_some(())
    })
    .await;
    assert!(late.is_subset(&ids(&receiver, "/new", BookingCreated)), "the old URL was still used");
}

#[tokio::test]
async fn a_disabled_webhook_gets_nothing_more_after_a_second_and_events_again_when_enabled() {
    let mut stack = Stack::builder().dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    two_dispatchers_that_know(&mut stack, &receiver, BookingCreated).await;
    stack.given_webhook("user_1", &receiver.url("/witness"), &[BookingCreated]).await;

    let off = put(&stack, &webhook, json!({"active": false})).await;
    let (late, _) = keep_publishing(&stack, off, &[BookingCreated]).await;
    eventually("the late events are all fanned out", DEADLINE, async || {
        late.is_subset(&ids(&receiver, "/witness", BookingCreated)).then_some(())
    })
    .await;
    assert!(late.is_disjoint(&ids(&receiver, "/", BookingCreated)), "a disabled webhook got events");

    let on = put(&stack, &webhook, json!({"active": true})).await;
    let mut published = BTreeSet::new();
    let delivered = eventually("an enabled webhook gets events again", DEADLINE, async || {
        let id = format!("again-{}", published.len());
        stack.publish(&Event::example(BookingCreated).to("user_1").id(&id)).await;
        published.insert(id);
        let requests = receiver.requests_to("/");
        requests.into_iter().find(|request| published.contains(request.event_id()))
    })
    .await;
    let took = delivered.arrived - on;
    assert!(took < EFFECT + Duration::from_millis(500), "it took {took:?}");
}

/// One webhook waits for its second attempt, is changed, and is not called again. That its turn has come and gone is
/// shown by another that failed later: retries of one delay leave their queue in order.
async fn not_called_again(change: impl AsyncFnOnce(&Stack, &Webhook)) -> (Stack, Webhook) {
    let stack = Stack::builder().env("LOK__DELIVERY__RETRY_DELAYS", "800ms").start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::status(500));
    let webhook = stack.given_webhook("user_1", &receiver.url("/changed"), &[BookingCreated]).await;
    let witness = stack.given_webhook("user_2", &receiver.url("/witness"), &[BookingCreated]).await;
    stack.publish(&Event::example(BookingCreated).to("user_1")).await;
    eventually("attempt 1 is recorded", DEADLINE, async || {
        (stack.history(&webhook, "").await["deliveries"][0]["attempts"] == 1).then_some(())
    })
    .await;

    change(&stack, &webhook).await;

    stack.publish(&Event::example(BookingCreated).to("user_2")).await;
    let deliveries = settled(&stack, &witness, 1).await;
    assert_eq!(deliveries[0]["attempts"], 2);
    assert_eq!(receiver.requests_to("/changed").len(), 1, "it was called again");
    (stack, webhook)
}

#[tokio::test]
async fn a_webhook_deleted_mid_retry_is_not_called_again() {
    let (stack, webhook) = not_called_again(async |stack, webhook| {
        stack.api("user_1").delete(&webhook.path()).await.expect(204);
    })
    .await;
    stack.api("user_1").get(&webhook.path()).await.expect(404);
}

#[tokio::test]
async fn a_webhook_disabled_mid_retry_is_not_called_again_and_its_history_says_why() {
    let (stack, webhook) = not_called_again(async |stack, webhook| {
        put(stack, webhook, json!({"active": false})).await;
    })
    .await;
    let delivery = settled(&stack, &webhook, 1).await.remove(0);
    assert_eq!(delivery["status"], "failed");
    assert!(delivery["error"].as_str().unwrap().contains("disabled"), "{delivery}");
}

#[tokio::test]
async fn a_deleted_webhook_gets_no_event_published_after_the_answer() {
    let mut stack = Stack::builder().dispatchers(2).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    two_dispatchers_that_know(&mut stack, &receiver, BookingCreated).await;
    let witness = stack.given_webhook("user_2", &receiver.url("/witness"), &[BookingCreated]).await;
    let before = receiver.requests_to("/").len();

    stack.api("user_1").delete(&webhook.path()).await.expect(204);
    let events: Vec<_> = (0..40)
        .map(|n| Event::example(BookingCreated).to("user_1").to("user_2").id(format!("e{n}")))
        .collect();
    stack.publish_all(&events).await;

    settled(&stack, &witness, 40).await;
    assert_eq!(receiver.requests_to("/").len(), before);
}

#[tokio::test]
async fn a_regenerated_secret_signs_from_the_next_attempt_on_and_the_old_one_beside_it() {
    let stack = Stack::builder().env("LOK__DELIVERY__RETRY_DELAYS", "500ms").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    receiver.answer_next(Reply::status(500));
    stack.publish(&Event::example(BookingCreated).to("user_1")).await;
    let first = receiver.expect_request().await;
    assert_eq!(first.header("x-lok-signature"), Some(lok_signature(&webhook.secret, &first.body).as_str()));

    let path = format!("{}/regenerate-secret", webhook.path());
    let answer = stack.api("user_1").post(&path, &json!({})).await.expect(200).json();
    let secret = answer["secret"].as_str().expect("the new secret is in the answer");
    assert_ne!(secret, webhook.secret);

    let second = receiver.expect_request().await;
    assert_eq!(second.attempt(), 2);
    assert_eq!(second.body, first.body);
    assert_eq!(second.header("x-lok-signature"), Some(lok_signature(secret, &second.body).as_str()));
    let both =
        format!("{} {}", standard_signature(secret, &second), standard_signature(&webhook.secret, &second));
    assert_eq!(second.header("webhook-signature"), Some(both.as_str()));
}

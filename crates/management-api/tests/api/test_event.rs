//! Trying a webhook out.

use bytes::Bytes;
use domain::EventType;
use http::Method;
use serde_json::{Value, json};
use testkit::{Receiver, Reply, Stack};
use wire::DeliveryJob;

use crate::{api_alone, given, invalid_fields, problem};

#[tokio::test]
async fn a_test_event_becomes_a_pending_delivery_and_a_job_for_the_dispatchers() {
    let stack = api_alone().await;
    let api = stack.api("user_1");
    let (path, webhook) = given(&api).await;
    let answer = api.post(&format!("{path}/test"), &json!({ "event": "payment.succeeded" })).await;
    let test = answer.expect(202).json();
    assert_eq!((&test["success"], &test["event"]), (&json!(true), &json!("payment.succeeded")));
    assert_eq!(test["testData"]["isTest"], true);
    let delivery = test["deliveryId"].as_str().unwrap();
    assert!(delivery.starts_with("delivery_"), "{test}");

    let history = api.get(&format!("{path}/deliveries")).await.expect(200).json();
    assert_eq!(history["deliveries"][0]["id"], delivery);
    assert_eq!(history["deliveries"][0]["status"], "pending");

    let queue = stack.queues().names().deliver_queue();
    let pulled = stack.broker().inspector().pull(&queue, 10).await.unwrap();
    let jobs: Vec<_> =
        pulled.messages().map(|message| DeliveryJob::decode(message.body.clone()).unwrap()).collect();
    assert_eq!(jobs.len(), 1);
    let job = &jobs[0];
    assert_eq!(job.delivery.to_string(), delivery);
    assert_eq!(job.webhook.to_string(), webhook["id"].as_str().unwrap());
    assert_eq!((job.event_type, job.ticket.attempt.get()), (EventType::PaymentSucceeded, 1));
    let body: Value = serde_json::from_slice(job.body.as_ref().unwrap()).unwrap();
    assert_eq!(body["data"], test["testData"]);
    assert_eq!(body["timestamp"], job.timestamp);
    pulled.close().await.unwrap();
}

#[tokio::test]
async fn the_event_may_be_left_out_and_so_may_the_body() {
    let stack = api_alone().await;
    let api = stack.api("user_1");
    let (path, _) = given(&api).await;
    let path = format!("{path}/test");
    for (content_type, body) in [(None, ""), (Some("application/json"), ""), (Some("application/json"), "{}")]
    {
        let answer = api.raw(Method::POST, &path, content_type, Bytes::from_static(body.as_bytes())).await;
        assert_eq!(answer.expect(202).json()["event"], "booking.created", "{content_type:?} {body:?}");
    }
}

#[tokio::test]
async fn only_an_event_that_the_webhook_would_get_can_be_tried() {
    let stack = api_alone().await;
    let api = stack.api("user_1");
    let (path, _) = given(&api).await;
    let test = format!("{path}/test");
    let answer = api.post(&test, &json!({ "event": "review.created" })).await;
    assert_eq!(problem(answer, 422), "event_not_subscribed");
    let fields = invalid_fields(api.post(&test, &json!({ "event": "nope" })).await);
    assert_eq!(fields, [("event".to_owned(), "unknown_event_type".to_owned())]);
    api.put(&path, &json!({ "active": false })).await.expect(200);
    assert_eq!(problem(api.post(&test, &json!({})).await, 422), "webhook_inactive");
    let history = api.get(&format!("{path}/deliveries")).await.expect(200).json();
    assert_eq!(history["total"], 0);
}

#[tokio::test]
async fn a_test_event_arrives_like_any_other() {
    let stack = Stack::builder().ingests(0).dispatchers(1).start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::json(&json!({ "status": "ok" })));
    let webhook = stack.given_webhook("user_1", &receiver.url("/hook"), &[EventType::BookingCreated]).await;
    let api = stack.api("user_1");
    let test = api.post(&format!("{}/test", webhook.path()), &json!({})).await.expect(202).json();
    let request = receiver.expect_request().await;
    assert_eq!(request.header("x-lok-event"), Some("booking.created"));
    assert_eq!(request.header("x-lok-delivery-id"), test["deliveryId"].as_str());
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["data"], test["testData"]);
    testkit::eventually_ok("the delivery succeeds", testkit::DEADLINE, async || {
        let history = stack.history(&webhook, "").await;
        let delivery = &history["deliveries"][0];
        let done = delivery["status"] == "success" && delivery["response"] == json!({ "status": "ok" });
        if done { Ok(()) } else { Err(history.to_string()) }
    })
    .await;
}

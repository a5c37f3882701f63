//! The delivered request: contract, section 1.

use std::collections::BTreeSet;

use domain::EventType::{BookingCreated, ListingDeleted};
use testkit::{Event, Receiver, Reply, Request, Stack};

use crate::support::{lok_signature, settled, standard_signature};

/// As a publisher writes it: decimals with zeros, escapes, keys that JavaScript sorts, white space.
const DATA: &str = r#"{
  "id": "booking_abc123", "listingId": "listing_def456", "guestId": "user_ghi789",
  "startDate": "2024-02-01T14:00:00Z", "endDate": "2024-02-03T11:00:00Z",
  "totalPrice": 250.00, "currency": "EUR", "status": "PENDING", "pricingMode": "DAILY",
  "createdAt": "2024-01-15T10:30:00Z", "note": "é \u20ac 😀", "10": 1, "9": 2
}"#;

/// As receivers get it: what `JSON.stringify(JSON.parse(body))` gives, and the guide's key order.
const BODY: &str = concat!(
    r#"{"event":"booking.created","timestamp":"2024-01-15T10:30:00Z","data":{"9":2,"10":1,"#,
    r#""id":"booking_abc123","listingId":"listing_def456","guestId":"user_ghi789","#,
    r#""startDate":"2024-02-01T14:00:00Z","endDate":"2024-02-03T11:00:00Z","#,
    r#""totalPrice":250,"currency":"EUR","status":"PENDING","pricingMode":"DAILY","#,
    r#""createdAt":"2024-01-15T10:30:00Z","note":"é € 😀"}}"#,
);

fn assert_signed(request: &Request, secret: &str) {
    assert_eq!(request.header("X-Lok-Signature"), Some(lok_signature(secret, &request.body).as_str()));
    assert_eq!(request.header("webhook-signature"), Some(standard_signature(secret, request).as_str()));
}

/// `webhook-timestamp` is the Unix time of this attempt.
fn assert_of_this_attempt(request: &Request) {
    let timestamp: i64 = request.header("webhook-timestamp").expect("once").parse().expect("a number");
    let arrived = request.arrived_at.timestamp();
    assert!((arrived - 5..=arrived).contains(&timestamp), "{timestamp} is not just before {arrived}");
}

#[tokio::test]
async fn a_request_is_exactly_what_the_contract_says() {
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/hook?a=b"), &[BookingCreated]).await;

    let event = Event::example(BookingCreated).to("user_1").id("order-7/created");
    stack.publish(&event.timestamp("2024-01-15T10:30:00Z").data(DATA)).await;
    let request = receiver.expect_request().await;

    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/hook?a=b"));
    assert_eq!(request.text(), BODY);
    for (name, value) in [
        ("Content-Type", "application/json"),
        ("X-Lok-Event", "booking.created"),
        ("X-Lok-Timestamp", "2024-01-15T10:30:00Z"),
        ("X-Lok-Attempt", "1"),
        ("User-Agent", "Lokroom-Webhooks/1.0"),
        ("X-Lok-Event-Id", "order-7/created"),
        ("webhook-id", "order-7/created"),
    ] {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    let deliveries = settled(&stack, &webhook, 1).await;
    assert_eq!(deliveries[0]["id"], request.delivery_id());
    assert!(request.delivery_id().starts_with("delivery_"));
    assert_signed(&request, &webhook.secret);
    assert_of_this_attempt(&request);

    let names: BTreeSet<_> = request.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
    let promised = [
        "content-type",
        "user-agent",
        "x-lok-signature",
        "x-lok-event",
        "x-lok-timestamp",
        "x-lok-attempt",
        "x-lok-event-id",
        "x-lok-delivery-id",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    ];
    let of_http = ["host", "content-length"];
    let expected: BTreeSet<_> = promised.into_iter().chain(of_http).map(str::to_owned).collect();
    assert_eq!(names, expected, "no header is missing and none gives anything else away");
    assert_eq!(request.headers.len(), expected.len(), "each once");
}

#[tokio::test]
async fn every_attempt_carries_the_same_body_and_its_own_number_time_and_signature() {
    let delays = ("LOK__DELIVERY__RETRY_DELAYS", "1100ms,200ms");
    let stack = Stack::builder().env(delays.0, delays.1).start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    receiver.answer(Reply::status(500));

    stack.publish(&Event::example(BookingCreated).to("user_1").data(DATA)).await;
    let requests = receiver.until(3).await;

    for (request, attempt) in requests.iter().zip(1..) {
        assert_eq!(request.attempt(), attempt);
        assert_eq!(request.body, requests[0].body);
        assert_eq!(request.delivery_id(), requests[0].delivery_id());
        assert_eq!(request.event_id(), requests[0].event_id());
        assert_eq!(request.header("x-lok-timestamp"), requests[0].header("x-lok-timestamp"));
        assert_signed(request, &webhook.secret);
        assert_of_this_attempt(request);
    }
    assert_ne!(requests[0].header("webhook-timestamp"), requests[1].header("webhook-timestamp"));
}

#[tokio::test]
async fn protobuf_and_json_make_the_same_body_and_http_too() {
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let event = Event::example(BookingCreated).to("user_1").timestamp("2024-01-15T10:30:00Z").data(DATA);

    stack.publish(&event).await;
    stack.publish_protobuf(&event).await;
    let json = event.to_json();
    stack.ingest().post_text("/v1/events", json).await.expect(202);

    for request in receiver.until(3).await {
        assert_eq!(request.text(), BODY);
    }
}

#[tokio::test]
async fn an_event_without_id_gets_one_and_a_timestamp_leaves_in_utc() {
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    stack.given_webhook("user_1", &receiver.url("/"), &[ListingDeleted]).await;

    let event = Event::example(ListingDeleted).to("user_1");
    stack.publish(&event.clone().timestamp("2024-01-15T11:30:00.250+01:00")).await;
    let converted = receiver.expect_request().await;
    assert_eq!(converted.header("x-lok-timestamp"), Some("2024-01-15T10:30:00.250Z"));
    assert!(converted.event_id().starts_with("event_"), "{}", converted.event_id());

    stack.publish(&event).await;
    let now = receiver.expect_request().await;
    let timestamp = now.header("x-lok-timestamp").unwrap();
    assert_eq!(now.json()["timestamp"], timestamp);
    let age = now.arrived_at - timestamp.parse::<domain::Timestamp>().unwrap();
    assert!((0..20).contains(&age.num_seconds()), "{timestamp}");
}

//! What is not acceptable is set aside whole, with the reason, and the service goes on.

use std::collections::BTreeMap;

use broker::{Message, Received};
use bytes::Bytes;
use testkit::Stack;
use wire::names::{ERROR_CODE_HEADER, ERROR_HEADER, ROUTING_KEY_HEADER};

use crate::seen::{Taker, body_of, event, expect_stored, ingest_alone, refuse_poison, stored};

/// A message that is wrong, the code it is set aside with, and what the reason has to name.
struct Wrong {
    name: &'static str,
    message: Message,
    code: &'static str,
    reason: &'static str,
}

/// The valid event in JSON, with a text in it replaced.
fn json_with(replace: &str, with: &str) -> Bytes {
    let json = event("wrong").to_json();
    assert!(json.contains(replace), "{replace} in {json}");
    json.replace(replace, with).into()
}

/// The valid event with this text as its first field's value in `data`.
fn data_value(value: &str) -> Bytes {
    json_with(r#""data":{"#, &format!(r#""data":{{"extra":{value},"#))
}

fn recipients(count: usize) -> Bytes {
    let users: Vec<_> = (0..count).map(|n| format!("\"user_{n}\"")).collect();
    json_with(r#"["user_1"]"#, &format!("[{}]", users.join(",")))
}

fn wrong_messages(stack: &Stack) -> Vec<Wrong> {
    let valid = || stack.message(&event("wrong"));
    let body = |body: Bytes| Message { body, ..valid() };
    let protobuf = |bytes: Vec<u8>| Message { body: bytes.into(), ..valid() }.content_type(wire::PROTOBUF);
    let json = |name, bytes: Bytes, code, reason| Wrong { name, message: body(bytes), code, reason };

    let mut gzip = valid();
    gzip.content_encoding = Some("gzip".into());
    let mut untyped = valid();
    untyped.content_type = None;
    let mut misrouted = valid();
    misrouted.routing_key = "listing.created".into();
    let too_large = format!("\"{}\"", "x".repeat(257 * 1024));

    vec![
        json("malformed JSON", Bytes::from_static(b"{\"id\":"), "malformed_json", "byte 6"),
        json("not UTF-8", Bytes::from_static(b"{\"id\":\"\xff\"}"), "malformed_json", "UTF-8"),
        json("empty", Bytes::new(), "malformed_json", "expected a value"),
        json("not an object", Bytes::from_static(b"[]"), "wrong_type", "must be an object"),
        json("NaN", data_value("NaN"), "malformed_json", "/data/extra"),
        json(
            "unknown event",
            json_with("booking.created", "booking.lost"),
            "unknown_event",
            "known are booking.created",
        ),
        json("no recipients", json_with("recipients", "recipient"), "missing_field", "/recipients"),
        json("schema", json_with(r#""guestId":"#, r#""guest":"#), "schema_violation", "guestId"),
        json("wrong type", json_with(r#"["user_1"]"#, "5"), "wrong_type", "must be an array"),
        json("2^53", data_value("9007199254740992"), "number_out_of_range", "2^53"),
        json("1e400", data_value("1e400"), "number_out_of_range", "too large"),
        json("lone surrogate", data_value(r#""\ud800""#), "lone_surrogate", "/data/extra"),
        json("10,000 deep", data_value(&"[".repeat(10_000)), "too_deep", "128"),
        json("257 KiB", data_value(&too_large), "too_large", "256 KiB"),
        json("empty recipients", recipients(0), "invalid_recipients", "names 0"),
        json("1,001 recipients", recipients(1001), "invalid_recipients", "names 1001"),
        json(
            "wrong timestamp",
            json_with("2024-01-15T10:30:00Z", "yesterday"),
            "invalid_timestamp",
            "RFC 3339",
        ),
        json("wrong id", json_with(r#""id":"wrong""#, r#""id":"é""#), "invalid_id", "/id"),
        Wrong {
            name: "malformed protobuf",
            message: protobuf(vec![0xff; 9]),
            code: "malformed_protobuf",
            reason: "PlatformEvent",
        },
        Wrong {
            name: "protobuf with malformed data",
            message: protobuf(event("wrong").data("{").to_protobuf()),
            code: "malformed_json",
            reason: "/data",
        },
        Wrong {
            name: "unknown content type",
            message: valid().content_type("text/plain"),
            code: "unsupported_content_type",
            reason: "text/plain",
        },
        Wrong {
            name: "no content type",
            message: untyped,
            code: "unsupported_content_type",
            reason: "application/x-protobuf",
        },
        Wrong { name: "gzip", message: gzip, code: "unsupported_content_encoding", reason: "gzip" },
        Wrong {
            name: "other routing key",
            message: misrouted,
            code: "routing_key_mismatch",
            reason: "listing.created",
        },
    ]
}

#[tokio::test]
async fn every_wrong_message_is_set_aside_whole_with_its_reason_and_the_service_goes_on() {
    let mut stack = ingest_alone().start().await;
    let mut rejected = Taker::of_rejected(&stack);
    let wrong = wrong_messages(&stack);
    for Wrong { name, message, .. } in &wrong {
        stack.publish_message(message.clone().message_id(*name).header("trace", name)).await;
    }

    let mut seen: BTreeMap<String, Received> = BTreeMap::new();
    while seen.len() < wrong.len() {
        let message = rejected.next().await;
        seen.insert(message.message_id.clone().unwrap(), message);
    }
    for Wrong { name, message, code, reason } in &wrong {
        let set_aside = &seen[*name];
        let header = |header| set_aside.headers.text(header).unwrap_or_default();
        assert_eq!(header(ERROR_CODE_HEADER), *code, "{name}: {}", header(ERROR_HEADER));
        assert!(header(ERROR_HEADER).contains(reason), "{name}: {}", header(ERROR_HEADER));
        assert!(header(ERROR_HEADER).len() <= 2048, "{name}");
        assert_eq!(header(ROUTING_KEY_HEADER), message.routing_key, "{name}");
        assert_eq!(header("trace"), *name);
        assert_eq!(set_aside.body, message.body, "{name}: the body is whole");
        assert_eq!(set_aside.content_type, message.content_type, "{name}");
        assert_eq!(set_aside.content_encoding, message.content_encoding, "{name}");
    }

    stack.publish(&event("right")).await;
    expect_stored(&stack, 1).await;
    assert!(body_of(&stack, "right").await.starts_with(r#"{"event":"booking.created","timestamp":"2024-"#));
    let ingest = &mut stack.ingests[0];
    let counted = ingest.metric("ingest_rejected_total").await;
    assert!((counted - f64::from(u32::try_from(wrong.len()).unwrap())).abs() < 0.5, "{counted}");
    assert!(!ingest.log().contains("panic"), "{}", ingest.log());
}

#[tokio::test]
async fn good_messages_among_wrong_ones_are_stored() {
    let stack = ingest_alone().start().await;
    let mut rejected = Taker::of_rejected(&stack);
    let mut good = Vec::new();
    for n in 0..100 {
        good.push(event(&format!("good-{n}")));
        let wrong = Message { body: Bytes::from_static(b"?"), ..stack.message(&event("wrong")) };
        stack.publish_message(wrong).await;
        stack.publish(&good[n]).await;
    }
    expect_stored(&stack, 100).await;
    for _ in 0..100 {
        assert_eq!(rejected.next().await.body, Bytes::from_static(b"?"));
    }
}

#[tokio::test]
async fn an_event_that_the_database_refuses_is_set_aside_and_takes_no_other_with_it() {
    let stack = ingest_alone().start().await;
    refuse_poison(&stack).await;

    let mut events = crate::seen::events("good", 200);
    events.insert(50, event("poison-1"));
    events.insert(150, event("poison-2"));
    let mut rejected = Taker::of_rejected(&stack);
    stack.publish_all(&events).await;

    let mut bodies = [rejected.next().await, rejected.next().await].map(|message| {
        assert_eq!(message.headers.text(ERROR_CODE_HEADER).as_deref(), Some("not_storable"));
        let reason = message.headers.text(ERROR_HEADER).unwrap();
        assert!(reason.contains("not this one"), "{reason}");
        String::from_utf8(message.body.to_vec()).unwrap()
    });
    bodies.sort();
    assert_eq!(bodies, [event("poison-1").to_json(), event("poison-2").to_json()]);
    expect_stored(&stack, 200).await;
    assert_eq!(Taker::of_fan_outs(&stack).handed_over(200).await.len(), 200);

    let answer = stack
        .ingest()
        .raw(::http::Method::POST, "/v1/events", Some("application/json"), event("poison-3").to_json().into())
        .await
        .expect(422);
    assert_eq!(answer.json()["errors"][0]["code"], "not_storable");
    assert_eq!(stored(&stack).await.0, 200);
}

#[tokio::test]
async fn json_and_protobuf_of_an_event_store_the_same_body() {
    let stack = ingest_alone().start().await;
    let data = r#"{"2":"é","id":"b","listingId":"l","guestId":"g","startDate":"2024-02-01T14:00:00Z",
        "endDate":"2024-02-03T11:00:00Z","totalPrice":250.00,"currency":"EUR","status":"PENDING",
        "pricingMode":"DAILY","createdAt":"2024-01-15T10:30:00Z","1":1e21}"#;
    stack.publish(&event("json").data(data)).await;
    stack.publish_protobuf(&event("protobuf").data(data)).await;
    let body = body_of(&stack, "json").await;
    assert_eq!(body, body_of(&stack, "protobuf").await);
    assert!(body.contains(r#""data":{"1":1e+21,"2":"é","id":"b""#), "{body}");
    assert!(body.contains(r#""totalPrice":250,"#), "{body}");
}

#[tokio::test]
async fn stacks_with_different_prefixes_do_not_see_each_others_events() {
    let (first, second) = tokio::join!(ingest_alone().start(), ingest_alone().start());
    first.publish_all(&crate::seen::events("mine", 50)).await;
    second.publish(&event("mine-0")).await;
    expect_stored(&first, 50).await;
    expect_stored(&second, 1).await;
    assert_eq!(Taker::of_fan_outs(&second).handed_over(1).await["mine-0"], 1);
    assert_eq!(stored(&second).await, (1, 1));
}

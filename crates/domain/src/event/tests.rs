use chrono::DateTime;
use proptest::prelude::*;

use super::*;

fn circumstances<'a>(random: &'a SystemRandom, routing_key: Option<&'a str>) -> Circumstances<'a> {
    let now = DateTime::from_timestamp_millis(1_705_314_600_000).unwrap();
    Circumstances { now, random, routing_key, message_id: None }
}

fn accepted(message: &str) -> AcceptedEvent {
    accept_json(message.as_bytes(), circumstances(&SystemRandom::new(), None)).unwrap()
}

fn rejected(message: &str) -> Rejection {
    match accept_json(message.as_bytes(), circumstances(&SystemRandom::new(), None)) {
        Err(NotAccepted::Rejected(rejection)) => rejection,
        other => panic!("{message} gave {other:?}"),
    }
}

fn codes_and_places(rejection: &Rejection) -> Vec<(&'static str, &str)> {
    rejection.errors().map(|error| (error.code.as_str(), error.field.as_str())).collect()
}

/// A valid message with some text replaced.
fn message(replace: &str, with: &str) -> String {
    let valid = concat!(
        r#"{"id":"order-1","event":"listing.deleted","timestamp":"2024-01-15T10:30:00Z","#,
        r#""recipients":["user_1","user_2","user_1"],"#,
        r#""data":{"id":"listing_1","ownerId":"user_1","deletedAt":"2024-01-15T10:30:00Z","price":80.00}}"#
    );
    assert!(valid.contains(replace), "{replace}");
    valid.replace(replace, with)
}

#[test]
fn a_valid_message_becomes_the_body_that_receivers_get() {
    let event = accepted(&message("", ""));
    assert_eq!(event.public_id().as_str(), "order-1");
    assert_eq!(event.event_type, EventType::ListingDeleted);
    assert_eq!(event.recipients.iter().map(UserId::as_str).collect::<Vec<_>>(), ["user_1", "user_2"]);
    assert_eq!(
        event.body,
        concat!(
            r#"{"event":"listing.deleted","timestamp":"2024-01-15T10:30:00Z","data":{"#,
            r#""id":"listing_1","ownerId":"user_1","deletedAt":"2024-01-15T10:30:00Z","price":80}}"#
        )
    );
}

#[test]
fn what_a_publisher_leaves_out_is_filled_in() {
    let event = accepted(
        &message(r#""id":"order-1","event""#, r#""event""#)
            .replace(r#""timestamp":"2024-01-15T10:30:00Z","#, ""),
    );
    assert_eq!(event.public_id().as_str(), event.id.to_string());
    assert_eq!(event.timestamp.as_str(), "2024-01-15T10:30:00.000Z");

    let random = SystemRandom::new();
    let with_message_id = Circumstances { message_id: Some("amqp-7"), ..circumstances(&random, None) };
    let text = message(r#""id":"order-1","event""#, r#""event""#);
    assert_eq!(accept_json(text.as_bytes(), with_message_id).unwrap().public_id().as_str(), "amqp-7");
}

#[test]
fn every_rule_of_the_envelope_has_a_code_and_a_place() {
    for (replace, with, expected) in [
        (r#""event":"listing.deleted""#, r#""event":"listing.gone""#, ("unknown_event", "/event")),
        (r#""event":"listing.deleted""#, r#""event":7"#, ("wrong_type", "/event")),
        (r#""event":"listing.deleted","#, "", ("missing_field", "/event")),
        (r#""id":"order-1""#, r#""id":"ordre n°1""#, ("invalid_id", "/id")),
        (r#""id":"order-1""#, r#""id":"""#, ("invalid_id", "/id")),
        (r#""id":"order-1""#, r#""id":17"#, ("wrong_type", "/id")),
        (r#""timestamp":"2024"#, r#""timestamp":"24"#, ("invalid_timestamp", "/timestamp")),
        (r#"["user_1","user_2","user_1"]"#, "[]", ("invalid_recipients", "/recipients")),
        (r#"["user_1","user_2","user_1"]"#, r#""user_1""#, ("wrong_type", "/recipients")),
        (r#"["user_1","user_2","user_1"]"#, r#"["user_1",2]"#, ("wrong_type", "/recipients/1")),
        (r#"["user_1","user_2","user_1"]"#, r#"["user_1",""]"#, ("invalid_recipients", "/recipients/1")),
        (r#""id":"listing_1","#, "", ("schema_violation", "/data")),
        (r#""ownerId":"user_1""#, r#""ownerId":5"#, ("schema_violation", "/data/ownerId")),
        ("80.00", "1e999", ("number_out_of_range", "/data/price")),
        ("80.00", "9007199254740993", ("number_out_of_range", "/data/price")),
        ("80.00", r#""\ud800""#, ("lone_surrogate", "/data/price")),
        ("80.00", "NaN", ("malformed_json", "/data/price")),
        ("80.00", &"[".repeat(10_000), ("too_deep", "")),
    ] {
        let rejection = rejected(&message(replace, with));
        let (code, place) = codes_and_places(&rejection)[0];
        let place = if expected.0 == "too_deep" { "" } else { place };
        assert_eq!((code, place), expected, "{with}: {rejection}");
    }
    assert_eq!(codes_and_places(&rejected("[1]")), [("wrong_type", "")]);
    assert_eq!(codes_and_places(&rejected("not json")), [("malformed_json", "")]);
}

#[test]
fn all_errors_of_a_message_are_told_at_once() {
    let rejection = rejected(r#"{"id":" ","event":"x","timestamp":"y","recipients":[],"data":{}}"#);
    assert_eq!(
        codes_and_places(&rejection),
        [
            ("invalid_id", "/id"),
            ("unknown_event", "/event"),
            ("invalid_timestamp", "/timestamp"),
            ("invalid_recipients", "/recipients"),
        ]
    );
}

#[test]
fn recipients_are_1_to_1000() {
    let with = |count: usize| {
        let ids: Vec<_> = (0..count).map(|n| format!("\"user_{n}\"")).collect();
        message(r#"["user_1","user_2","user_1"]"#, &format!("[{}]", ids.join(",")))
    };
    assert_eq!(accepted(&with(1000)).recipients.len(), 1000);
    assert_eq!(rejected(&with(1001)).code(), RejectionCode::InvalidRecipients);
}

#[test]
fn a_message_has_at_most_256_kib() {
    let with_bytes = |bytes: usize| {
        let padding = bytes - message("80.00", "\"\"").len();
        message("80.00", &format!("\"{}\"", "x".repeat(padding)))
    };
    assert_eq!(with_bytes(1000).len(), 1000);
    assert!(accepted(&with_bytes(256 * 1024)).body.len() > 260_000);
    assert_eq!(rejected(&with_bytes(257 * 1024)).code(), RejectionCode::TooLarge);
}

#[test]
fn the_routing_key_must_say_the_same_as_the_message() {
    let random = SystemRandom::new();
    let text = message("", "");
    let with_key = |key| accept_json(text.as_bytes(), circumstances(&random, Some(key)));
    assert!(with_key("listing.deleted").is_ok());
    let Err(NotAccepted::Rejected(rejection)) = with_key("listing.created") else { panic!("accepted") };
    assert_eq!(rejection.code(), RejectionCode::RoutingKeyMismatch);
}

#[test]
fn errors_stay_bounded_however_wrong_the_message() {
    let recipients: Vec<_> = (0..1000).map(|_| "\"\"").collect();
    let text = message(r#"["user_1","user_2","user_1"]"#, &format!("[{}]", recipients.join(",")));
    assert_eq!(rejected(&text).errors().count(), MAX_ERRORS);

    let key = "k".repeat(100_000);
    let text = message("80.00", &format!("{{\"{key}\":1e999}}"));
    assert!(rejected(&text).to_string().len() < 2_000);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = accept_json(&bytes, circumstances(&SystemRandom::new(), None));
    }

    #[test]
    fn a_body_is_a_fixed_point_of_reading_and_writing(text in "\\PC{0,40}", number: f64, key in "\\PC{0,10}") {
        prop_assume!(number.is_finite() && number.fract() != 0.0);
        let field = serde_json::json!({ key: [text, number, null, {"10": 1, "9": true}] });
        let event = accepted(&message("80.00", &field.to_string()));
        let mut again = String::new();
        js::parse(event.body.as_bytes(), MAX_DEPTH).unwrap().write(&mut again);
        prop_assert_eq!(again, event.body);
    }
}

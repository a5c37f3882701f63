//! Messages of publishers, from the queue to what is stored and handed over.

use broker::{Message, Received};
use bytes::Bytes;
use chrono::DateTime;
use domain::event::{AcceptedEvent, Circumstances, NotAccepted, Rejection};
use domain::js;
use domain::limits::{MAX_DEPTH, MAX_MESSAGE_BYTES, MAX_RECIPIENTS};
use domain::timestamp::PublishedTimestamp;
use domain::{PublicEventId, Timestamp, UserId};
use http::HeaderValue;
use ring::rand::SystemRandom;
use wire::names::{ERROR_HEADER, ROUTING_KEY_HEADER};
use wire::published::accept_message;
use wire::rejected::rejected;
use wire::{FanOut, FanOutEvent, JSON, Names, PROTOBUF, platform_event};

use crate::Verdict;

/// Most bytes of the reason for a rejection, before it is shortened to fit into a header.
const MAX_REASON_BYTES: usize = 64 * 1024;

/// Checks a message, whatever it is.
pub fn check(input: &[u8]) -> Verdict {
    let message = read(input);
    let names = Names::default();
    match accepted(&message, &names) {
        Ok(event) => {
            check_event(&event, &message);
            // `1e20` is printed with all its digits, which would not be accepted: see `javascript`.
            if js::parse(event.body.as_bytes(), MAX_DEPTH).is_ok() {
                check_encodings(&event, &names);
            }
            Verdict::Accepted
        }
        Err(NotAccepted::Rejected(rejection)) => {
            check_rejection(&message, &rejection, &names);
            Verdict::Refused(rejection.code().to_string())
        }
        Err(NotAccepted::NoRandomness(error)) => panic!("{error}"),
    }
}

/// Four lines of properties, then the payload. Empty lines are absent properties; a message without a routing key was put
/// straight on the queue.
fn read(input: &[u8]) -> Received {
    let mut lines = input.splitn(5, |byte| *byte == b'\n');
    let mut line =
        || lines.next().map(String::from_utf8_lossy).filter(|line| !line.is_empty()).map(String::from);
    let (content_type, content_encoding, routing_key, message_id) = (line(), line(), line(), line());
    let (exchange, routing_key) = match routing_key {
        Some(key) => (Names::default().events_exchange(), key),
        None => (String::new(), Names::default().ingest_queue()),
    };
    let body = Bytes::copy_from_slice(lines.next().unwrap_or_default());
    let message = Message {
        content_type,
        content_encoding,
        message_id,
        ..Message::to_exchange(exchange, routing_key, body)
    };
    message.header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").into()
}

fn accepted(message: &Received, names: &Names) -> Result<AcceptedEvent, NotAccepted> {
    let random = SystemRandom::new();
    let circumstances = Circumstances { now: now(), random: &random, routing_key: None, message_id: None };
    accept_message(message, &names.events_exchange(), circumstances)
}

/// 2024-01-15T10:30:00Z.
fn now() -> Timestamp {
    DateTime::from_timestamp_millis(1_705_314_600_000).expect("a time")
}

fn check_event(event: &AcceptedEvent, message: &Received) {
    if !message.exchange.is_empty() {
        assert_eq!(event.event_type.as_str(), message.routing_key, "brokers authorise by the routing key");
    }

    assert!((1..=MAX_RECIPIENTS).contains(&event.recipients.len()), "{} recipients", event.recipients.len());
    let mut recipients = event.recipients.clone();
    recipients.sort();
    recipients.dedup();
    assert_eq!(recipients.len(), event.recipients.len(), "each recipient once");
    for user in &event.recipients {
        assert_eq!(UserId::parse(user.as_str()).as_ref(), Ok(user));
        assert!(!user.as_str().contains('\0'), "PostgreSQL stores no NUL");
    }

    let public_id = event.public_id();
    assert_eq!(PublicEventId::parse(public_id.as_str()).as_ref(), Ok(&public_id));
    assert!(HeaderValue::from_str(public_id.as_str()).is_ok(), "it leaves as a header");

    let timestamp = event.timestamp.as_str();
    assert_eq!(
        PublishedTimestamp::parse(timestamp).as_ref(),
        Ok(&event.timestamp),
        "what leaves is RFC 3339"
    );
    assert!(
        timestamp.ends_with('Z') && HeaderValue::from_str(timestamp).is_ok(),
        "{timestamp} leaves as a header"
    );

    check_body(event);
    check_fan_out(event);
}

fn check_body(event: &AcceptedEvent) {
    assert!(event.body.len() <= MAX_MESSAGE_BYTES, "{} bytes", event.body.len());
    assert!(!event.body.contains('\0'), "PostgreSQL stores no NUL");
    let body = match js::parse(event.body.as_bytes(), MAX_DEPTH) {
        Ok(body) => body,
        Err(error) => {
            assert_eq!(error.problem, js::Problem::IntegerOutOfRange, "the body is JSON");
            return;
        }
    };
    let mut again = String::new();
    body.write(&mut again);
    assert_eq!(again, event.body, "a receiver's JavaScript does not change it");

    let members = body.as_object().expect("an object");
    let keys: Vec<_> = members.keys().map(AsRef::as_ref).collect();
    assert_eq!(keys, ["event", "timestamp", "data"]);
    assert_eq!(members["event"].as_str(), Some(event.event_type.as_str()));
    assert_eq!(members["timestamp"].as_str(), Some(event.timestamp.as_str()));
}

fn check_fan_out(event: &AcceptedEvent) {
    let stored = FanOutEvent {
        id: event.id,
        public_id: event.public_id(),
        event_type: event.event_type,
        timestamp: event.timestamp.as_str().to_owned(),
        recipients: event.recipients.clone(),
        body: Bytes::copy_from_slice(event.body.as_bytes()),
    };
    let message = FanOut { events: vec![stored] };
    assert_eq!(FanOut::decode(message.encode()), Ok(message), "dispatchers read what was stored");
}

/// The same event, published anew in both encodings, is the same event.
fn check_encodings(event: &AcceptedEvent, names: &Names) {
    let head =
        format!(r#"{{"event":"{}","timestamp":"{}","data":"#, event.event_type, event.timestamp.as_str());
    let data =
        event.body.strip_prefix(&head).and_then(|rest| rest.strip_suffix('}')).expect("`data` comes last");
    let recipients: Vec<_> = event.recipients.iter().map(|user| user.as_str().to_owned()).collect();
    let id = event.public_id();

    let listed = serde_json::to_string(&recipients).expect("JSON");
    let quoted = serde_json::to_string(id.as_str()).expect("JSON");
    let json = format!(
        "{},\"id\":{quoted},\"recipients\":{listed}}}",
        event.body.strip_suffix('}').unwrap_or_default()
    );
    let protobuf = platform_event::encode(
        id.as_str(),
        event.event_type.as_str(),
        event.timestamp.as_str(),
        recipients,
        Bytes::copy_from_slice(data.as_bytes()),
    );
    for (content_type, body) in [(JSON, json.into_bytes()), (PROTOBUF, protobuf)] {
        if body.len() > MAX_MESSAGE_BYTES {
            continue; // numbers may be longer as JavaScript prints them
        }
        let again = Message::to_exchange(names.events_exchange(), event.event_type.as_str(), body.into());
        let again = again.content_type(content_type).into();
        let again = accepted(&again, names).unwrap_or_else(|error| panic!("{content_type}: {error}"));
        let expected = AcceptedEvent { id: again.id, publisher_id: Some(id.clone()), ..event.clone() };
        assert_eq!(again, expected, "{content_type}");
    }
}

fn check_rejection(message: &Received, rejection: &Rejection, names: &Names) {
    let reason = rejection.to_string();
    assert!(!reason.is_empty() && reason.len() <= MAX_REASON_BYTES, "{} bytes of reason", reason.len());
    let kept =
        rejected(message.forward_to(names.rejected_queue()), names, rejection.code().as_str(), &reason)
            .header(ROUTING_KEY_HEADER, &message.routing_key);
    assert_eq!((&kept.body, &kept.content_type), (&message.body, &message.content_type), "it is kept whole");
    assert_eq!(kept.headers.text("traceparent"), message.headers.text("traceparent"));
    let bytes = kept.headers.text(ERROR_HEADER).map(|text| text.len());
    assert!(bytes.is_some_and(|bytes| (1..=2048).contains(&bytes)), "{bytes:?} bytes of reason in a header");
}

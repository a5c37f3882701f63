//! What internal services publish in protobuf.

use std::borrow::Cow;

use domain::event::{
    AcceptedEvent, Circumstances, Envelope, NotAccepted, Rejection, RejectionCode, accept, check_size,
};
use prost::Message;

use crate::proto;

/// Checks a `lokroom.webhooks.v1.PlatformEvent`. Empty strings are absent fields, as proto3 has it.
pub fn accept_protobuf(
    message: &[u8],
    circumstances: Circumstances<'_>,
) -> Result<AcceptedEvent, NotAccepted> {
    check_size(message.len())?;
    let decoded = proto::PlatformEvent::decode(message).map_err(|error| {
        let message = format!("not a lokroom.webhooks.v1.PlatformEvent: {error}");
        Rejection::of_document(RejectionCode::MalformedProtobuf, message)
    })?;
    if decoded.event.is_empty() {
        return Err(Rejection::of_field(RejectionCode::MissingField, "/event", "is required").into());
    }
    if decoded.data.is_empty() {
        let message = "is required: the UTF-8 bytes of a JSON object";
        return Err(Rejection::of_field(RejectionCode::MissingField, "/data", message).into());
    }
    let envelope = Envelope {
        id: present(&decoded.id),
        event: Cow::Borrowed(&decoded.event),
        timestamp: present(&decoded.timestamp),
        recipients: decoded.recipients.iter().map(|user| Cow::Borrowed(user.as_str())).collect(),
        data: Envelope::parse_data(&decoded.data)?,
    };
    accept(&envelope, circumstances)
}

fn present(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then_some(Cow::Borrowed(text))
}

/// The event type that a message names, known or not; `None` where it cannot be read.
pub fn event_name(message: &[u8]) -> Option<String> {
    let decoded = proto::PlatformEvent::decode(message).ok()?;
    (!decoded.event.is_empty()).then_some(decoded.event)
}

/// Encodes an event as internal services do.
pub fn encode(
    id: &str,
    event: &str,
    timestamp: &str,
    recipients: Vec<String>,
    data: bytes::Bytes,
) -> Vec<u8> {
    proto::PlatformEvent { id: id.into(), event: event.into(), timestamp: timestamp.into(), recipients, data }
        .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chrono::DateTime;
    use domain::EventType;
    use ring::rand::SystemRandom;

    use super::*;

    fn accepted(message: &[u8]) -> Result<AcceptedEvent, NotAccepted> {
        let now = DateTime::from_timestamp_millis(1_705_314_600_000).unwrap();
        let random = SystemRandom::new();
        accept_protobuf(message, Circumstances { now, random: &random, routing_key: None, message_id: None })
    }

    fn event(data: &str) -> Vec<u8> {
        let recipients = vec!["user_1".to_owned()];
        encode("order-1", "listing.deleted", "", recipients, Bytes::copy_from_slice(data.as_bytes()))
    }

    fn code(message: &[u8]) -> (RejectionCode, String) {
        match accepted(message) {
            Err(NotAccepted::Rejected(rejection)) => {
                let place = rejection.errors().next().unwrap().field.clone();
                (rejection.code(), place)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn protobuf_and_json_of_the_same_event_give_the_same_body() {
        let data = r#"{"id":"l","ownerId":"u","deletedAt":"2024-01-15T10:30:00Z","n":1.50}"#;
        let event = accepted(&event(data)).unwrap();
        assert_eq!(event.event_type, EventType::ListingDeleted);
        assert!(event.body.ends_with(r#""n":1.5}}"#), "{}", event.body);
        assert_eq!(event.timestamp.as_str(), "2024-01-15T10:30:00.000Z");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        assert_eq!(code(b"\xff\xff\xff").0, RejectionCode::MalformedProtobuf);
        assert_eq!(code(b""), (RejectionCode::MissingField, "/event".to_owned()));
        assert_eq!(code(&event("")), (RejectionCode::MissingField, "/data".to_owned()));
        assert_eq!(code(&event("[]")), (RejectionCode::WrongType, "/data".to_owned()));
        assert_eq!(code(&event(r#"{"a":NaN}"#)), (RejectionCode::MalformedJson, "/data/a".to_owned()));
        assert_eq!(code(&vec![0; 257 * 1024]).0, RejectionCode::TooLarge);
    }
}

//! Stored events on their way to the dispatchers.

use bytes::Bytes;
use domain::{EventId, EventType, PublicEventId, UserId};
use prost::Message;
use uuid::Uuid;

use crate::{WireError, proto};

const MESSAGE: &str = "FanOut";

/// A fan-out message carries what was stored together, up to this many bytes: dispatchers hold whole messages in memory.
pub const MESSAGE_BYTES: usize = 256 * 1024;

/// An event as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanOutEvent {
    /// Our id.
    pub id: EventId,
    /// The id that receivers see.
    pub public_id: PublicEventId,
    /// What happened.
    pub event_type: EventType,
    /// The payload's timestamp, character for character.
    pub timestamp: String,
    /// Whom it concerns, each user once.
    pub recipients: Vec<UserId>,
    /// The body as every receiver gets it.
    pub body: Bytes,
}

impl FanOutEvent {
    /// The bytes it takes in a message, about.
    pub fn size(&self) -> usize {
        self.body.len() + self.recipients.iter().map(|user| user.as_str().len()).sum::<usize>()
    }
}

/// Events that were stored together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FanOut {
    /// The events, in the order in which they were stored.
    pub events: Vec<FanOutEvent>,
}

impl FanOut {
    /// Groups events into messages of at most [`MESSAGE_BYTES`] beyond the first event of each.
    pub fn grouped(events: impl IntoIterator<Item = FanOutEvent>) -> Vec<Self> {
        let (mut messages, mut open, mut bytes) = (Vec::new(), Self::default(), 0);
        for event in events {
            let size = event.size();
            if !open.events.is_empty() && bytes + size > MESSAGE_BYTES {
                messages.push(std::mem::take(&mut open));
                bytes = 0;
            }
            bytes += size;
            open.events.push(event);
        }
        if !open.events.is_empty() {
            messages.push(open);
        }
        messages
    }

    /// The message's bytes.
    pub fn encode(&self) -> Bytes {
        let events = self.events.iter().map(encode_event).collect();
        proto::FanOut { events }.encode_to_vec().into()
    }

    /// Reads a message; bodies are slices of it.
    pub fn decode(message: Bytes) -> Result<Self, WireError> {
        let decoded = proto::FanOut::decode(message)
            .map_err(|error| WireError::Malformed { message: MESSAGE, reason: error.to_string() })?;
        let events = decoded.events.into_iter().map(decode_event).collect::<Result<_, _>>()?;
        Ok(Self { events })
    }
}

fn encode_event(event: &FanOutEvent) -> proto::StoredEvent {
    proto::StoredEvent {
        event_id: Bytes::copy_from_slice(event.id.uuid().as_bytes()),
        public_id: event.public_id.as_str().to_owned(),
        event_type: event.event_type.as_str().to_owned(),
        timestamp: event.timestamp.clone(),
        recipients: event.recipients.iter().map(|user| user.as_str().to_owned()).collect(),
        body: event.body.clone(),
    }
}

fn decode_event(event: proto::StoredEvent) -> Result<FanOutEvent, WireError> {
    let recipients = event.recipients.iter().map(|user| UserId::parse(user)).collect::<Result<_, _>>();
    Ok(FanOutEvent {
        id: EventId::from_uuid(uuid(MESSAGE, "event_id", &event.event_id)?),
        public_id: field(MESSAGE, "public_id", PublicEventId::parse(&event.public_id))?,
        event_type: field(MESSAGE, "event_type", event.event_type.parse())?,
        timestamp: event.timestamp,
        recipients: field(MESSAGE, "recipients", recipients)?,
        body: event.body,
    })
}

/// Names the field of a message in the error of its value.
pub(crate) fn field<T, E: ToString>(
    message: &'static str,
    field: &'static str,
    value: Result<T, E>,
) -> Result<T, WireError> {
    value.map_err(|error| WireError::Field { message, field, reason: error.to_string() })
}

/// Reads a UUID's 16 bytes.
pub(crate) fn uuid(message: &'static str, name: &'static str, bytes: &[u8]) -> Result<Uuid, WireError> {
    field(message, name, Uuid::from_slice(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded_and_bodies_are_not_copied() {
        let event = FanOutEvent {
            id: EventId::from_uuid(Uuid::from_u128(7)),
            public_id: PublicEventId::parse("order-1").unwrap(),
            event_type: EventType::BookingCreated,
            timestamp: "2024-01-15T10:30:00Z".into(),
            recipients: vec![UserId::parse("user_1").unwrap()],
            body: Bytes::from_static(b"{}"),
        };
        let message = FanOut { events: vec![event.clone(), event] };
        let bytes = message.encode();
        let decoded = FanOut::decode(bytes.clone()).unwrap();
        assert_eq!(decoded, message);
        let body = decoded.events[1].body.as_ptr();
        assert!(bytes.as_ptr_range().contains(&body));
    }

    #[test]
    fn impossible_values_are_errors_that_name_the_field() {
        assert!(matches!(FanOut::decode(Bytes::from_static(b"\xff")), Err(WireError::Malformed { .. })));
        let bytes = proto::FanOut { events: vec![proto::StoredEvent::default()] }.encode_to_vec();
        let error = FanOut::decode(bytes.into()).unwrap_err();
        assert!(matches!(error, WireError::Field { field: "event_id", .. }), "{error}");
    }
}

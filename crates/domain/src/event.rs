//! What a publisher's message must look like (contract, *Publishing events*).

mod envelope;
mod rejection;

use ring::rand::SystemRandom;

use crate::body;
use crate::catalogue::EventType;
use crate::id::{EventId, NoRandomness, PublicEventId, UserId};
use crate::js;
use crate::limits::{MAX_DEPTH, MAX_MESSAGE_BYTES, MAX_RECIPIENTS};
use crate::timestamp::{PublishedTimestamp, Timestamp};

pub use envelope::Envelope;
pub use rejection::{FieldError, Rejection, RejectionCode};

use rejection::Errors;

/// Most places named in one rejection.
const MAX_ERRORS: usize = 20;

/// An event that was checked and may be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptedEvent {
    /// Our id.
    pub id: EventId,
    /// The publisher's id, if one was given: what duplicates are recognised by.
    pub publisher_id: Option<PublicEventId>,
    /// What happened.
    pub event_type: EventType,
    /// When it happened.
    pub timestamp: PublishedTimestamp,
    /// Whom it concerns: each user once, in the publisher's order.
    pub recipients: Vec<UserId>,
    /// The body as every receiver gets it.
    pub body: String,
}

impl AcceptedEvent {
    /// The id that receivers see.
    pub fn public_id(&self) -> PublicEventId {
        self.publisher_id.clone().unwrap_or_else(|| PublicEventId::assigned(self.id))
    }
}

/// What is known about a message besides its content.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// When it was received.
    pub now: Timestamp,
    /// Where the ids' random bits come from.
    pub random: &'a SystemRandom,
    /// The AMQP routing key: brokers authorise publishers by it, so it must say the same as `event`.
    pub routing_key: Option<&'a str>,
    /// The AMQP `message_id`: the event's id where the message itself has none.
    pub message_id: Option<&'a str>,
}

/// A message that was not accepted: it is wrong, or the system gave no randomness.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    /// The publisher has to mend the message.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Ours to mend; the message can be tried again.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// Checks a message in JSON.
pub fn accept_json(message: &[u8], circumstances: Circumstances<'_>) -> Result<AcceptedEvent, NotAccepted> {
    check_size(message.len())?;
    let value = js::parse(message, MAX_DEPTH).map_err(Rejection::from)?;
    accept_value(value, circumstances)
}

/// Checks an event that was already parsed from JSON.
pub fn accept_value(
    value: js::Value<'_>,
    circumstances: Circumstances<'_>,
) -> Result<AcceptedEvent, NotAccepted> {
    accept(&Envelope::from_json(value)?, circumstances)
}

/// Checks an envelope, from whatever encoding it was read.
pub fn accept(
    envelope: &Envelope<'_>,
    circumstances: Circumstances<'_>,
) -> Result<AcceptedEvent, NotAccepted> {
    let mut errors = Errors::default();
    let id = EventId::generate(circumstances.now, circumstances.random)?;
    let publisher_id = check_id(envelope.id.as_deref().or(circumstances.message_id), &mut errors);
    let event_type = check_event(&envelope.event, circumstances.routing_key, &mut errors);
    let timestamp = check_timestamp(envelope.timestamp.as_deref(), circumstances.now, &mut errors);
    let recipients = check_recipients(&envelope.recipients, &mut errors);
    if let Some(event_type) = event_type {
        check_schema(event_type, &envelope.data, &mut errors);
    }
    let (Some(event_type), Some(timestamp)) = (event_type, timestamp) else {
        return Err(errors.into_rejection().into());
    };
    errors.none_or_rejection()?;

    let body = body::build(event_type, &timestamp, &envelope.data);
    check_size(body.len())?;
    Ok(AcceptedEvent { id, publisher_id, event_type, timestamp, recipients, body })
}

/// Refuses what is larger than a message may be (contract: 256 KiB).
pub fn check_size(bytes: usize) -> Result<(), Rejection> {
    if bytes <= MAX_MESSAGE_BYTES {
        return Ok(());
    }
    Err(Rejection::of_document(
        RejectionCode::TooLarge,
        format!("the message has {bytes} bytes, at most {MAX_MESSAGE_BYTES} (256 KiB) are allowed"),
    ))
}

fn check_id(id: Option<&str>, errors: &mut Errors) -> Option<PublicEventId> {
    match PublicEventId::parse(id?) {
        Ok(id) => Some(id),
        Err(error) => {
            errors.add(RejectionCode::InvalidId, "/id", error.to_string());
            None
        }
    }
}

fn check_event(name: &str, routing_key: Option<&str>, errors: &mut Errors) -> Option<EventType> {
    let event_type = match name.parse::<EventType>() {
        Ok(event_type) => event_type,
        Err(error) => {
            errors.add(RejectionCode::UnknownEvent, "/event", error.to_string());
            return None;
        }
    };
    if let Some(key) = routing_key
        && key != name
    {
        let key: String = key.chars().take(100).collect();
        errors.add(
            RejectionCode::RoutingKeyMismatch,
            "/event",
            format!("is `{name}`, but the routing key is `{key}`: they must be the same"),
        );
    }
    Some(event_type)
}

fn check_timestamp(text: Option<&str>, now: Timestamp, errors: &mut Errors) -> Option<PublishedTimestamp> {
    let Some(text) = text else { return Some(PublishedTimestamp::at(now)) };
    match PublishedTimestamp::parse(text) {
        Ok(timestamp) => Some(timestamp),
        Err(error) => {
            errors.add(RejectionCode::InvalidTimestamp, "/timestamp", error.to_string());
            None
        }
    }
}

fn check_recipients(recipients: &[impl AsRef<str>], errors: &mut Errors) -> Vec<UserId> {
    if !(1..=MAX_RECIPIENTS).contains(&recipients.len()) {
        let message = format!("must name 1 to {MAX_RECIPIENTS} user ids, names {}", recipients.len());
        errors.add(RejectionCode::InvalidRecipients, "/recipients", message);
        return Vec::new();
    }
    let mut seen = indexmap::IndexSet::with_capacity(recipients.len());
    for (index, recipient) in recipients.iter().enumerate() {
        match UserId::parse(recipient.as_ref()) {
            Ok(user) => {
                seen.insert(user);
            }
            Err(error) => errors.add(
                RejectionCode::InvalidRecipients,
                format!("/recipients/{index}"),
                error.to_string(),
            ),
        }
    }
    seen.into_iter().collect()
}

fn check_schema(event_type: EventType, data: &js::Object<'_>, errors: &mut Errors) {
    let data = data.iter().map(|(key, value)| (key.clone().into_owned(), value.to_serde())).collect();
    for violation in event_type.violations(&serde_json::Value::Object(data), MAX_ERRORS) {
        errors.add(RejectionCode::SchemaViolation, format!("/data{}", violation.pointer), violation.message);
    }
}

#[cfg(test)]
mod tests;

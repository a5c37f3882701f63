//! One attempt to be made.

use bytes::Bytes;
use domain::limits::MAX_MESSAGE_BYTES;
use domain::protocol::{Fence, Ticket};
use domain::retry::AttemptNumber;
use domain::{DeliveryId, EventId, EventType, PublicEventId, WebhookId};
use prost::Message;

use crate::fan_out::{field, uuid};
use crate::{WireError, proto};

const MESSAGE: &str = "DeliveryJob";

/// An attempt that a dispatcher has to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryJob {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Its webhook.
    pub webhook: WebhookId,
    /// Its event.
    pub event: EventId,
    /// The id that receivers see.
    pub public_id: PublicEventId,
    /// What happened.
    pub event_type: EventType,
    /// The payload's timestamp, character for character.
    pub timestamp: String,
    /// The attempt to be made, and the fence of the job.
    pub ticket: Ticket,
    /// The body as the receiver gets it; `None` when it is large and has to be read from the stored event.
    pub body: Option<Bytes>,
    /// The size of the body, also where it has to be read.
    pub body_bytes: u32,
}

impl DeliveryJob {
    /// The message's bytes.
    pub fn encode(&self) -> Bytes {
        proto::DeliveryJob {
            delivery_id: Bytes::copy_from_slice(self.delivery.uuid().as_bytes()),
            webhook_id: Bytes::copy_from_slice(self.webhook.uuid().as_bytes()),
            event_id: Bytes::copy_from_slice(self.event.uuid().as_bytes()),
            public_id: self.public_id.as_str().to_owned(),
            event_type: self.event_type.as_str().to_owned(),
            timestamp: self.timestamp.clone(),
            attempt: self.ticket.attempt.get(),
            body: self.body.clone(),
            fence: self.ticket.fence.get(),
            body_bytes: self.body_bytes,
        }
        .encode_to_vec()
        .into()
    }

    /// The bytes of body that have to be read before the attempt, 0 if the body is there. Jobs of versions that did not
    /// say how much count as much as there may be.
    pub fn bytes_to_read(&self) -> usize {
        match (&self.body, self.body_bytes) {
            (Some(_), _) => 0,
            (None, 0) => MAX_MESSAGE_BYTES,
            (None, bytes) => bytes as usize,
        }
    }

    /// Reads a message; the body is a slice of it.
    pub fn decode(message: Bytes) -> Result<Self, WireError> {
        let job = proto::DeliveryJob::decode(message)
            .map_err(|error| WireError::Malformed { message: MESSAGE, reason: error.to_string() })?;
        let attempt = AttemptNumber::new(job.attempt).ok_or("must be at least 1");
        let attempt = field(MESSAGE, "attempt", attempt)?;
        Ok(Self {
            delivery: DeliveryId::from_uuid(uuid(MESSAGE, "delivery_id", &job.delivery_id)?),
            webhook: WebhookId::from_uuid(uuid(MESSAGE, "webhook_id", &job.webhook_id)?),
            event: EventId::from_uuid(uuid(MESSAGE, "event_id", &job.event_id)?),
            public_id: field(MESSAGE, "public_id", PublicEventId::parse(&job.public_id))?,
            event_type: field(MESSAGE, "event_type", job.event_type.parse())?,
            timestamp: job.timestamp,
            ticket: Ticket { attempt, fence: Fence::new(job.fence) },
            body: job.body,
            body_bytes: job.body_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn job(body: Option<Bytes>) -> DeliveryJob {
        DeliveryJob {
            delivery: DeliveryId::from_uuid(Uuid::from_u128(1)),
            webhook: WebhookId::from_uuid(Uuid::from_u128(2)),
            event: EventId::from_uuid(Uuid::from_u128(3)),
            public_id: PublicEventId::parse("order-1").unwrap(),
            event_type: EventType::PaymentFailed,
            timestamp: "2024-01-15T10:30:00Z".into(),
            ticket: Ticket { attempt: AttemptNumber::FIRST.next(), fence: Fence::new(3) },
            body,
            body_bytes: 7,
        }
    }

    #[test]
    fn what_was_encoded_is_decoded_with_and_without_a_body() {
        for body in [None, Some(Bytes::new()), Some(Bytes::from_static(b"{}"))] {
            assert_eq!(DeliveryJob::decode(job(body.clone()).encode()), Ok(job(body)));
        }
    }

    #[test]
    fn a_body_that_is_not_there_has_to_be_read() {
        assert_eq!(job(Some(Bytes::from_static(b"{}"))).bytes_to_read(), 0);
        assert_eq!(job(None).bytes_to_read(), 7);
        assert_eq!(DeliveryJob { body_bytes: 0, ..job(None) }.bytes_to_read(), MAX_MESSAGE_BYTES);
    }

    #[test]
    fn attempt_0_does_not_exist() {
        let bytes = proto::DeliveryJob {
            delivery_id: Bytes::from_static(&[1; 16]),
            webhook_id: Bytes::from_static(&[1; 16]),
            event_id: Bytes::from_static(&[1; 16]),
            public_id: "x".into(),
            event_type: "payment.failed".into(),
            ..Default::default()
        }
        .encode_to_vec();
        let error = DeliveryJob::decode(bytes.into()).unwrap_err();
        assert!(matches!(error, WireError::Field { field: "attempt", .. }), "{error}");
    }
}

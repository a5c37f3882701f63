//! Published messages that move to another queue in groups, before their events are stored.

use broker::{Headers, Received};
use bytes::Bytes;
use domain::EventId;
use prost::Message;

use crate::fan_out::uuid;
use crate::{WireError, proto};

const MESSAGE: &str = "Moved";

/// A group has up to this many bytes: what is stored together keeps others from it for as long as it takes.
pub const GROUP_BYTES: usize = 64 * 1024;

/// A message on its way to being stored, whole, with the id that its event was given.
#[derive(Debug, Clone)]
pub struct MovedMessage {
    /// Our id of its event.
    pub id: EventId,
    /// The message as it was published. What a queue says of a delivery, it does not say.
    pub message: Received,
}

/// Groups messages: the bytes of one group each, of at most [`GROUP_BYTES`], or one message that is larger.
pub fn encode<'a>(messages: impl IntoIterator<Item = (EventId, &'a Received)>) -> Vec<Bytes> {
    let (mut groups, mut open, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (id, message) in messages {
        let moved = encode_message(id, message);
        let size = moved.encoded_len();
        if !open.is_empty() && bytes + size > GROUP_BYTES {
            groups.push(proto::Moved { messages: std::mem::take(&mut open) });
            bytes = 0;
        }
        bytes += size;
        open.push(moved);
    }
    if !open.is_empty() {
        groups.push(proto::Moved { messages: open });
    }
    groups.into_iter().map(|group| group.encode_to_vec().into()).collect()
}

/// Reads a group; bodies are slices of it.
pub fn decode(group: Bytes) -> Result<Vec<MovedMessage>, WireError> {
    let decoded = proto::Moved::decode(group)
        .map_err(|error| WireError::Malformed { message: MESSAGE, reason: error.to_string() })?;
    if decoded.messages.is_empty() {
        return Err(WireError::Malformed { message: MESSAGE, reason: "it has no messages".to_owned() });
    }
    decoded.messages.into_iter().map(decode_message).collect()
}

fn encode_message(id: EventId, message: &Received) -> proto::MovedMessage {
    proto::MovedMessage {
        event_id: Bytes::copy_from_slice(id.uuid().as_bytes()),
        exchange: message.exchange.clone(),
        routing_key: message.routing_key.clone(),
        content_type: message.content_type.clone(),
        content_encoding: message.content_encoding.clone(),
        message_id: message.message_id.clone(),
        headers: message.headers.encode(),
        body: message.body.clone(),
    }
}

fn decode_message(moved: proto::MovedMessage) -> Result<MovedMessage, WireError> {
    let id = EventId::from_uuid(uuid(MESSAGE, "event_id", &moved.event_id)?);
    let headers = Headers::decode(&moved.headers).ok_or_else(|| WireError::Field {
        message: MESSAGE,
        field: "headers",
        reason: "it is not a table of AMQP".to_owned(),
    })?;
    let message = broker::Message {
        exchange: moved.exchange,
        routing_key: moved.routing_key,
        body: moved.body,
        content_type: moved.content_type,
        content_encoding: moved.content_encoding,
        message_id: moved.message_id,
        headers,
    };
    Ok(MovedMessage { id, message: message.into() })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::FanOut;

    fn message(body: Bytes) -> Received {
        let message = broker::Message::to_exchange("lokroom.events", "booking.created", body);
        message.content_type(crate::JSON).message_id("order-1").header("traceparent", "00-1").into()
    }

    fn id(number: u128) -> EventId {
        EventId::from_uuid(Uuid::from_u128(number))
    }

    #[test]
    fn what_moved_is_whole_and_bodies_are_not_copied() {
        let first = message(Bytes::from_static(b"{}"));
        let mut second = Received { message_id: None, ..message(Bytes::from_static(b"[]")) };
        second.headers = Headers::default();
        let groups = encode([(id(1), &first), (id(2), &second)]);
        let [group] = &groups[..] else { panic!("{} groups", groups.len()) };
        let moved = decode(group.clone()).unwrap();
        for (moved, (id, message)) in moved.iter().zip([(id(1), &first), (id(2), &second)]) {
            assert_eq!(moved.id, id);
            assert_eq!(format!("{:?}", moved.message), format!("{message:?}"));
            assert!(group.as_ptr_range().contains(&moved.message.body.as_ptr()));
        }
        assert_eq!(moved.len(), 2);
    }

    #[test]
    fn groups_have_a_size_that_one_message_alone_may_exceed() {
        let [small, half] = [10, GROUP_BYTES / 2].map(|bytes| message(Bytes::from(vec![0; bytes])));
        let large = message(Bytes::from(vec![0; GROUP_BYTES + 1]));
        let groups = encode([&small, &half, &half, &large, &small].map(|message| (id(1), message)));
        let sizes: Vec<_> = groups.into_iter().map(|group| decode(group).unwrap().len()).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
        assert!(encode([]).is_empty());
    }

    #[test]
    fn what_cannot_be_is_an_error_that_names_the_field() {
        let fan_out = FanOut { events: Vec::new() }.encode();
        for not_a_group in [Bytes::from_static(b"\xff"), fan_out] {
            assert!(matches!(decode(not_a_group), Err(WireError::Malformed { .. })));
        }
        let of = |messages| decode(proto::Moved { messages }.encode_to_vec().into()).unwrap_err();
        let error = of(vec![proto::MovedMessage::default()]);
        assert!(matches!(error, WireError::Field { field: "event_id", .. }), "{error}");
        let wrong = encode_message(id(1), &message(Bytes::new()));
        let error = of(vec![proto::MovedMessage { headers: Bytes::from_static(b"?"), ..wrong }]);
        assert!(matches!(error, WireError::Field { field: "headers", .. }), "{error}");
    }
}

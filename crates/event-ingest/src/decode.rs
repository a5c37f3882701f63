//! From a message to an event that may be stored, or to the reason why not.

use broker::Received;
use domain::event::{AcceptedEvent, Circumstances, NotAccepted, Rejection, RejectionCode, accept_json};
use ring::rand::SystemRandom;
use service::Clock;
use wire::platform_event::accept_protobuf;
use wire::{JSON, PROTOBUF};

/// An event, or why there is none.
pub(crate) type Decoded = Result<AcceptedEvent, NotAccepted>;

/// Checks messages.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    events_exchange: String,
    clock: Clock,
    random: SystemRandom,
}

impl Decoder {
    /// Checks messages; the routing key of those published to `events_exchange` has to be the event's type.
    pub(crate) fn new(events_exchange: String, clock: Clock, random: SystemRandom) -> Self {
        Self { events_exchange, clock, random }
    }

    /// Checks a message that came over AMQP.
    pub(crate) fn decode(&self, message: &Received) -> Decoded {
        // What was put straight on the queue has the queue's name as its routing key.
        let is_published = message.exchange == self.events_exchange;
        let circumstances = Circumstances {
            routing_key: is_published.then_some(message.routing_key.as_str()),
            message_id: message.message_id.as_deref(),
            ..self.circumstances()
        };
        check_encoding(message.content_encoding.as_deref())?;
        match Format::of(message.content_type.as_deref())? {
            Format::Json => accept_json(&message.body, circumstances),
            Format::Protobuf => accept_protobuf(&message.body, circumstances),
        }
    }

    /// Checks an event that came over HTTP.
    pub(crate) fn decode_json(&self, json: &[u8]) -> Decoded {
        accept_json(json, self.circumstances())
    }

    fn circumstances(&self) -> Circumstances<'_> {
        let now = self.clock.now();
        Circumstances { now, random: &self.random, routing_key: None, message_id: None }
    }
}

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Protobuf,
}

impl Format {
    /// Reads a MIME type; parameters such as `charset` say nothing new about either format. A message without one is
    /// not guessed at.
    fn of(content_type: Option<&str>) -> Result<Self, Rejection> {
        let name = essence(content_type.unwrap_or_default());
        if name.eq_ignore_ascii_case(JSON) {
            return Ok(Self::Json);
        }
        if name.eq_ignore_ascii_case(PROTOBUF) {
            return Ok(Self::Protobuf);
        }
        let found = match content_type {
            None => "there is none".to_owned(),
            Some(found) => format!("it is `{}`", shortened(found)),
        };
        let message = format!("content_type must be {JSON} or {PROTOBUF}, {found}");
        Err(Rejection::of_document(RejectionCode::UnsupportedContentType, message))
    }
}

/// A MIME type without its parameters.
pub(crate) fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn check_encoding(encoding: Option<&str>) -> Result<(), Rejection> {
    match encoding.map(str::trim) {
        None | Some("") => Ok(()),
        Some(encoding) if encoding.eq_ignore_ascii_case("identity") => Ok(()),
        Some(encoding) => {
            let encoding = shortened(encoding);
            let message = format!("content_encoding must be absent or identity, it is `{encoding}`");
            Err(Rejection::of_document(RejectionCode::UnsupportedContentEncoding, message))
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// Any text, and those that lead further in.
    fn header(known: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
        prop::option::of(prop_oneof![prop::sample::select(known).prop_map(str::to_owned), "\\PC{0,20}"])
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(
            body in prop::collection::vec(any::<u8>(), 0..300),
            content_type in header(&[JSON, PROTOBUF]),
            content_encoding in header(&["identity", ""]),
            message_id in header(&["order-1"]),
            routing_key in "\\PC{0,200}",
        ) {
            let exchange = "lokroom.events".to_owned();
            let decoder = Decoder::new(exchange.clone(), Clock::system(), SystemRandom::new());
            let _ = decoder.decode_json(&body);
            let _ = decoder.decode(&Received {
                body: Bytes::from(body),
                exchange,
                routing_key,
                content_type,
                content_encoding,
                message_id,
                headers: broker::Headers::default(),
                redelivered: false,
                may_be_copy: false,
                delivery_count: 0,
            });
        }
    }

    #[test]
    fn formats_are_told_by_the_content_type_alone() {
        for json in ["application/json", "Application/JSON", "application/json; charset=utf-8"] {
            assert_eq!(Format::of(Some(json)), Ok(Format::Json), "{json}");
        }
        assert_eq!(Format::of(Some("application/x-protobuf")), Ok(Format::Protobuf));
        for other in [None, Some(""), Some("text/plain"), Some("application/jsonl"), Some(";")] {
            let rejection = Format::of(other).unwrap_err();
            assert_eq!(rejection.code(), RejectionCode::UnsupportedContentType, "{other:?}");
            assert!(rejection.to_string().contains("application/x-protobuf"), "{rejection}");
        }
    }

    #[test]
    fn encoded_messages_are_refused() {
        for plain in [None, Some(""), Some("identity"), Some("Identity")] {
            assert_eq!(check_encoding(plain), Ok(()), "{plain:?}");
        }
        let rejection = check_encoding(Some("gzip")).unwrap_err();
        assert_eq!(rejection.code(), RejectionCode::UnsupportedContentEncoding);
    }
}

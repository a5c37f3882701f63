//! What publishers send over AMQP: from a message to an event that may be stored, or to the reason why not.

use broker::Received;
use domain::event::{AcceptedEvent, Circumstances, NotAccepted, Rejection, RejectionCode, accept_json};

use crate::platform_event::accept_protobuf;
use crate::{JSON, PROTOBUF};

/// Most characters of a publisher's property that an error repeats.
const REPEATED_CHARS: usize = 100;

/// Checks a message. Of the circumstances, the time and the randomness count; the message itself says the others. The
/// routing key of a message that came through `events_exchange` has to be the event's type: what was put straight on
/// the queue has the queue's name there.
pub fn accept_message(
    message: &Received,
    events_exchange: &str,
    circumstances: Circumstances<'_>,
) -> Result<AcceptedEvent, NotAccepted> {
    let is_published = message.exchange == events_exchange;
    let circumstances = Circumstances {
        routing_key: is_published.then_some(message.routing_key.as_str()),
        message_id: message.message_id.as_deref(),
        ..circumstances
    };
    check_encoding(message.content_encoding.as_deref())?;
    match Format::of(message.content_type.as_deref())? {
        Format::Json => accept_json(&message.body, circumstances),
        Format::Protobuf => accept_protobuf(&message.body, circumstances),
    }
}

/// A MIME type without its parameters.
pub fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
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
    text.chars().take(REPEATED_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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

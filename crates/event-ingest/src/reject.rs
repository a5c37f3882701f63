//! Messages that are not acceptable, on their way to `lokroom.events.rejected`.

use std::sync::Arc;

use broker::{Confirmed, Message, Received};
use domain::event::Rejection;
use tracing::info;
use wire::Names;
use wire::names::{ERROR_CODE_HEADER, ERROR_HEADER, ROUTING_KEY_HEADER};

use crate::counted::Source;
use crate::outbox::Outbox;
use crate::retry::Stopping;

/// Most bytes of the reason.
const MAX_REASON_BYTES: usize = 2048;

/// Most bytes of the publisher's own headers that go along. The broker refuses a message whose headers do not fit into
/// one frame (128 KiB), and ours have to fit too.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// The queue that rejected messages move to.
#[derive(Clone)]
pub(crate) struct RejectedQueue {
    outbox: Outbox,
    names: Arc<Names>,
}

impl RejectedQueue {
    /// The queue behind this outbox.
    pub(crate) fn new(outbox: Outbox, names: Arc<Names>) -> Self {
        Self { outbox, names }
    }

    /// Moves a message there, whole, with the reason.
    ///
    /// # Errors
    /// The service is stopping and the broker does not confirm.
    pub(crate) async fn put(
        &self,
        received: &Received,
        rejection: &Rejection,
    ) -> Result<Confirmed, Stopping> {
        Source::Amqp.count_rejected(rejection.code());
        let code = rejection.code().as_str();
        let routing_key = received.routing_key.as_str();
        // The reason may name a publisher's keys; it is in the message's headers.
        info!(code, routing_key, bytes = received.body.len(), "message rejected");
        self.outbox.publish(rejected(received, rejection, self.names.rejected_queue())).await
    }
}

/// The message as it is kept: its content, who it was for, and what is wrong with it.
fn rejected(received: &Received, rejection: &Rejection, queue: String) -> Message {
    let mut message = received.forward_to(queue);
    let header_bytes: usize = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if header_bytes > MAX_HEADER_BYTES {
        message.headers = broker::Headers::default();
    }
    message.headers.set(ERROR_CODE_HEADER, rejection.code().as_str());
    message.headers.set(ERROR_HEADER, &bounded(rejection.to_string()));
    message.headers.set(ROUTING_KEY_HEADER, &received.routing_key);
    message
}

fn bounded(mut reason: String) -> String {
    const ELLIPSIS: char = '…';
    if reason.len() > MAX_REASON_BYTES {
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES - ELLIPSIS.len_utf8()));
        reason.push(ELLIPSIS);
    }
    reason
}

#[cfg(test)]
mod tests {
    use broker::Headers;
    use bytes::Bytes;
    use domain::event::RejectionCode;

    use super::*;

    fn received(headers: Headers) -> Received {
        Received {
            body: Bytes::from_static(b"{"),
            exchange: "lokroom.events".into(),
            routing_key: "booking.created".into(),
            content_type: Some("application/json".into()),
            content_encoding: None,
            message_id: Some("order-1".into()),
            headers,
            redelivered: false,
        }
    }

    #[test]
    fn the_message_is_kept_whole_with_its_reason_and_its_routing_key() {
        let mut headers = Headers::default();
        headers.set("trace", "abc");
        headers.set("CC", "elsewhere");
        let rejection = Rejection::of_document(RejectionCode::MalformedJson, "é".repeat(5000));
        let message = rejected(&received(headers), &rejection, "rejected".into());
        assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("", "rejected"));
        assert_eq!(message.body, Bytes::from_static(b"{"));
        assert_eq!(message.message_id.as_deref(), Some("order-1"));
        assert_eq!(message.headers.text("trace").as_deref(), Some("abc"));
        assert_eq!(message.headers.text("CC"), None, "no copies elsewhere");
        assert_eq!(message.headers.text(ERROR_CODE_HEADER).as_deref(), Some("malformed_json"));
        assert_eq!(message.headers.text(ROUTING_KEY_HEADER).as_deref(), Some("booking.created"));
        let reason = message.headers.text(ERROR_HEADER).unwrap();
        assert!(reason.len() <= MAX_REASON_BYTES && reason.ends_with('…'), "{}", reason.len());
    }

    #[test]
    fn headers_that_leave_no_room_for_the_reason_stay_behind() {
        let mut headers = Headers::default();
        headers.set("large", &"x".repeat(100_000));
        let rejection = Rejection::of_document(RejectionCode::TooLarge, "too large");
        let message = rejected(&received(headers), &rejection, "rejected".into());
        assert_eq!(message.headers.text("large"), None);
        assert_eq!(message.headers.text(ERROR_HEADER).as_deref(), Some("too large"));
    }
}

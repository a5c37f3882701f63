//! Messages that are not acceptable, on their way to `lokroom.events.rejected`.

use std::sync::Arc;

use broker::{Confirmed, Message, Received};
use domain::event::Rejection;
use tracing::info;
use wire::Names;
use wire::names::ROUTING_KEY_HEADER;
use wire::rejected::rejected;

use crate::counted::Source;
use crate::outbox::Outbox;
use crate::retry::Stopping;

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
        let message = received.forward_to(self.names.rejected_queue());
        self.publish(message, &received.routing_key, rejection).await
    }

    async fn publish(
        &self,
        message: Message,
        routing_key: &str,
        rejection: &Rejection,
    ) -> Result<Confirmed, Stopping> {
        Source::Amqp.count_rejected(rejection.code());
        let code = rejection.code().as_str();
        // The reason may name a publisher's keys; it is in the message's headers.
        info!(code, routing_key, bytes = message.body.len(), "message rejected");
        self.outbox.publish(letter(message, routing_key, rejection, &self.names)).await
    }
}

/// The message as it is kept: its content, who it was for, and what is wrong with it.
fn letter(message: Message, routing_key: &str, rejection: &Rejection, names: &Names) -> Message {
    rejected(message, names, rejection.code().as_str(), &rejection.to_string())
        .header(ROUTING_KEY_HEADER, routing_key)
}

#[cfg(test)]
mod tests {
    use broker::Headers;
    use bytes::Bytes;
    use domain::event::RejectionCode;
    use wire::names::{ERROR_CODE_HEADER, ERROR_HEADER};

    use super::*;

    fn received(headers: Headers) -> Received {
        let message = Message::to_exchange("lokroom.events", "booking.created", Bytes::from_static(b"{"));
        Message { headers, ..message.content_type("application/json").message_id("order-1") }.into()
    }

    fn of_received(received: &Received, rejection: &Rejection) -> Message {
        let names = Names::default();
        letter(received.forward_to(names.rejected_queue()), &received.routing_key, rejection, &names)
    }

    #[test]
    fn the_message_is_kept_whole_with_its_reason_and_its_routing_key() {
        let mut headers = Headers::default();
        headers.set("trace", "abc");
        headers.set("CC", "elsewhere");
        let rejection = Rejection::of_document(RejectionCode::MalformedJson, "é");
        let message = of_received(&received(headers), &rejection);
        assert_eq!(
            (message.exchange.as_str(), message.routing_key.as_str()),
            ("", "lokroom.events.rejected")
        );
        assert_eq!(message.body, Bytes::from_static(b"{"));
        assert_eq!(message.message_id.as_deref(), Some("order-1"));
        assert_eq!(message.headers.text("trace").as_deref(), Some("abc"));
        assert_eq!(message.headers.text("CC"), None, "no copies elsewhere");
        assert_eq!(message.headers.text(ERROR_CODE_HEADER).as_deref(), Some("malformed_json"));
        assert_eq!(message.headers.text(ROUTING_KEY_HEADER).as_deref(), Some("booking.created"));
        assert_eq!(message.headers.text(ERROR_HEADER).as_deref(), Some("é"));
    }

    #[test]
    fn headers_that_leave_no_room_for_the_reason_stay_behind() {
        let mut headers = Headers::default();
        headers.set("large", &"x".repeat(100_000));
        let rejection = Rejection::of_document(RejectionCode::TooLarge, "too large");
        let message = of_received(&received(headers), &rejection);
        assert_eq!(message.headers.text("large"), None);
        assert_eq!(message.headers.text(ERROR_HEADER).as_deref(), Some("too large"));
    }
}

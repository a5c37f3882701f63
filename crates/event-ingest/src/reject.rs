//! Messages that are not acceptable, on their way to `lokroom.events.rejected`.

use std::sync::Arc;

use broker::{Confirmed, Message, Received};
use domain::body;
use domain::event::Rejection;
use store::NewEvent;
use tracing::info;
use wire::names::ROUTING_KEY_HEADER;
use wire::rejected::rejected;
use wire::{Names, PROTOBUF, platform_event};

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

    /// Puts an event there whose message is gone: written anew, as protobuf.
    ///
    /// # Errors
    /// The service is stopping and the broker does not confirm.
    pub(crate) async fn put_event(
        &self,
        event: &NewEvent,
        rejection: &Rejection,
    ) -> Result<Confirmed, Stopping> {
        self.publish(written_anew(event, &self.names), event.event_type.as_str(), rejection).await
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

/// The event as internal services publish it.
fn written_anew(event: &NewEvent, names: &Names) -> Message {
    let (id, event_type, timestamp) = (event.public_id(), event.event_type, &event.timestamp);
    let data = body::data_of(event_type, timestamp, &event.body).unwrap_or_default();
    let recipients = event.recipients.iter().map(|user| user.as_str().to_owned()).collect();
    let data = event.body.slice_ref(data);
    let encoded = platform_event::encode(id.as_str(), event_type.as_str(), timestamp, recipients, data);
    Message::to_queue(names.rejected_queue(), encoded.into()).content_type(PROTOBUF).message_id(id.as_str())
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
    use domain::EventType;
    use domain::event::{AcceptedEvent, RejectionCode};
    use ring::rand::SystemRandom;
    use service::Clock;
    use testkit::Event;
    use wire::names::{ERROR_CODE_HEADER, ERROR_HEADER};

    use super::*;
    use crate::decode::Decoder;
    use crate::pipeline::to_store;

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
            may_be_copy: false,
            delivery_count: 0,
        }
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

    #[test]
    fn an_event_written_anew_is_the_same_to_whoever_reads_it() {
        let decoder = Decoder::new("lokroom.events".to_owned(), Clock::system(), SystemRandom::new());
        let event = Event::example(EventType::BookingCreated).to("user_1").to("user_2").id("order-1");
        let json = event.timestamp("2024-01-15T10:30:00Z").to_json();
        let first = decoder.decode_json(json.as_bytes()).unwrap();
        let message = written_anew(&to_store(first.clone()), &Names::default());
        let mut again = received(Headers::default());
        again.content_type.clone_from(&message.content_type);
        again.body = message.body;
        let again = decoder.decode(&again).unwrap();
        assert_eq!(AcceptedEvent { id: first.id, ..again }, first);
    }
}

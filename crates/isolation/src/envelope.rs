//! A message as it waits in an isolated queue: itself, and what was known of it.

use broker::{Message, Received};
use bytes::Bytes;

/// How often it failed in isolation.
const FAILURES_HEADER: &str = "x-lok-failures";

/// The exchange it was published to.
const EXCHANGE_HEADER: &str = "x-lok-isolated-exchange";

/// The routing key it was published with.
const ROUTING_KEY_HEADER: &str = "x-lok-isolated-routing-key";

/// Puts a message, or a part of it, into the envelope. What is written there already is written over.
pub(crate) fn close(received: &Received, body: Bytes, isolated_queue: &str, failures: u64) -> Message {
    // An earlier holder may have done part of the work, whether or not the broker knows: the message may have panicked.
    let mut message = received.forward_to(isolated_queue).redelivered();
    message.body = body;
    message
        .header(FAILURES_HEADER, &failures.to_string())
        .header(EXCHANGE_HEADER, &received.exchange)
        .header(ROUTING_KEY_HEADER, &received.routing_key)
}

/// Takes a message out: as it was received from its first queue, and how often it failed since.
pub(crate) fn open(mut received: Received) -> (Received, u64) {
    let mut take = |name| {
        let text = received.headers.text(name);
        received.headers.remove(name);
        text
    };
    let failures = take(FAILURES_HEADER).and_then(|text| text.parse().ok()).unwrap_or(0);
    let (exchange, routing_key) = (take(EXCHANGE_HEADER), take(ROUTING_KEY_HEADER));
    if let (Some(exchange), Some(routing_key)) = (exchange, routing_key) {
        (received.exchange, received.routing_key) = (exchange, routing_key);
    }
    (received, failures)
}

#[cfg(test)]
mod tests {
    use broker::Headers;

    use super::*;

    fn event() -> Received {
        let mut headers = Headers::default();
        headers.set("traceparent", "00-1");
        headers.set(FAILURES_HEADER, "99");
        let message = Message::to_exchange("lokroom.events", "booking.created", Bytes::from_static(b"{}"));
        let message = Message { headers, ..message.content_type("application/json").message_id("order-1") };
        Received { redelivered: true, delivery_count: 3, ..message.into() }
    }

    #[test]
    fn a_message_comes_out_as_it_went_in_and_nobody_else_says_how_often_it_failed() {
        let closed = close(&event(), event().body, "q.isolated", 2);
        assert_eq!((closed.exchange.as_str(), closed.routing_key.as_str()), ("", "q.isolated"));
        let (opened, failures) = open(closed.into());
        assert_eq!(failures, 2);
        assert_eq!((opened.exchange, opened.routing_key), (event().exchange, event().routing_key));
        assert_eq!((opened.body, opened.message_id), (event().body, event().message_id));
        assert_eq!(opened.headers.text("traceparent").as_deref(), Some("00-1"));
        assert_eq!(opened.headers.text(FAILURES_HEADER), None);
    }
}

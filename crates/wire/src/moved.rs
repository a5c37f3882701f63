//! Messages that move from one queue of ours to another: they stay what was published.

use broker::{Message, Received};

/// The exchange it was published to.
const EXCHANGE_HEADER: &str = "x-lok-moved-exchange";

/// The routing key it was published with.
const ROUTING_KEY_HEADER: &str = "x-lok-moved-routing-key";

/// The same message to another queue of ours, with how it was published. What is written there already is written over.
#[must_use]
pub fn moved(received: &Received, queue: impl Into<String>) -> Message {
    received
        .forward_to(queue)
        .header(EXCHANGE_HEADER, &received.exchange)
        .header(ROUTING_KEY_HEADER, &received.routing_key)
}

/// A message that was moved, as it was received from its first queue. Only for queues that nobody else publishes to.
#[must_use]
pub fn as_published(mut received: Received) -> Received {
    let mut take = |name| {
        let text = received.headers.text(name);
        received.headers.remove(name);
        text
    };
    if let (Some(exchange), Some(routing_key)) = (take(EXCHANGE_HEADER), take(ROUTING_KEY_HEADER)) {
        (received.exchange, received.routing_key) = (exchange, routing_key);
    }
    received
}

#[cfg(test)]
mod tests {
    use broker::Headers;
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_message_comes_out_as_it_was_published_however_often_it_moved() {
        let mut headers = Headers::default();
        headers.set("traceparent", "00-1");
        headers.set(ROUTING_KEY_HEADER, "what a publisher says");
        let event = Received {
            body: Bytes::from_static(b"{}"),
            exchange: "lokroom.events".to_owned(),
            routing_key: "booking.created".to_owned(),
            content_type: Some("application/json".to_owned()),
            content_encoding: None,
            message_id: Some("order-1".to_owned()),
            headers,
            redelivered: true,
            may_be_copy: false,
            delivery_count: 3,
        };
        let mut seen = event.clone();
        for queue in ["first", "second"] {
            let message = moved(&seen, queue);
            assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("", queue));
            let Message { exchange, routing_key, body, content_type, content_encoding, message_id, headers } =
                message;
            let received = Received {
                body,
                exchange,
                routing_key,
                content_type,
                content_encoding,
                message_id,
                headers,
                redelivered: true,
                may_be_copy: false,
                delivery_count: 0,
            };
            seen = as_published(received);
            assert_eq!((&seen.exchange, &seen.routing_key), (&event.exchange, &event.routing_key));
            assert_eq!((&seen.body, &seen.message_id), (&event.body, &event.message_id));
            assert_eq!(seen.content_type, event.content_type);
            assert_eq!(seen.headers.text("traceparent").as_deref(), Some("00-1"));
            assert_eq!(seen.headers.text(ROUTING_KEY_HEADER), None);
        }
    }
}

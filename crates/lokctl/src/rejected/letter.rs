//! One rejected message, and where it belongs.

use broker::{Message, REDELIVERED_HEADER, Received};
use domain::limits::MAX_DEPTH;
use domain::{js, limits};
use wire::names::{ERROR_CODE_HEADER, ERROR_HEADER, ROUTING_KEY_HEADER, SOURCE_QUEUE_HEADER};
use wire::{Names, PROTOBUF, platform_event};

/// Headers that tell of the rejection and not of the message; each stands for all that start with it.
const OF_THE_REJECTION: [&str; 8] = [
    ERROR_HEADER,
    ROUTING_KEY_HEADER,
    SOURCE_QUEUE_HEADER,
    "x-death",
    "x-first-death-",
    "x-last-death-",
    "x-delivery-count",
    REDELIVERED_HEADER,
];

/// Where a message is put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// An event, to the exchange with this routing key.
    Exchange {
        /// The event type.
        routing_key: String,
    },
    /// A message between the services, to the queue it was taken from.
    Queue(String),
}

/// A message in the rejected queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Letter<'a> {
    pub(super) received: &'a Received,
    names: &'a Names,
}

impl<'a> Letter<'a> {
    pub(super) fn new(received: &'a Received, names: &'a Names) -> Self {
        Self { received, names }
    }

    fn header(&self, name: &str) -> Option<String> {
        self.received.headers.text(name)
    }

    /// What kind of wrong it is.
    pub(super) fn code(&self) -> String {
        let poison = || self.received.headers.first_death_queue().map(|_| "poison".to_owned());
        self.header(ERROR_CODE_HEADER).or_else(poison).unwrap_or_else(|| "?".to_owned())
    }

    /// What is wrong, in words.
    pub(super) fn reason(&self) -> String {
        let poison = || {
            let queue = self.received.headers.first_death_queue()?;
            Some(format!("came back to {queue} too often without being acknowledged"))
        };
        self.header(ERROR_HEADER).or_else(poison).unwrap_or_else(|| "no reason is given".to_owned())
    }

    /// The queue of messages between our own services that it was taken from; `None` for events. Of a shard's queue the first
    /// shard's: whatever became of the shard, that is worked off.
    fn internal_queue(&self) -> Option<String> {
        let queue = self.header(SOURCE_QUEUE_HEADER).or_else(|| self.received.headers.first_death_queue())?;
        (queue != self.names.ingest_queue()).then(|| self.names.in_first_shard(&queue).to_owned())
    }

    /// The event's id, from the properties or the payload.
    pub(super) fn id(&self) -> Option<String> {
        self.received.message_id.clone().or_else(|| self.field("id"))
    }

    /// The routing key, or the queue for messages between the services.
    pub(super) fn subject(&self) -> String {
        match self.destination() {
            Some(Destination::Exchange { routing_key }) => routing_key,
            Some(Destination::Queue(queue)) => queue,
            None => "?".to_owned(),
        }
    }

    /// Where it belongs; `None` when neither its headers nor its payload tell.
    pub(super) fn destination(&self) -> Option<Destination> {
        if let Some(queue) = self.internal_queue() {
            return Some(Destination::Queue(queue));
        }
        let routing_key = self.header(ROUTING_KEY_HEADER).or_else(|| self.event())?;
        Some(Destination::Exchange { routing_key })
    }

    /// The event type that the payload names.
    fn event(&self) -> Option<String> {
        match self.received.content_type.as_deref() {
            Some(PROTOBUF) => platform_event::event_name(&self.received.body),
            _ => self.field("event"),
        }
    }

    fn field(&self, name: &str) -> Option<String> {
        json_field(&self.received.body, name)
    }

    /// The same message on its way back, without what tells of the rejection.
    pub(super) fn put_back(&self, destination: &Destination) -> Message {
        let mut message = match destination {
            Destination::Exchange { routing_key } => {
                let mut message = self.received.forward_to(routing_key);
                message.exchange = self.names.events_exchange();
                message
            }
            Destination::Queue(queue) => self.received.forward_to(queue),
        };
        for name in OF_THE_REJECTION {
            message.headers.remove_starting_with(name);
        }
        match destination {
            Destination::Exchange { .. } => message,
            // Whoever worked on it may have done part of the work.
            Destination::Queue(_) => message.redelivered(),
        }
    }
}

/// A text field of a JSON object, where it is one.
pub(super) fn json_field(body: &[u8], name: &str) -> Option<String> {
    if body.len() > limits::MAX_MESSAGE_BYTES {
        return None;
    }
    let value = js::parse(body, MAX_DEPTH).ok()?;
    value.as_object()?.get(name)?.as_str().map(str::to_owned)
}

/// Text from outside, safe for a terminal: control characters escaped.
pub(super) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// The first `max` characters, with an ellipsis where there were more.
pub(super) fn shortened(text: &str, max: usize) -> String {
    let text = printable(text);
    match text.char_indices().nth(max) {
        Some(_) => text.chars().take(max.saturating_sub(1)).chain(['…']).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use wire::names::ERROR_CODE_HEADER;

    use super::*;

    fn received(body: &'static str, headers: &[(&str, &str)]) -> Received {
        let message = Message::to_queue("t.lokroom.events.rejected", Bytes::from_static(body.as_bytes()));
        let message = message.content_type(wire::JSON);
        headers.iter().fold(message, |message, (name, value)| message.header(name, value)).into()
    }

    fn exchange(routing_key: &str) -> Destination {
        Destination::Exchange { routing_key: routing_key.to_owned() }
    }

    #[test]
    fn an_event_goes_back_with_its_first_routing_key_or_else_with_its_own_type() {
        let names = Names::new("t.");
        let with_header = received(r#"{"event":"other"}"#, &[(ROUTING_KEY_HEADER, "booking.created")]);
        assert_eq!(Letter::new(&with_header, &names).destination(), Some(exchange("booking.created")));
        let without = received(r#"{"event":"booking.created"}"#, &[]);
        assert_eq!(Letter::new(&without, &names).destination(), Some(exchange("booking.created")));
        let unreadable = received("nonsense", &[]);
        assert_eq!(Letter::new(&unreadable, &names).destination(), None);
    }

    #[test]
    fn poison_goes_back_to_its_queue_except_events_which_go_through_the_exchange() {
        let names = Names::new("t.");
        let headers = [("x-first-death-queue", "t.webhooks.deliver")];
        let job = received("…", &headers);
        let letter = Letter::new(&job, &names);
        assert_eq!(letter.destination(), Some(Destination::Queue("t.webhooks.deliver".to_owned())));
        assert_eq!(letter.code(), "poison");
        let of_shard = received("…", &[("x-first-death-queue", "t.webhooks.deliver.s3")]);
        let destination = Letter::new(&of_shard, &names).destination();
        assert_eq!(destination, Some(Destination::Queue("t.webhooks.deliver".to_owned())));
        let event = received(r#"{"event":"booking.created"}"#, &[("x-first-death-queue", "t.ingest.events")]);
        assert_eq!(Letter::new(&event, &names).destination(), Some(exchange("booking.created")));
        let set_aside = received("…", &[(SOURCE_QUEUE_HEADER, "t.webhooks.fanout")]);
        let destination = Letter::new(&set_aside, &names).destination();
        assert_eq!(destination, Some(Destination::Queue("t.webhooks.fanout".to_owned())));
    }

    #[test]
    fn what_tells_of_the_rejection_stays_behind_and_the_rest_goes_along() {
        let names = Names::new("t.");
        let headers = [
            (ERROR_CODE_HEADER, "schema_violation"),
            (ERROR_HEADER, "…"),
            (ROUTING_KEY_HEADER, "booking.created"),
            ("x-death", "…"),
            ("traceparent", "00-1"),
        ];
        let event = received("{}", &headers);
        let letter = Letter::new(&event, &names);
        let message = letter.put_back(&letter.destination().unwrap());
        assert_eq!(
            (message.exchange.as_str(), message.routing_key.as_str()),
            ("t.lokroom.events", "booking.created")
        );
        let left: Vec<_> = message.headers.iter().collect();
        assert_eq!(left, [("traceparent".to_owned(), "00-1".to_owned())]);
    }

    #[test]
    fn a_message_between_our_services_goes_back_as_one_that_may_be_half_done_and_an_event_as_it_was() {
        let names = Names::new("t.");
        let job = received("…", &[(SOURCE_QUEUE_HEADER, "t.webhooks.deliver")]);
        let letter = Letter::new(&job, &names);
        let message = letter.put_back(&letter.destination().unwrap());
        assert!(message.headers.text(REDELIVERED_HEADER).is_some(), "{message:?}");
        let headers = [(SOURCE_QUEUE_HEADER, "t.ingest.events"), (ROUTING_KEY_HEADER, "booking.created")];
        let event = received("{}", &headers);
        let event = Received { redelivered: true, ..event };
        let letter = Letter::new(&event, &names);
        let message = letter.put_back(&letter.destination().unwrap());
        assert_eq!(message.headers.iter().count(), 0, "{message:?}");
        assert_eq!(message.exchange, "t.lokroom.events");
    }

    #[test]
    fn what_is_shown_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb"), "a\\u{1b}[31mb");
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(shortened("abcd", 4), "abcd");
    }
}

//! From a message to an event that may be stored, or to the reason why not: the rules are `wire`'s and `domain`'s.

use broker::Received;
use domain::EventId;
use domain::event::{AcceptedEvent, Circumstances, NotAccepted, accept_json};
use ring::rand::SystemRandom;
use service::Clock;
use wire::published::accept_message;

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

    /// Checks a message that came over AMQP. One that moved keeps the id that its event got then, and the time: checked again, it
    /// is the same event.
    pub(crate) fn decode(&self, message: &Received, moved: Option<EventId>) -> Decoded {
        let now = moved.map_or_else(|| self.clock.now(), EventId::accepted_at);
        let circumstances = Circumstances { now, ..self.circumstances() };
        let event = accept_message(message, &self.events_exchange, circumstances)?;
        Ok(AcceptedEvent { id: moved.unwrap_or(event.id), ..event })
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

#[cfg(test)]
mod tests {
    use broker::Message;
    use domain::EventType::BookingCreated;
    use testkit::Event;

    use super::*;

    #[test]
    fn what_moved_is_the_event_that_it_was_when_it_moved() {
        let (clock, random) = (Clock::system(), SystemRandom::new());
        let body = Event::example(BookingCreated).to("user_1").to_json();
        let message = Message::to_exchange("lokroom.events", "booking.created", body.into());
        let received = message.content_type(wire::JSON).into();
        let before = clock.now() - std::time::Duration::from_secs(3600);
        let id = EventId::generate(before, &random).unwrap();
        let decoder = Decoder::new("lokroom.events".to_owned(), clock, random);
        let event = decoder.decode(&received, Some(id)).unwrap();
        assert_eq!(
            (event.id, event.timestamp.instant()),
            (id, id.accepted_at()),
            "it has no time of its own"
        );
        assert_ne!(decoder.decode(&received, None).unwrap().id, id);
    }
}

//! From a message to an event that may be stored, or to the reason why not: the rules are `wire`'s and `domain`'s.

use broker::Received;
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

    /// Checks a message that came over AMQP.
    pub(crate) fn decode(&self, message: &Received) -> Decoded {
        accept_message(message, &self.events_exchange, self.circumstances())
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

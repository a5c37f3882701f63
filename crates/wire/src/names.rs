//! The names that others rely on (contract, *Publishing events*), and our own queues'.

use std::time::Duration;

/// The rejection's code, on messages in `lokroom.events.rejected`.
pub const ERROR_CODE_HEADER: &str = "x-lok-error-code";

/// What was wrong and where, in words, on messages in `lokroom.events.rejected`.
pub const ERROR_HEADER: &str = "x-lok-error";

/// The routing key that a message in `lokroom.events.rejected` was published with.
pub const ROUTING_KEY_HEADER: &str = "x-lok-routing-key";

/// The queue a message was taken from, on messages of our own that were set aside in `lokroom.events.rejected`: where
/// it can be put back.
pub const SOURCE_QUEUE_HEADER: &str = "x-lok-source-queue";

/// Says of an event's message that it may have been a copy and has waited: whoever had the other has written by now what
/// there is to say.
pub const WAITED_HEADER: &str = "x-lok-waited";

/// Exchange and queue names, each with the configured prefix, so that several stacks can share a broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Names that start with `prefix` (`amqp.prefix`; may be empty).
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The topic exchange that internal services publish to; the routing key is the event type.
    pub fn events_exchange(&self) -> String {
        self.name("lokroom.events")
    }

    /// Published events on their way to event-ingest.
    pub fn ingest_queue(&self) -> String {
        self.name("ingest.events")
    }

    /// Messages that could not be accepted, whole, with the reason in their headers.
    pub fn rejected_queue(&self) -> String {
        self.name("lokroom.events.rejected")
    }

    /// Stored events on their way to a dispatcher.
    pub fn fan_out_queue(&self) -> String {
        self.name("webhooks.fanout")
    }

    /// Attempts to be made now.
    pub fn deliver_queue(&self) -> String {
        self.name("webhooks.deliver")
    }

    /// Messages of a work queue that made its consumers fail, or may have: they are worked off one at a time.
    pub fn isolated_queue(&self, queue: &str) -> String {
        format!("{queue}.isolated")
    }

    /// Attempts to be made after `delay`.
    pub fn retry_queue(&self, delay: Duration) -> String {
        self.name(&format!("webhooks.retry.{}", delay_text(delay)))
    }

    /// Attempts over a webhook's in-flight bound, coming back after `delay`.
    pub fn park_queue(&self, delay: Duration) -> String {
        self.name(&format!("webhooks.park.{}", delay_text(delay)))
    }

    /// Events that may be in somebody's hands, coming back after `delay`.
    pub fn fan_out_park_queue(&self, delay: Duration) -> String {
        self.name(&format!("webhooks.fanout.park.{}", delay_text(delay)))
    }

    /// Deliveries that failed for good: a bounded feed for operators; the truth is in the database.
    pub fn dead_queue(&self) -> String {
        self.name("webhooks.dead")
    }
}

/// A delay as queue names spell it: `60s`, or `1500ms` where it is not whole seconds.
fn delay_text(delay: Duration) -> String {
    match delay.subsec_millis() {
        0 => format!("{}s", delay.as_secs()),
        _ => format!("{}ms", delay.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_contracts_behind_the_prefix() {
        let names = Names::default();
        assert_eq!(names.events_exchange(), "lokroom.events");
        assert_eq!(names.rejected_queue(), "lokroom.events.rejected");
        assert_eq!(names.retry_queue(Duration::from_secs(60)), "webhooks.retry.60s");
        assert_eq!(names.retry_queue(Duration::from_secs(300)), "webhooks.retry.300s");
        assert_eq!(names.retry_queue(Duration::from_millis(1500)), "webhooks.retry.1500ms");
        assert_eq!(Names::new("t1.").deliver_queue(), "t1.webhooks.deliver");
    }
}

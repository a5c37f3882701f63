//! The names that others rely on (contract, *Publishing events*), and our own queues'.

use std::time::Duration;

use domain::WebhookId;
use domain::shard::{Shard, Shards};

use crate::FanOutEvent;

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
///
/// The queues between event-ingest and a dispatcher's request may be several of a kind, *shards*, because a quorum queue is
/// one process and one log in the broker: see [`ShardNames`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    prefix: String,
    shards: Shards,
    drained: Shards,
}

impl Names {
    /// Names that start with `prefix` (`amqp.prefix`; may be empty), with one shard.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    /// With so many shards that messages are published to.
    #[must_use]
    pub fn with_shards(self, shards: Shards) -> Self {
        Self { shards, ..self }
    }

    /// With so many shards that are worked off at least: there were more before, and messages may be left in them.
    #[must_use]
    pub fn draining(self, drained: Shards) -> Self {
        Self { drained, ..self }
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

    /// Events of users who get more than others have to wait for, checked and not stored yet: worked off after
    /// [`Names::ingest_queue`].
    pub fn bulk_queue(&self) -> String {
        self.name("ingest.events.bulk")
    }

    /// Messages that could not be accepted, whole, with the reason in their headers.
    pub fn rejected_queue(&self) -> String {
        self.name("lokroom.events.rejected")
    }

    /// Stored events on their way to a dispatcher: the first shard's queue, which gives the stage its name.
    pub fn fan_out_queue(&self) -> String {
        self.first().fan_out_queue()
    }

    /// Attempts to be made now: the first shard's queue, which gives the stage its name.
    pub fn deliver_queue(&self) -> String {
        self.first().deliver_queue()
    }

    /// Messages of a stage that made its consumers fail, or may have: they are worked off one at a time. One queue for all
    /// shards.
    pub fn isolated_queue(&self, queue: &str) -> String {
        format!("{queue}.isolated")
    }

    /// Deliveries that failed for good: a bounded feed for operators; the truth is in the database.
    pub fn dead_queue(&self) -> String {
        self.name("webhooks.dead")
    }

    /// The queues for what concerns this webhook.
    pub fn of_webhook(&self, webhook: WebhookId) -> ShardNames<'_> {
        self.shard(self.shards.of(webhook.uuid()))
    }

    /// The queues for events that travel in one message: the first decides.
    pub fn of_events(&self, events: &[FanOutEvent]) -> ShardNames<'_> {
        self.shard(events.first().map_or(Shard::FIRST, |event| self.shards.of(event.id.uuid())))
    }

    /// The queues of the shard that there always is.
    pub fn first(&self) -> ShardNames<'_> {
        self.shard(Shard::FIRST)
    }

    /// The queues of every shard that is worked off.
    pub fn all_shards(&self) -> impl Iterator<Item = ShardNames<'_>> {
        self.shards.max(self.drained).all().map(|shard| self.shard(shard))
    }

    /// The first shard's queue of the same kind, which there always is.
    pub fn in_first_shard<'a>(&self, queue: &'a str) -> &'a str {
        match queue.rsplit_once(SHARD_MARK) {
            Some((first, number)) if number.parse::<u16>().is_ok() => first,
            _ => queue,
        }
    }

    fn shard(&self, shard: Shard) -> ShardNames<'_> {
        ShardNames { names: self, shard }
    }
}

/// What stands before a shard's number in the name of its queues.
const SHARD_MARK: &str = ".s";

/// The queues of one shard. Those of the first are called as if there were no other, so that a platform can grow.
#[derive(Debug, Clone, Copy)]
pub struct ShardNames<'a> {
    names: &'a Names,
    shard: Shard,
}

impl ShardNames<'_> {
    fn name(&self, name: &str) -> String {
        match self.shard.number() {
            0 => self.names.name(name),
            number => self.names.name(&format!("{name}{SHARD_MARK}{number}")),
        }
    }

    /// Stored events on their way to a dispatcher.
    pub fn fan_out_queue(&self) -> String {
        self.name("webhooks.fanout")
    }

    /// Attempts to be made now.
    pub fn deliver_queue(&self) -> String {
        self.name("webhooks.deliver")
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
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use domain::{EventId, EventType, PublicEventId};
    use uuid::Uuid;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn names_are_the_contracts_behind_the_prefix() {
        let names = Names::default();
        assert_eq!(names.events_exchange(), "lokroom.events");
        assert_eq!(names.rejected_queue(), "lokroom.events.rejected");
        assert_eq!(names.first().retry_queue(MINUTE), "webhooks.retry.60s");
        assert_eq!(names.first().retry_queue(5 * MINUTE), "webhooks.retry.300s");
        assert_eq!(names.first().retry_queue(Duration::from_millis(1500)), "webhooks.retry.1500ms");
        assert_eq!(Names::new("t1.").deliver_queue(), "t1.webhooks.deliver");
    }

    #[test]
    fn the_first_shard_is_called_as_if_there_were_no_other() {
        let (one, four) = (Names::new("t."), Names::new("t.").with_shards(Shards::new(4)));
        let queues = |names: &Names| -> Vec<Vec<String>> {
            let of_shard = |shard: ShardNames<'_>| {
                let (now, waiting) = (
                    [shard.fan_out_queue(), shard.deliver_queue()],
                    [shard.retry_queue(MINUTE), shard.park_queue(MINUTE), shard.fan_out_park_queue(MINUTE)],
                );
                now.into_iter().chain(waiting).collect()
            };
            names.all_shards().map(of_shard).collect()
        };
        let [alone] = &queues(&one)[..] else { panic!("one shard") };
        let [first, second, _, last] = &queues(&four)[..] else { panic!("four shards") };
        assert_eq!(first, alone);
        assert_eq!(
            second,
            &[
                "t.webhooks.fanout.s1",
                "t.webhooks.deliver.s1",
                "t.webhooks.retry.60s.s1",
                "t.webhooks.park.60s.s1",
                "t.webhooks.fanout.park.60s.s1",
            ]
        );
        assert_eq!(last[1], "t.webhooks.deliver.s3");
        for (queue, of_first) in second.iter().zip(first) {
            assert_eq!(
                (four.in_first_shard(queue), four.in_first_shard(of_first)),
                (&**of_first, &**of_first)
            );
        }
        for other in ["t.s1webhooks.deliver", "webhooks.deliver.sx", "webhooks.deliver.s", "lokroom.events"] {
            assert_eq!(four.in_first_shard(other), other);
        }
    }

    #[test]
    fn what_concerns_a_webhook_or_an_event_always_goes_the_same_way_and_all_ways_are_taken() {
        let names = Names::default().with_shards(Shards::new(4));
        let ways: BTreeSet<_> = (0..100)
            .map(|n| names.of_webhook(WebhookId::from_uuid(Uuid::from_u128(n))).deliver_queue())
            .collect();
        let all: BTreeSet<_> = names.all_shards().map(|shard| shard.deliver_queue()).collect();
        assert_eq!(ways, all);

        let ways: BTreeSet<_> =
            (0..100).map(|n| names.of_events(&[event(n), event(n + 1)]).fan_out_queue()).collect();
        let all: BTreeSet<_> = names.all_shards().map(|shard| shard.fan_out_queue()).collect();
        assert_eq!(ways, all);
        for n in 0..100 {
            let alone = names.of_events(&[event(n)]).fan_out_queue();
            assert_eq!(
                names.of_events(&[event(n), event(n + 1)]).fan_out_queue(),
                alone,
                "the first decides"
            );
        }
        assert_eq!(names.of_events(&[]).fan_out_queue(), "webhooks.fanout");
    }

    #[test]
    fn shards_that_were_published_to_before_are_still_worked_off() {
        let names = Names::default().with_shards(Shards::new(2)).draining(Shards::new(4));
        assert_eq!(names.all_shards().count(), 4);
        for n in 0..100 {
            let way = names.of_webhook(WebhookId::from_uuid(Uuid::from_u128(n))).shard;
            assert!(way.number() < 2, "{way:?}");
        }
        let names = names.with_shards(Shards::new(8));
        assert_eq!(names.all_shards().count(), 8);
    }

    fn event(n: u128) -> FanOutEvent {
        FanOutEvent {
            id: EventId::from_uuid(Uuid::from_u128(n)),
            public_id: PublicEventId::parse("order-1").unwrap(),
            event_type: EventType::BookingCreated,
            timestamp: "2024-01-15T10:30:00Z".into(),
            recipients: Vec::new(),
            body: Bytes::new(),
        }
    }
}

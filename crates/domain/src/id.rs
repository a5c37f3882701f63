//! Typed ids. Ours are UUIDv7 with a TypeID text form (`webhook_01h455vb4pex5vsknk084sn02q`); those of
//! others (users, publishers' event ids) are checked text.

use std::fmt;
use std::str::FromStr;

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use type_safe_id::{DynamicType, TypeSafeId};
use uuid::Uuid;

use crate::timestamp::Timestamp;

/// The text is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind} id: expected `{kind}_` followed by 26 characters")]
pub struct InvalidId {
    kind: &'static str,
}

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random number generator failed")]
pub struct NoRandomness;

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The prefix of the text form.
            pub const PREFIX: &'static str = $prefix;

            /// The id that a stored or transmitted UUID stands for.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The bare UUID, for storage and transport.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_type_id(f, $prefix, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_type_id($prefix, text).map(Self)
            }
        }
    };
}

typed_id!(
    /// A developer's webhook: one URL with its subscriptions.
    WebhookId,
    "webhook"
);
typed_id!(
    /// One event to one webhook, with all its attempts.
    DeliveryId,
    "delivery"
);
typed_id!(
    /// An accepted event. Orders and partitions what is stored; publishers and receivers see the
    /// [`PublicEventId`].
    EventId,
    "event"
);

fn write_type_id(f: &mut fmt::Formatter<'_>, prefix: &'static str, uuid: Uuid) -> fmt::Result {
    let kind = DynamicType::new(prefix).map_err(|_| fmt::Error)?;
    fmt::Display::fmt(&TypeSafeId::from_type_and_uuid(kind, uuid), f)
}

fn parse_type_id(prefix: &'static str, text: &str) -> Result<Uuid, InvalidId> {
    let invalid = InvalidId { kind: prefix };
    let id: TypeSafeId<DynamicType> = text.parse().map_err(|_| invalid.clone())?;
    if id.type_prefix() == prefix { Ok(id.uuid()) } else { Err(invalid) }
}

impl WebhookId {
    /// A new webhook's id.
    pub fn generate(now: Timestamp, random: &SystemRandom) -> Result<Self, NoRandomness> {
        uuid_v7(now, random).map(Self)
    }
}

impl EventId {
    /// A newly accepted event's id.
    pub fn generate(now: Timestamp, random: &SystemRandom) -> Result<Self, NoRandomness> {
        uuid_v7(now, random).map(Self)
    }

    /// When it was accepted, to the millisecond.
    pub fn accepted_at(self) -> Timestamp {
        let millis = i64::try_from(unix_millis(self.0)).unwrap_or(i64::MAX);
        Timestamp::from_timestamp_millis(millis).unwrap_or(Timestamp::MAX_UTC)
    }
}

impl DeliveryId {
    /// The id of an event's delivery to a webhook: a function of the two, so that fanning an event out
    /// again finds the same delivery. It carries the event's time, so that both lie in the partition
    /// of the same day.
    pub fn of(event: EventId, webhook: WebhookId) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(event.0.as_bytes());
        context.update(webhook.0.as_bytes());
        let hash = context.finish();

        let mut random = [0; 10];
        random.copy_from_slice(&hash.as_ref()[..10]);
        Self(uuid::Builder::from_unix_timestamp_millis(unix_millis(event.0), &random).into_uuid())
    }
}

/// The milliseconds since the Unix epoch inside a UUIDv7 (RFC 9562 §5.7).
pub fn unix_millis(uuid: Uuid) -> u64 {
    let mut millis = [0; 8];
    millis[2..].copy_from_slice(&uuid.as_bytes()[..6]);
    u64::from_be_bytes(millis)
}

/// The smallest UUIDv7 of an instant: the bound of a partition.
pub fn first_uuid_at(at: Timestamp) -> Uuid {
    let millis = millis_of(at).to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis[2..]);
    Uuid::from_bytes(bytes)
}

fn uuid_v7(now: Timestamp, random: &SystemRandom) -> Result<Uuid, NoRandomness> {
    let mut bytes = [0; 10];
    random.fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(uuid::Builder::from_unix_timestamp_millis(millis_of(now), &bytes).into_uuid())
}

/// A time before 1970 counts as 1970: UUIDv7 knows no earlier one.
fn millis_of(at: Timestamp) -> u64 {
    u64::try_from(at.timestamp_millis()).unwrap_or(0)
}

/// A text that may not be used as an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidText {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// Longer than allowed.
    #[error("must have at most {max} characters, has {len}")]
    TooLong {
        /// Characters allowed.
        max: usize,
        /// Characters found.
        len: usize,
    },
    /// Holds something else than visible ASCII.
    #[error("must be visible ASCII characters only (0x21 to 0x7E), has {found:?} at position {position}")]
    NotVisibleAscii {
        /// The first other character.
        found: char,
        /// Its position in characters, from 0.
        position: usize,
    },
    /// Holds a control character.
    #[error("must not hold control characters, has {found:?} at position {position}")]
    Control {
        /// The first control character.
        found: char,
        /// Its position in characters, from 0.
        position: usize,
    },
}

/// The event id that publishers give and receivers deduplicate on (`X-Lok-Event-Id`, `webhook-id`):
/// 1…128 visible ASCII characters. Without a publisher's id it is the text of the [`EventId`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicEventId(String);

impl PublicEventId {
    /// The longest id, in characters.
    pub const MAX_LEN: usize = 128;

    /// Checks a publisher's id.
    pub fn parse(text: &str) -> Result<Self, InvalidText> {
        check_length(text, Self::MAX_LEN)?;
        match text.chars().enumerate().find(|(_, c)| !c.is_ascii_graphic()) {
            Some((position, found)) => Err(InvalidText::NotVisibleAscii { found, position }),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The id of an event whose publisher gave none.
    pub fn assigned(event: EventId) -> Self {
        Self(event.to_string())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PublicEventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A Lok'Room user: the `sub` of bearer tokens and the recipient of events. 1…255 characters, no
/// control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

impl UserId {
    /// The longest id, in characters.
    pub const MAX_LEN: usize = 255;

    /// Checks a user id.
    pub fn parse(text: &str) -> Result<Self, InvalidText> {
        check_length(text, Self::MAX_LEN)?;
        match text.chars().enumerate().find(|(_, c)| c.is_control()) {
            Some((position, found)) => Err(InvalidText::Control { found, position }),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_length(text: &str, max: usize) -> Result<(), InvalidText> {
    let len = text.chars().count();
    match len {
        0 => Err(InvalidText::Empty),
        len if len > max => Err(InvalidText::TooLong { max, len }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        DateTime::from_timestamp_millis(millis).unwrap()
    }

    #[test]
    fn the_text_form_is_a_type_id_and_reads_back() {
        let id = WebhookId::generate(at(1_705_314_600_000), &SystemRandom::new()).unwrap();
        let text = id.to_string();
        assert!(text.starts_with("webhook_"), "{text}");
        assert_eq!(text.len(), "webhook_".len() + 26);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(id.uuid().get_version_num(), 7);
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let event = EventId::generate(at(0), &SystemRandom::new()).unwrap();
        assert!(event.to_string().parse::<WebhookId>().is_err());
        for text in ["", "webhook_", "webhook_123", "webhook_8zzzzzzzzzzzzzzzzzzzzzzzzz", "WEBHOOK_x"] {
            assert!(text.parse::<WebhookId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_delivery_id_is_a_function_of_event_and_webhook_with_the_events_time() {
        let random = SystemRandom::new();
        let now = at(1_705_314_600_123);
        let (event, other) =
            (EventId::generate(now, &random).unwrap(), EventId::generate(now, &random).unwrap());
        let webhook = WebhookId::generate(now, &random).unwrap();

        let delivery = DeliveryId::of(event, webhook);
        assert_eq!(delivery, DeliveryId::of(event, webhook));
        assert_ne!(delivery, DeliveryId::of(other, webhook));
        assert_eq!(unix_millis(delivery.uuid()), 1_705_314_600_123);
        assert_eq!(delivery.uuid().get_version_num(), 7);
    }

    #[test]
    fn a_partition_bound_lies_below_every_id_of_its_instant_and_above_all_before() {
        let random = SystemRandom::new();
        let now = at(1_705_314_600_000);
        let id = EventId::generate(now, &random).unwrap().uuid();
        let before = EventId::generate(at(1_705_314_599_999), &random).unwrap().uuid();
        assert!(first_uuid_at(now) < id);
        assert!(before < first_uuid_at(now));
    }

    #[test]
    fn publishers_ids_are_visible_ascii() {
        assert!(PublicEventId::parse("order-42/α").is_err());
        assert_eq!(
            PublicEventId::parse("a b"),
            Err(InvalidText::NotVisibleAscii { found: ' ', position: 1 })
        );
        assert_eq!(PublicEventId::parse(""), Err(InvalidText::Empty));
        assert!(PublicEventId::parse(&"x".repeat(128)).is_ok());
        assert_eq!(PublicEventId::parse(&"x".repeat(129)), Err(InvalidText::TooLong { max: 128, len: 129 }));
    }
}

//! Users, webhooks and events: a pure function of the seed, and with them what has to be delivered.

use domain::timestamp::PublishedTimestamp;
use domain::{EventType, body, js};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use EventType::{BookingCancelled, BookingCreated, ListingUpdated, MessageReceived, PaymentSucceeded};

/// The types that are published.
const TYPES: [EventType; 5] =
    [BookingCreated, BookingCancelled, ListingUpdated, MessageReceived, PaymentSucceeded];

/// Users with webhooks. One more user is an event's recipient now and then and has none.
const USERS: usize = 6;

/// Of a hundred events, how many come over HTTP.
const HTTP_PERCENT: u32 = 20;

/// How a receiver behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Every request succeeds.
    Succeeds,
    /// Some requests are answered with an error.
    Fails,
    /// Some requests are not answered.
    Hangs,
    /// Some connections are reset.
    Resets,
}

/// A webhook that is going to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebhookPlan {
    /// Its owner.
    pub(crate) user: String,
    /// What it subscribes to.
    pub(crate) types: Vec<EventType>,
    /// How its receiver behaves.
    pub(crate) manner: Manner,
}

impl WebhookPlan {
    /// Whether this event has to be delivered to it (guide: the recipients' webhooks that subscribe to the type).
    pub(crate) fn wants(&self, event: &EventPlan) -> bool {
        event.recipients.contains(&self.user) && self.types.contains(&event.event_type)
    }
}

/// The webhooks: of each user one for every type, one for one type alone and one for some, in every manner.
pub(crate) fn webhooks() -> Vec<WebhookPlan> {
    let manners = [Manner::Succeeds, Manner::Fails, Manner::Hangs, Manner::Resets];
    let mut webhooks = Vec::new();
    for user in 0..USERS {
        let one = user % TYPES.len();
        let subscriptions =
            [TYPES.to_vec(), vec![TYPES[one]], vec![TYPES[one], TYPES[(one + 1) % TYPES.len()]]];
        for (n, types) in subscriptions.into_iter().enumerate() {
            let manner = manners[(user + n) % manners.len()];
            webhooks.push(WebhookPlan { user: user_name(user), types, manner });
        }
    }
    webhooks
}

fn user_name(n: usize) -> String {
    format!("user_{n}")
}

/// How an event is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the broker.
    Amqp,
    /// `POST /v1/events`.
    Http,
}

/// An event that is going to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventPlan {
    /// Its id.
    pub(crate) id: String,
    /// Its type.
    pub(crate) event_type: EventType,
    /// Whom it concerns.
    pub(crate) recipients: Vec<String>,
    /// How it is published.
    pub(crate) way: Way,
}

/// The timestamp of every event.
const TIMESTAMP: &str = "2024-01-15T10:30:00Z";

impl EventPlan {
    /// The event with this number.
    pub(crate) fn of(seed: u64, number: u64) -> Self {
        let mut random = StdRng::seed_from_u64(mix(&[seed, number]));
        let users: Vec<usize> = (0..=USERS).collect();
        let count = random.random_range(1..=2);
        let recipients = users.choose_multiple(&mut random, count).map(|user| user_name(*user)).collect();
        let way = if random.random_range(0..100) < HTTP_PERCENT { Way::Http } else { Way::Amqp };
        let event_type = TYPES[random.random_range(0..TYPES.len())];
        Self { id: format!("chaos-{seed}-{number}"), event_type, recipients, way }
    }

    /// What is published.
    pub(crate) fn event(&self) -> testkit::Event {
        let mut data = String::new();
        js::Value::Object(self.data()).write(&mut data);
        let event = testkit::Event::example(self.event_type).id(&self.id).timestamp(TIMESTAMP).data(data);
        self.recipients.iter().fold(event, |event, user| event.to(user))
    }

    /// The bytes that every receiver has to get.
    pub(crate) fn body(&self) -> String {
        #[expect(clippy::expect_used, reason = "a constant, read by every test")]
        let timestamp = PublishedTimestamp::parse(TIMESTAMP).expect("a valid timestamp");
        body::build(self.event_type, &timestamp, &self.data())
    }

    fn data(&self) -> js::Object<'static> {
        let mut data = self.event_type.example().clone();
        data.insert("chaos".into(), js::Value::String(self.id.clone().into()));
        data
    }
}

/// One number of several, the same on every machine (`SplitMix64`).
pub(crate) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |state, part| {
        let mut z = (state ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_events_again_and_another_seed_others() {
        assert_eq!(EventPlan::of(1, 5), EventPlan::of(1, 5));
        assert_ne!(EventPlan::of(1, 5).id, EventPlan::of(2, 5).id);
    }

    #[test]
    fn events_differ_in_type_way_and_recipients() {
        let events: Vec<_> = (0..500).map(|number| EventPlan::of(1, number)).collect();
        for event_type in TYPES {
            assert!(events.iter().any(|event| event.event_type == event_type));
        }
        for way in [Way::Amqp, Way::Http] {
            assert!(events.iter().any(|event| event.way == way));
        }
        assert!(events.iter().any(|event| event.recipients.len() == 2));
        assert!(events.iter().any(|event| !webhooks().iter().any(|webhook| webhook.wants(event))));
    }

    #[test]
    fn a_webhook_wants_what_concerns_its_user_and_what_it_subscribes_to() {
        let webhook =
            WebhookPlan { user: "user_1".to_owned(), types: vec![BookingCreated], manner: Manner::Succeeds };
        let event = |event_type, user: &str| EventPlan {
            id: "id".to_owned(),
            event_type,
            recipients: vec!["user_9".to_owned(), user.to_owned()],
            way: Way::Amqp,
        };
        assert!(webhook.wants(&event(BookingCreated, "user_1")));
        assert!(!webhook.wants(&event(BookingCancelled, "user_1")));
        assert!(!webhook.wants(&event(BookingCreated, "user_2")));
    }

    #[test]
    fn webhooks_come_in_every_manner_and_some_for_one_type_alone() {
        for manner in [Manner::Succeeds, Manner::Fails, Manner::Hangs, Manner::Resets] {
            let of_manner: Vec<_> = webhooks().into_iter().filter(|it| it.manner == manner).collect();
            assert!(of_manner.iter().any(|webhook| webhook.types.len() == 1), "{manner:?}");
            assert!(of_manner.iter().any(|webhook| webhook.types.len() == TYPES.len()), "{manner:?}");
        }
    }
}

//! The 11 event types (guide, *Événements disponibles*): description, JSON Schema and example of each.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use jsonschema::Validator;

use crate::js;

macro_rules! catalogue {
    ($($variant:ident, $name:literal, $english:literal, $french:literal;)*) => {
        /// What happened on the platform.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $(#[doc = $english] $variant,)*
        }

        impl EventType {
            /// Every type, in the guide's order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name, as in `event`, `X-Lok-Event` and the routing key.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What it means, in English and in French.
            pub fn descriptions(self) -> Descriptions {
                match self { $(Self::$variant => Descriptions { english: $english, french: $french }),* }
            }

            /// The JSON Schema (Draft 2020-12) of `data`, as text.
            pub fn schema_text(self) -> &'static str {
                match self {
                    $(Self::$variant => {
                        include_str!(concat!("../../../proto-schemas/json/", $name, ".schema.json"))
                    })*
                }
            }

            /// An example of `data`, as text.
            pub fn example_text(self) -> &'static str {
                match self {
                    $(Self::$variant => {
                        include_str!(concat!("../../../proto-schemas/examples/", $name, ".json"))
                    })*
                }
            }
        }
    };
}

catalogue! {
    BookingCreated, "booking.created", "A new booking was created", "Une nouvelle réservation a été créée";
    BookingConfirmed, "booking.confirmed", "A booking was confirmed", "Une réservation a été confirmée";
    BookingCancelled, "booking.cancelled", "A booking was cancelled", "Une réservation a été annulée";
    BookingCompleted, "booking.completed", "A booking is completed", "Une réservation est terminée";
    ListingCreated, "listing.created", "A new listing was created", "Une nouvelle annonce a été créée";
    ListingUpdated, "listing.updated", "A listing was updated", "Une annonce a été mise à jour";
    ListingDeleted, "listing.deleted", "A listing was deleted", "Une annonce a été supprimée";
    ReviewCreated, "review.created", "A new review was published", "Un nouvel avis a été publié";
    MessageReceived, "message.received", "A new message was received", "Un nouveau message a été reçu";
    PaymentSucceeded, "payment.succeeded", "A payment succeeded", "Un paiement a réussi";
    PaymentFailed, "payment.failed", "A payment failed", "Un paiement a échoué";
}

/// What an event type means, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptions {
    /// In English.
    pub english: &'static str,
    /// In French, as in the guide.
    pub french: &'static str,
}

/// Not one of the event types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown event type; known are {}", known_types())]
pub struct UnknownEventType;

fn known_types() -> String {
    EventType::ALL.iter().map(|event| event.as_str()).collect::<Vec<_>>().join(", ")
}

impl FromStr for EventType {
    type Err = UnknownEventType;

    fn from_str(name: &str) -> Result<Self, UnknownEventType> {
        Self::ALL.iter().copied().find(|event| event.as_str() == name).ok_or(UnknownEventType)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One place where `data` does not follow its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The place within `data`.
    pub pointer: String,
    /// What the schema asks for there; never the value found, which may be personal.
    pub message: String,
}

/// What was compiled from a type's schema and example files.
struct Compiled {
    schema: serde_json::Value,
    validator: Validator,
    example: js::Object<'static>,
}

static COMPILED: LazyLock<Vec<Compiled>> =
    LazyLock::new(|| EventType::ALL.iter().map(|event| compile(*event)).collect());

/// The files are part of the program: a broken one is a broken build, found by this module's tests.
#[expect(clippy::expect_used, reason = "the inputs are compiled in and checked by the tests below")]
fn compile(event: EventType) -> Compiled {
    let schema: serde_json::Value = serde_json::from_str(event.schema_text()).expect("schema is JSON");
    let validator = jsonschema::draft202012::new(&schema).expect("schema is a JSON Schema");
    let example = js::parse(event.example_text().as_bytes(), crate::limits::MAX_DEPTH)
        .expect("example is JSON that JavaScript can hold");
    let js::Value::Object(example) = example else { panic!("example is an object") };
    Compiled { schema, validator, example }
}

impl EventType {
    fn compiled(self) -> &'static Compiled {
        &COMPILED[self as usize]
    }

    /// The JSON Schema (Draft 2020-12) of `data`.
    pub fn schema(self) -> &'static serde_json::Value {
        &self.compiled().schema
    }

    /// An example of `data`.
    pub fn example(self) -> &'static js::Object<'static> {
        &self.compiled().example
    }

    /// Where `data` does not follow the type's schema: at most `limit` places.
    pub fn violations(self, data: &serde_json::Value, limit: usize) -> Vec<Violation> {
        self.compiled()
            .validator
            .iter_errors(data)
            .take(limit)
            .map(|error| Violation {
                pointer: error.instance_path().to_string(),
                message: error.masked().to_string(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_the_guides_11_types_and_their_names_read_back() {
        assert_eq!(EventType::ALL.len(), 11);
        for event in EventType::ALL {
            assert_eq!(event.as_str().parse(), Ok(*event));
        }
        assert!("booking.exploded".parse::<EventType>().is_err());
    }

    #[test]
    fn every_example_follows_its_schema() {
        for event in EventType::ALL {
            let data = js::Value::Object(event.example().clone()).to_serde();
            assert_eq!(event.violations(&data, 10), [], "{event}");
            assert_eq!(event.schema()["$schema"], "https://json-schema.org/draft/2020-12/schema", "{event}");
        }
    }

    #[test]
    fn every_required_field_is_required_and_more_fields_are_let_through() {
        for event in EventType::ALL {
            let data = js::Value::Object(event.example().clone()).to_serde();
            let required = event.schema()["required"].as_array().unwrap();
            assert!(required.len() >= 3, "{event}");
            for field in required {
                let mut without = data.clone();
                without.as_object_mut().unwrap().remove(field.as_str().unwrap()).unwrap();
                assert_eq!(event.violations(&without, 10).len(), 1, "{event} without {field}");
            }
            let mut with_more = data;
            with_more["somethingNew"] = serde_json::json!({"nested": [1, 2]});
            assert_eq!(event.violations(&with_more, 10), [], "{event}");
        }
    }

    #[test]
    fn a_violation_names_the_place_and_keeps_the_value_to_itself() {
        let mut data = js::Value::Object(EventType::BookingCreated.example().clone()).to_serde();
        data["totalPrice"] = "secret words".into();
        let violations = EventType::BookingCreated.violations(&data, 10);
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].pointer, "/totalPrice");
        assert!(!violations[0].message.contains("secret words"), "{}", violations[0].message);
        assert!(violations[0].message.contains("number"), "{}", violations[0].message);
    }
}

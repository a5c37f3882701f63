//! A body's events, each as the bytes it was written with.

use std::fmt;

use serde::de::{Deserializer as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::http::problem::Problem;

/// A body's events: one, or an array of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Items<'a>(pub(crate) Vec<&'a str>);

impl<'a> Items<'a> {
    /// Cuts a body into its events without reading them: what is wrong with one is that one's error alone, and each is
    /// read once, just as a message over AMQP is.
    pub(crate) fn of(body: &'a [u8], max_events: usize) -> Result<Self, Problem> {
        let malformed = |reason: String| Problem::MalformedJson { reason };
        let text = std::str::from_utf8(body).map_err(|error| malformed(error.to_string()))?;
        let explain = |error: serde_json::Error| malformed(error.to_string());
        if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('[') {
            let event: &RawValue = serde_json::from_str(text).map_err(explain)?;
            return Ok(Self(vec![event.get()]));
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let (events, count) = reader.deserialize_seq(Events { max_events }).map_err(explain)?;
        reader.end().map_err(explain)?;
        match count {
            0 => Err(Problem::NoEvents),
            _ if count > max_events => Err(Problem::TooManyEvents { found: count, max: max_events }),
            _ => Ok(Self(events)),
        }
    }
}

/// Takes an array's items, and counts those beyond the maximum.
struct Events {
    max_events: usize,
}

impl<'a> Visitor<'a> for Events {
    type Value = (Vec<&'a str>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while events.len() < self.max_events {
            let Some(event) = array.next_element::<&RawValue>()? else {
                let count = events.len();
                return Ok((events, count));
            };
            events.push(event.get());
        }
        let mut count = events.len();
        while array.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok((events, count))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_body_makes_it_panic_and_events_are_never_more_than_allowed(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            text in r#"[\[\]{},:"0-9a-e \\]{0,60}"#,
        ) {
            for body in [bytes, text.into_bytes()] {
                if let Ok(Items(events)) = Items::of(&body, 3) {
                    prop_assert!((1..=3).contains(&events.len()));
                }
            }
        }
    }

    fn items(body: &str) -> Result<Items<'_>, Problem> {
        Items::of(body.as_bytes(), 3)
    }

    #[test]
    fn a_body_is_one_event_or_an_array_of_them() {
        assert_eq!(items(r#" {"a":1.50} "#), Ok(Items(vec![r#"{"a":1.50}"#])));
        assert_eq!(items(" [ {} ,[1], 2] "), Ok(Items(vec!["{}", "[1]", "2"])));
        assert_eq!(items("[]"), Err(Problem::NoEvents));
        assert_eq!(items("[1,2,3,4,5]"), Err(Problem::TooManyEvents { found: 5, max: 3 }));
    }

    #[test]
    fn what_is_wrong_inside_an_event_does_not_matter_here() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for event in ["1e400", "9007199254740993", r#""\ud800""#, &deep] {
            let body = format!("[{event},1]");
            assert_eq!(items(&body), Ok(Items(vec![event, "1"])));
        }
    }

    #[test]
    fn what_is_not_json_is_told() {
        for body in ["", " ", "[", "[1,]", "[1 2]", "{", "{}x", "[]]", "NaN", "[NaN]", "\u{feff}{}"] {
            assert!(matches!(items(body), Err(Problem::MalformedJson { .. })), "{body}");
        }
        assert!(matches!(Items::of(b"[\"\xff\"]", 3), Err(Problem::MalformedJson { .. })));
    }
}

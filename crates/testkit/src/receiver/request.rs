//! A request as it came over the wire.

use std::time::Instant;

use bytes::Bytes;
use domain::Timestamp;
use serde_json::Value;

/// A request as it came over the wire.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The request target: path and query.
    pub target: String,
    /// The headers in their order, names in their case.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Bytes,
    /// When it was complete, to measure with.
    pub arrived: Instant,
    /// When it was complete, by the clock.
    pub arrived_at: Timestamp,
}

impl Request {
    /// The value of a header, whatever the case of its name; `None` also if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }

    /// The body as text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// `X-Lok-Attempt`.
    #[track_caller]
    pub fn attempt(&self) -> u32 {
        let attempt = self.header("x-lok-attempt").expect("X-Lok-Attempt is there once");
        attempt.parse().expect("X-Lok-Attempt is a number")
    }

    /// `X-Lok-Event-Id`.
    #[track_caller]
    pub fn event_id(&self) -> &str {
        self.header("x-lok-event-id").expect("X-Lok-Event-Id is there once")
    }

    /// `X-Lok-Delivery-Id`.
    #[track_caller]
    pub fn delivery_id(&self) -> &str {
        self.header("x-lok-delivery-id").expect("X-Lok-Delivery-Id is there once")
    }

    /// One line about it, for the messages of failing tests.
    pub(super) fn summary(&self) -> String {
        let header = |name| self.header(name).unwrap_or("-");
        format!(
            "{} {} event={} id={} attempt={} at {}",
            self.method,
            self.target,
            header("x-lok-event"),
            header("x-lok-event-id"),
            header("x-lok-attempt"),
            self.arrived_at.format("%H:%M:%S%.3f"),
        )
    }
}

//! What internal services publish.

use bytes::Bytes;
use domain::EventType;
use serde_json::Value;

/// An event to be published.
#[derive(Debug, Clone)]
pub struct Event {
    of_type: EventType,
    id: Option<String>,
    timestamp: Option<String>,
    recipients: Vec<String>,
    data: String,
}

impl Event {
    /// An event of this type with the type's example as `data`, to nobody yet.
    pub fn example(event_type: EventType) -> Self {
        let data = event_type.example_text().to_owned();
        Self { of_type: event_type, id: None, timestamp: None, recipients: Vec::new(), data }
    }

    /// Adds a recipient.
    #[must_use]
    pub fn to(mut self, user: &str) -> Self {
        self.recipients.push(user.to_owned());
        self
    }

    /// With the publisher's id.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// With the time at which it happened.
    #[must_use]
    pub fn timestamp(mut self, timestamp: &str) -> Self {
        self.timestamp = Some(timestamp.to_owned());
        self
    }

    /// With this JSON text as `data`, exactly as written.
    #[must_use]
    pub fn data(mut self, json: impl Into<String>) -> Self {
        self.data = json.into();
        self
    }

    /// The type, which is the routing key.
    pub fn event_type(&self) -> EventType {
        self.of_type
    }

    /// The event as publishers write it in JSON.
    pub fn to_json(&self) -> String {
        let mut members = Vec::new();
        let mut member = |name: &str, json: String| members.push(format!("\"{name}\":{json}"));
        if let Some(id) = &self.id {
            member("id", Value::from(id.as_str()).to_string());
        }
        member("event", Value::from(self.of_type.as_str()).to_string());
        if let Some(timestamp) = &self.timestamp {
            member("timestamp", Value::from(timestamp.as_str()).to_string());
        }
        member("recipients", Value::from(self.recipients.clone()).to_string());
        member("data", self.data.clone());
        format!("{{{}}}", members.join(","))
    }

    /// The event as a `lokroom.webhooks.v1.PlatformEvent`.
    pub fn to_protobuf(&self) -> Vec<u8> {
        wire::platform_event::encode(
            self.id.as_deref().unwrap_or_default(),
            self.of_type.as_str(),
            self.timestamp.as_deref().unwrap_or_default(),
            self.recipients.clone(),
            Bytes::from(self.data.clone()),
        )
    }
}

//! What is published, and what its headers say.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::generation::gen_field_table;
use lapin::types::parsing::parse_field_table;
use lapin::types::{AMQPValue, FieldTable};

/// Says of a moved message that it came back where it was before: the broker's own mark does not go along.
pub const REDELIVERED_HEADER: &str = "x-lok-redelivered";

/// Says of a message that it was published before, and that nobody knows whether the broker took it then.
pub const COPY_HEADER: &str = "x-lok-copy";

/// A message to be published: persistent and mandatory, always.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The exchange; empty for the default exchange, which routes to the queue named by the routing key.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// The payload.
    pub body: Bytes,
    /// The MIME type of the payload.
    pub content_type: Option<String>,
    /// How the payload is encoded, for example `gzip`.
    pub content_encoding: Option<String>,
    /// The application's id of the message.
    pub message_id: Option<String>,
    /// Further headers.
    pub headers: Headers,
}

impl Message {
    /// A message straight to a queue.
    pub fn to_queue(queue: impl Into<String>, body: Bytes) -> Self {
        Self::to_exchange(String::new(), queue, body)
    }

    /// A message to an exchange.
    pub fn to_exchange(exchange: impl Into<String>, routing_key: impl Into<String>, body: Bytes) -> Self {
        Self {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            body,
            content_type: None,
            content_encoding: None,
            message_id: None,
            headers: Headers::default(),
        }
    }

    /// Says what the payload is.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Gives the message the application's id.
    #[must_use]
    pub fn message_id(mut self, id: impl Into<String>) -> Self {
        self.message_id = Some(id.into());
        self
    }

    /// Adds a text header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.set(name, value);
        self
    }

    /// Says that an earlier holder may have done part of the work: [`crate::Received::redelivered`] will tell, provided
    /// that the message is published straight to a queue.
    #[must_use]
    pub fn redelivered(self) -> Self {
        self.header(REDELIVERED_HEADER, "true")
    }

    /// Says that the same message may be in the queue already: [`crate::Received::may_be_copy`] will tell, provided that
    /// it is published straight to a queue. A [`crate::Publisher`] says so itself of what it has to publish again.
    #[must_use]
    pub fn may_be_copy(self) -> Self {
        self.header(COPY_HEADER, "true")
    }

    /// The AMQP properties, with the publisher's own number of this publish.
    pub(crate) fn properties(&self, sequence: u64) -> BasicProperties {
        const PERSISTENT: u8 = 2;
        let mut properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_correlation_id(sequence.to_string().into())
            .with_headers(self.headers.table.clone());
        if let Some(content_type) = &self.content_type {
            properties = properties.with_content_type(content_type.as_str().into());
        }
        if let Some(content_encoding) = &self.content_encoding {
            properties = properties.with_content_encoding(content_encoding.as_str().into());
        }
        if let Some(id) = &self.message_id {
            properties = properties.with_message_id(id.as_str().into());
        }
        properties
    }
}

/// A message's headers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headers {
    table: FieldTable,
}

impl Headers {
    pub(crate) fn of(properties: &BasicProperties) -> Self {
        Self { table: properties.headers().clone().unwrap_or_default() }
    }

    /// The text of a header; `None` if it is absent or not text.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.table.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            _ => None,
        }
    }

    /// Sets a header to a text.
    pub fn set(&mut self, name: &str, value: &str) {
        self.table.insert(name.into(), AMQPValue::LongString(value.into()));
    }

    /// Removes a header.
    pub fn remove(&mut self, name: &str) {
        let kept = self.table.inner().iter().filter(|(key, _)| key.as_str() != name);
        self.table = kept
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
            .into();
    }

    /// Removes every header whose name starts with `prefix`.
    pub fn remove_starting_with(&mut self, prefix: &str) {
        let kept = self.table.inner().iter().filter(|(name, _)| !name.as_str().starts_with(prefix));
        self.table = kept
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
            .into();
    }

    /// Every header as text, for people.
    pub fn iter(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.table.inner().iter().map(|(name, value)| {
            let value = match value {
                AMQPValue::LongString(text) => text.to_string(),
                other => format!("{other:?}"),
            };
            (name.to_string(), value)
        })
    }

    /// The headers as AMQP writes a table of them; nothing where there are none.
    pub fn encode(&self) -> Bytes {
        if self.table.inner().is_empty() {
            return Bytes::new();
        }
        // What was received fits into AMQP's bounds, and memory does not refuse a write.
        cookie_factory::gen_simple(gen_field_table(&self.table), Vec::new()).unwrap_or_default().into()
    }

    /// Reads what [`Headers::encode`] wrote; `None` if it is nothing of the kind.
    pub fn decode(encoded: &[u8]) -> Option<Self> {
        if encoded.is_empty() {
            return Some(Self::default());
        }
        match parse_field_table(encoded) {
            Ok(([], table)) => Some(Self { table }),
            Ok(_) | Err(_) => None,
        }
    }

    /// How often the queue already delivered the message in vain (`x-delivery-count` of quorum queues).
    pub(crate) fn delivery_count(&self) -> u64 {
        let count = self.table.inner().get("x-delivery-count").and_then(AMQPValue::as_long_long_int);
        count.and_then(|count| count.try_into().ok()).unwrap_or(0)
    }

    /// Whether whoever moved the message said that it had come back.
    pub(crate) fn says_redelivered(&self) -> bool {
        self.text(REDELIVERED_HEADER).is_some()
    }

    /// Whether its publisher said that it may be a copy.
    pub(crate) fn says_copy(&self) -> bool {
        self.text(COPY_HEADER).is_some()
    }

    /// Removes what holds for one publish or for one queue only.
    pub(crate) fn remove_what_is_not_moved(&mut self) {
        let names = ["CC", "BCC", "x-delivery-count", "x-acquired-count", REDELIVERED_HEADER, COPY_HEADER];
        for name in names {
            self.remove(name);
        }
    }

    /// The queue that a dead letter was first taken from (`x-first-death-queue`).
    pub fn first_death_queue(&self) -> Option<String> {
        self.text("x-first-death-queue")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_every_kind_are_read_as_they_were_written() {
        let mut nested = FieldTable::default();
        nested.insert("deep".into(), AMQPValue::Boolean(true));
        let mut headers = Headers::default();
        assert_eq!(Headers::decode(&headers.encode()), Some(Headers::default()));
        headers.set("traceparent", "00-1");
        for (name, value) in [
            ("number", AMQPValue::LongLongInt(-7)),
            ("time", AMQPValue::Timestamp(1_700_000_000)),
            ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
            ("table", AMQPValue::FieldTable(nested)),
            ("nothing", AMQPValue::Void),
        ] {
            headers.table.insert(name.into(), value);
        }
        assert_eq!(Headers::decode(&headers.encode()), Some(headers.clone()));
        let encoded = headers.encode();
        assert_eq!(Headers::decode(&encoded[..encoded.len() - 1]), None, "not whole");
        assert_eq!(Headers::decode(&[&encoded[..], b"?"].concat()), None, "more than that");
    }
}

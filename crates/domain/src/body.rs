//! The bytes that receivers get.

use crate::catalogue::EventType;
use crate::js;
use crate::timestamp::PublishedTimestamp;

/// Builds the body of an event: `{"event":…,"timestamp":…,"data":{…}}` in that key order, `data` in the
/// publisher's key order, as a fixed point of `JSON.stringify(JSON.parse(body))` (contract, *Body*).
pub fn build(event: EventType, timestamp: &PublishedTimestamp, data: &js::Object<'_>) -> String {
    // Event types and RFC 3339 texts hold nothing that JSON escapes.
    let mut body = format!(r#"{{"event":"{event}","timestamp":"{}","data":"#, timestamp.as_str());
    js::write_object(data, &mut body);
    body.push('}');
    body
}

/// `data` of a request that a developer asked for to try a webhook out: the type's example, marked.
pub fn test_data(event: EventType) -> js::Object<'static> {
    let mut data = event.example().clone();
    data.insert("isTest".into(), js::Value::Bool(true));
    data
}

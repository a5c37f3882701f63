//! The fields around an event's `data`, before their values are checked.

use std::borrow::Cow;

use super::rejection::{Errors, Rejection, RejectionCode};
use crate::js;
use crate::limits::MAX_DEPTH;

/// A message's fields with the right types, their values unchecked.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<'a> {
    /// The publisher's id.
    pub id: Option<Cow<'a, str>>,
    /// The event type's name.
    pub event: Cow<'a, str>,
    /// When it happened, RFC 3339.
    pub timestamp: Option<Cow<'a, str>>,
    /// The users it concerns.
    pub recipients: Vec<Cow<'a, str>>,
    /// What happened.
    pub data: js::Object<'a>,
}

impl<'a> Envelope<'a> {
    /// Reads the envelope from a JSON document. Fields the contract does not know are let through.
    pub fn from_json(value: js::Value<'a>) -> Result<Self, Rejection> {
        let js::Value::Object(mut fields) = value else {
            return Err(wrong_type("", "an object", &value));
        };

        let mut errors = Errors::default();
        let id = optional_string(fields.swap_remove("id"), "/id", &mut errors);
        let timestamp = optional_string(fields.swap_remove("timestamp"), "/timestamp", &mut errors);
        let event = required(fields.swap_remove("event"), "/event", &mut errors, string);
        let recipients = required(fields.swap_remove("recipients"), "/recipients", &mut errors, strings);
        let data = required(fields.swap_remove("data"), "/data", &mut errors, object);

        let (Some(event), Some(recipients), Some(data)) = (event, recipients, data) else {
            return Err(errors.into_rejection());
        };
        errors.none_or_rejection()?;
        Ok(Self { id, event, timestamp, recipients, data })
    }

    /// Reads `data` from the UTF-8 JSON bytes that the protobuf message carries.
    pub fn parse_data(bytes: &'a [u8]) -> Result<js::Object<'a>, Rejection> {
        let value = js::parse(bytes, MAX_DEPTH - 1).map_err(|error| Rejection::from(error).below("/data"))?;
        match value {
            js::Value::Object(data) => Ok(data),
            other => Err(wrong_type("/data", "an object", &other)),
        }
    }
}

fn wrong_type(field: &str, expected: &str, found: &js::Value<'_>) -> Rejection {
    Rejection::of_field(RejectionCode::WrongType, field, format!("must be {expected}, is {}", found.kind()))
}

fn add_wrong_type(field: &str, expected: &str, found: &js::Value<'_>, errors: &mut Errors) {
    errors.add(RejectionCode::WrongType, field, format!("must be {expected}, is {}", found.kind()));
}

/// Reads a value as the type it must have.
type Read<'a, T> = fn(js::Value<'a>, &str, &mut Errors) -> Option<T>;

fn required<'a, T>(
    value: Option<js::Value<'a>>,
    field: &str,
    errors: &mut Errors,
    read: Read<'a, T>,
) -> Option<T> {
    if value.is_none() {
        errors.add(RejectionCode::MissingField, field, "is required");
    }
    read(value?, field, errors)
}

/// Absent and `null` are the same for a field that may be left out.
fn optional_string<'a>(
    value: Option<js::Value<'a>>,
    field: &str,
    errors: &mut Errors,
) -> Option<Cow<'a, str>> {
    match value? {
        js::Value::Null => None,
        value => string(value, field, errors),
    }
}

fn string<'a>(value: js::Value<'a>, field: &str, errors: &mut Errors) -> Option<Cow<'a, str>> {
    match value {
        js::Value::String(text) => Some(text),
        other => {
            add_wrong_type(field, "a string", &other, errors);
            None
        }
    }
}

fn strings<'a>(value: js::Value<'a>, field: &str, errors: &mut Errors) -> Option<Vec<Cow<'a, str>>> {
    let js::Value::Array(items) = value else {
        add_wrong_type(field, "an array of strings", &value, errors);
        return None;
    };
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| string(item, &format!("{field}/{index}"), errors))
        .collect()
}

fn object<'a>(value: js::Value<'a>, field: &str, errors: &mut Errors) -> Option<js::Object<'a>> {
    match value {
        js::Value::Object(members) => Some(members),
        other => {
            add_wrong_type(field, "an object", &other, errors);
            None
        }
    }
}

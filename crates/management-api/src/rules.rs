//! What a webhook may be (contract, *Validation*).

use domain::EventType;
use domain::js::{Object, Value};
use domain::limits::{Limits, MAX_DESCRIPTION_CHARS};
use domain::webhook_url::{UrlPolicy, WebhookUrl};
use ring::digest::{SHA256, digest};
use store::WebhookChanges;

use crate::fields::Fields;
use crate::problem::Problem;
use crate::texts::{JsonType, Reason};

/// The rules as configured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    /// The URLs that are accepted.
    pub(crate) urls: &'a UrlPolicy,
    /// How much is accepted.
    pub(crate) limits: Limits,
}

/// A webhook as its developer wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Where events go.
    pub(crate) url: String,
    /// The types it subscribes to, in the developer's order.
    pub(crate) events: Vec<EventType>,
    /// A note.
    pub(crate) description: Option<String>,
}

impl Wanted {
    /// Tells a repetition of the same request from another request: white space and the order of keys do not
    /// matter, the order of event types does, as it shows in the answer.
    pub(crate) fn fingerprint(&self) -> Vec<u8> {
        let events: Vec<_> = self.events.iter().map(|event| event.as_str()).collect();
        let canonical = serde_json::json!([self.url, events, self.description]).to_string();
        digest(&SHA256, canonical.as_bytes()).as_ref().to_vec()
    }
}

impl Rules<'_> {
    /// Reads `{url, events, description?}`.
    pub(crate) fn wanted(self, body: Object<'_>) -> Result<Wanted, Problem> {
        let mut fields = Fields::new(body, &["url", "events", "description"]);
        let url = fields.require("url").and_then(|value| self.url(&mut fields, &value));
        let events = fields.require("events").and_then(|value| self.events(&mut fields, &value));
        let description = fields.take("description").and_then(|value| description(&mut fields, &value));
        fields.finish()?;
        // Whatever is absent here was refused above.
        let (Some(url), Some(events)) = (url, events) else { return Err(Problem::internal()) };
        Ok(Wanted { url, events, description: description.flatten() })
    }

    /// Reads `{url?, events?, active?, description?}`.
    pub(crate) fn changes(self, body: Object<'_>) -> Result<WebhookChanges, Problem> {
        let mut fields = Fields::new(body, &["url", "events", "active", "description"]);
        let changes = WebhookChanges {
            url: fields.take("url").and_then(|value| self.url(&mut fields, &value)),
            events: fields.take("events").and_then(|value| self.events(&mut fields, &value)),
            active: fields.take("active").and_then(|value| active(&mut fields, &value)),
            description: fields.take("description").and_then(|value| description(&mut fields, &value)),
        };
        fields.finish()?;
        Ok(changes)
    }

    fn url(self, fields: &mut Fields<'_>, value: &Value<'_>) -> Option<String> {
        let Some(text) = value.as_str() else {
            fields.refuse_type("url", JsonType::String);
            return None;
        };
        match WebhookUrl::parse(text, self.urls) {
            Ok(url) => Some(url.as_str().to_owned()),
            Err(error) => {
                fields.refuse("url", Reason::Url(error));
                None
            }
        }
    }

    fn events(self, fields: &mut Fields<'_>, value: &Value<'_>) -> Option<Vec<EventType>> {
        let Value::Array(items) = value else {
            fields.refuse_type("events", JsonType::ArrayOfStrings);
            return None;
        };
        let limit = self.limits.events_per_webhook;
        if items.is_empty() {
            fields.refuse("events", Reason::TooFewEvents);
            return None;
        }
        if items.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
            fields.refuse("events", Reason::TooManyEvents { limit });
            return None;
        }
        let mut events = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let field = format!("events[{index}]");
            match item.as_str().map(str::parse) {
                None => fields.refuse_type(field, JsonType::String),
                Some(Err(_)) => fields.refuse(field, Reason::UnknownEventType),
                Some(Ok(event)) if events.contains(&event) => fields.refuse(field, Reason::Duplicate),
                Some(Ok(event)) => events.push(event),
            }
        }
        Some(events)
    }
}

fn active(fields: &mut Fields<'_>, value: &Value<'_>) -> Option<bool> {
    let Value::Bool(active) = value else {
        fields.refuse_type("active", JsonType::Boolean);
        return None;
    };
    Some(*active)
}

/// `null` is no description, or removes it.
#[expect(clippy::option_option, reason = "refused, null or a text, as `WebhookChanges` has it")]
fn description(fields: &mut Fields<'_>, value: &Value<'_>) -> Option<Option<String>> {
    let text = match value {
        Value::Null => return Some(None),
        Value::String(text) => text,
        _ => {
            fields.refuse_type("description", JsonType::StringOrNull);
            return None;
        }
    };
    if text.chars().count() > MAX_DESCRIPTION_CHARS {
        fields.refuse("description", Reason::DescriptionTooLong);
        return None;
    }
    // PostgreSQL's text cannot hold it.
    if text.contains('\0') {
        fields.refuse("description", Reason::InvalidCharacters);
        return None;
    }
    Some(Some(text.clone().into_owned()))
}

#[cfg(test)]
mod tests {
    use domain::js;

    use super::*;
    use crate::problem::FieldError;

    fn object(json: &str) -> Object<'_> {
        let Value::Object(members) = js::parse(json.as_bytes(), 32).unwrap() else { panic!("{json}") };
        members
    }

    fn wanted(json: &str) -> Result<Wanted, Problem> {
        Rules { urls: &UrlPolicy::default(), limits: Limits::default() }.wanted(object(json))
    }

    fn changes(json: &str) -> Result<WebhookChanges, Problem> {
        Rules { urls: &UrlPolicy::default(), limits: Limits::default() }.changes(object(json))
    }

    fn invalid<T>(errors: Vec<(&str, Reason)>) -> Result<T, Problem> {
        Err(Problem::invalid(errors.into_iter().map(|(field, why)| FieldError::new(field, why)).collect()))
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let json = r#"{"url":7,"events":["booking.created","x",1,"booking.created"],"descripton":"","description":3}"#;
        let wrong = |expected| Reason::WrongType { expected };
        let errors = vec![
            ("descripton", Reason::UnknownField),
            ("url", wrong(JsonType::String)),
            ("events[1]", Reason::UnknownEventType),
            ("events[2]", wrong(JsonType::String)),
            ("events[3]", Reason::Duplicate),
            ("description", wrong(JsonType::StringOrNull)),
        ];
        assert_eq!(wanted(json), invalid(errors));
        assert_eq!(wanted("{}"), invalid(vec![("url", Reason::Required), ("events", Reason::Required)]));
    }

    #[test]
    fn events_have_bounds_and_texts_too() {
        let url = "https://example.com/";
        let with = |events: &str| wanted(&format!(r#"{{"url":"{url}","events":{events}}}"#));
        assert_eq!(with("[]"), invalid(vec![("events", Reason::TooFewEvents)]));
        let many = format!("[{}]", vec!["0"; 21].join(","));
        assert_eq!(with(&many), invalid(vec![("events", Reason::TooManyEvents { limit: 20 })]));

        let describe = |text: &str| changes(&serde_json::json!({ "description": text }).to_string());
        assert!(describe(&"é".repeat(500)).is_ok());
        let too_long = invalid(vec![("description", Reason::DescriptionTooLong)]);
        assert_eq!(describe(&"é".repeat(501)), too_long);
        assert_eq!(describe("a\0b"), invalid(vec![("description", Reason::InvalidCharacters)]));
    }

    #[test]
    fn what_is_left_out_stays_and_null_removes_only_the_description() {
        assert_eq!(changes("{}"), Ok(WebhookChanges::default()));
        assert_eq!(changes(r#"{"description":null}"#).unwrap().description, Some(None));
        for field in ["url", "events", "active"] {
            assert!(changes(&format!(r#"{{"{field}":null}}"#)).is_err(), "{field}");
        }
    }

    #[test]
    fn a_fingerprint_looks_at_the_meaning() {
        let first = r#"{"url":"https://example.com/","events":["booking.created"]}"#;
        let same =
            r#"{ "events": ["booking.created"], "url": "https:\/\/example.com/", "description": null }"#;
        let other = r#"{"url":"https://example.com/","events":["booking.created"],"description":""}"#;
        let fingerprint = |json| wanted(json).unwrap().fingerprint();
        assert_eq!(fingerprint(first), fingerprint(same));
        assert_ne!(fingerprint(first), fingerprint(other));
    }
}

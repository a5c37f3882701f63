//! JSON as JavaScript keeps it.
//!
//! A receiver that parses the body and serialises it again before it checks the signature (the guide's own
//! Node example does) must get the very bytes that were signed. So what leaves is a fixed point:
//! `JSON.stringify(JSON.parse(body)) === body`. [`parse`] reads a publisher's JSON with the semantics of
//! `JSON.parse` and refuses what JavaScript cannot hold; [`Value::write`] writes as `JSON.stringify` does.

mod parse;
mod write;

use std::borrow::Cow;
use std::fmt;

use indexmap::IndexMap;

pub use parse::{JsonError, Problem, parse};
pub(crate) use write::write_object;

/// A JSON document as JavaScript holds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A finite double.
    Number(f64),
    /// A string of Unicode scalar values.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Value<'a>>),
    /// An object.
    Object(Object<'a>),
}

/// An object's members: each key once, at the place where it first stood, with the value it last had.
pub type Object<'a> = IndexMap<Cow<'a, str>, Value<'a>>;

impl<'a> Value<'a> {
    /// What JSON calls this value, for error messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// The members, if this is an object.
    pub fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The same document for the JSON Schema validator.
    pub fn to_serde(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Number(value) => serde_number(*value),
            Self::String(text) => text.as_ref().into(),
            Self::Array(items) => items.iter().map(Self::to_serde).collect(),
            Self::Object(members) => {
                members.iter().map(|(key, value)| (key.clone().into_owned(), value.to_serde())).collect()
            }
        }
    }
}

/// JSON Schema counts `5.0` as an integer; so does this.
fn serde_number(value: f64) -> serde_json::Value {
    const MAX_SAFE: f64 = 9_007_199_254_740_991.0;
    if value.fract() == 0.0 && value.abs() <= MAX_SAFE {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number within ±(2^53−1) is exact")]
        let whole = value as i64;
        whole.into()
    } else {
        value.into()
    }
}

/// The keys and indexes that lead to a place in a document, printed as a JSON Pointer (RFC 6901); the
/// document itself is the empty pointer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pointer(String);

impl Pointer {
    /// The place of an object's member.
    #[must_use]
    pub fn member(mut self, key: &str) -> Self {
        self.push(key);
        self
    }

    /// Goes down to an object's member or, with its index, to an array's item.
    pub fn push(&mut self, token: &str) {
        self.0.push('/');
        for c in token.chars() {
            match c {
                '~' => self.0.push_str("~0"),
                '/' => self.0.push_str("~1"),
                c => self.0.push(c),
            }
        }
    }

    /// The pointer's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "the document" } else { &self.0 })
    }
}

//! The members of a JSON object, read one by one, with everything that is wrong told at once.

use std::borrow::Cow;

use domain::js::{Object, Value};

use crate::problem::{FieldError, Problem};
use crate::texts::{JsonType, Reason};

/// Unknown fields that are told; more help nobody.
const MAX_UNKNOWN: usize = 20;

/// A name that is repeated in an answer has at most this many characters.
const MAX_NAME_CHARS: usize = 64;

/// The members of an object and what is wrong with them.
pub(crate) struct Fields<'a> {
    members: Object<'a>,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// An object that may have these members. A name that is not among them is most likely a typo, and is refused.
    pub(crate) fn new(members: Object<'a>, known: &[&str]) -> Self {
        let unknown = members.keys().filter(|name| !known.contains(&name.as_ref())).take(MAX_UNKNOWN);
        let shown = |name: &Cow<'_, str>| name.chars().take(MAX_NAME_CHARS).collect::<String>();
        let errors = unknown.map(|name| FieldError::new(shown(name), Reason::UnknownField)).collect();
        Self { members, errors }
    }

    /// Takes a member out, if it is there.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value<'a>> {
        self.members.shift_remove(name)
    }

    /// Takes a member out; its absence is an error.
    pub(crate) fn require(&mut self, name: &str) -> Option<Value<'a>> {
        let value = self.take(name);
        if value.is_none() {
            self.refuse(name, Reason::Required);
        }
        value
    }

    /// Notes what is wrong with a field.
    pub(crate) fn refuse(&mut self, field: impl Into<String>, reason: Reason) {
        self.errors.push(FieldError::new(field, reason));
    }

    /// Notes that a field's value has the wrong type.
    pub(crate) fn refuse_type(&mut self, field: impl Into<String>, expected: JsonType) {
        self.refuse(field, Reason::WrongType { expected });
    }

    /// The end: everything that is wrong, if anything is.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::invalid(self.errors)) }
    }
}

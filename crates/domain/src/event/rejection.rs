//! Why a message is not accepted: codes for programs, places and words for people.

use std::fmt;

use crate::js::{JsonError, Problem};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)*) => {
        /// What is wrong with a message. The text form goes into `x-lok-error-code`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum RejectionCode { $($(#[$doc])* $variant,)* }

        impl RejectionCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code's text form.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code),* }
            }
        }
    };
}

codes! {
    /// Not JSON.
    MalformedJson = "malformed_json",
    /// Not the protobuf message that `content_type` promises.
    MalformedProtobuf = "malformed_protobuf",
    /// Neither JSON nor protobuf.
    UnsupportedContentType = "unsupported_content_type",
    /// Compressed or otherwise encoded.
    UnsupportedContentEncoding = "unsupported_content_encoding",
    /// More than 256 KiB.
    TooLarge = "too_large",
    /// Objects and arrays nested too deeply.
    TooDeep = "too_deep",
    /// A number that JavaScript cannot hold.
    NumberOutOfRange = "number_out_of_range",
    /// Half of a surrogate pair.
    LoneSurrogate = "lone_surrogate",
    /// A required field of the envelope is absent.
    MissingField = "missing_field",
    /// A field of the envelope has another JSON type.
    WrongType = "wrong_type",
    /// The id is not 1…128 visible ASCII characters.
    InvalidId = "invalid_id",
    /// Not one of the event types.
    UnknownEvent = "unknown_event",
    /// The routing key and the event type differ.
    RoutingKeyMismatch = "routing_key_mismatch",
    /// Not an RFC 3339 date-time.
    InvalidTimestamp = "invalid_timestamp",
    /// Not 1…1000 user ids.
    InvalidRecipients = "invalid_recipients",
    /// `data` does not follow the type's JSON Schema.
    SchemaViolation = "schema_violation",
    /// The database refuses the event.
    NotStorable = "not_storable",
}

impl fmt::Display for RejectionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One place of a message that has to be mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The place, as a JSON Pointer (RFC 6901); empty for the whole message.
    pub field: String,
    /// What is wrong there.
    pub code: RejectionCode,
    /// The same in words. Never repeats values of `data`: they may be personal.
    pub message: String,
}

/// A message that is not accepted: at least one place has to be mended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", describe(first, more))]
pub struct Rejection {
    first: FieldError,
    more: Vec<FieldError>,
}

fn describe(first: &FieldError, more: &[FieldError]) -> String {
    let mut text = String::new();
    for error in std::iter::once(first).chain(more) {
        if !text.is_empty() {
            text.push_str("; ");
        }
        if !error.field.is_empty() {
            text.push_str(&error.field);
            text.push_str(": ");
        }
        text.push_str(&error.message);
    }
    text
}

impl Rejection {
    /// A rejection of the message as a whole.
    pub fn of_document(code: RejectionCode, message: impl Into<String>) -> Self {
        Self::of_field(code, "", message)
    }

    /// A rejection of one place.
    pub fn of_field(code: RejectionCode, field: &str, message: impl Into<String>) -> Self {
        Self { first: FieldError { field: bounded(field), code, message: message.into() }, more: Vec::new() }
    }

    /// The first error's code: the one that goes into `x-lok-error-code`.
    pub fn code(&self) -> RejectionCode {
        self.first.code
    }

    /// Every place that has to be mended.
    pub fn errors(&self) -> impl Iterator<Item = &FieldError> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// The same rejection with `prefix` before every place.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        self.first.field.insert_str(0, prefix);
        for error in &mut self.more {
            error.field.insert_str(0, prefix);
        }
        self
    }
}

impl From<JsonError> for Rejection {
    fn from(error: JsonError) -> Self {
        let code = match error.problem {
            Problem::Malformed { .. } | Problem::NotUtf8 => RejectionCode::MalformedJson,
            Problem::TooDeep { .. } => RejectionCode::TooDeep,
            Problem::IntegerOutOfRange | Problem::NumberOverflow => RejectionCode::NumberOutOfRange,
            Problem::LoneSurrogate => RejectionCode::LoneSurrogate,
        };
        let message = format!("{} (at byte {})", error.problem, error.offset);
        let field = bounded(error.pointer.as_str());
        Self { first: FieldError { field, code, message }, more: Vec::new() }
    }
}

/// Keys come from the publisher: a place may not grow an error without bound.
fn bounded(pointer: &str) -> String {
    const MAX_CHARS: usize = 256;
    match pointer.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &pointer[..end]),
        None => pointer.to_owned(),
    }
}

/// Errors found so far in one message.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<FieldError>);

impl Errors {
    pub(super) fn add(&mut self, code: RejectionCode, field: impl AsRef<str>, message: impl Into<String>) {
        if self.0.len() < super::MAX_ERRORS {
            self.0.push(FieldError { field: bounded(field.as_ref()), code, message: message.into() });
        }
    }

    pub(super) fn none_or_rejection(self) -> Result<(), Rejection> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into_rejection()) }
    }

    /// The rejection for the errors found; for callers that found at least one.
    pub(super) fn into_rejection(self) -> Rejection {
        let mut errors = self.0.into_iter();
        match errors.next() {
            Some(first) => Rejection { first, more: errors.collect() },
            None => Rejection::of_document(RejectionCode::MissingField, "the message is incomplete"),
        }
    }
}

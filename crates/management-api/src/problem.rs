//! Errors as `application/problem+json` (RFC 9457). This is the only place that writes one.

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_LANGUAGE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use store::StoreError;
use tracing::error;

use crate::language::Language;
use crate::rate::whole_seconds;
use crate::texts::{Reason, title};

/// Seconds after which a caller may try again when the database or the broker is away.
const RETRY_AFTER_SECONDS: &str = "5";

/// A request that was not served, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    reason: Reason,
    errors: Vec<FieldError>,
    allow: Option<String>,
    /// When the same request may be served, in seconds from now.
    retry_after: Option<u64>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// The field as `url` or `events[1]`, or the name of a query parameter or header.
    pub(crate) field: String,
    /// What is wrong.
    pub(crate) reason: Reason,
}

impl FieldError {
    /// Something is wrong with a field.
    pub(crate) fn new(field: impl Into<String>, reason: Reason) -> Self {
        Self { field: field.into(), reason }
    }
}

impl Problem {
    /// A problem of this status.
    pub(crate) fn new(status: StatusCode, reason: Reason) -> Self {
        Self { status, reason, errors: Vec::new(), allow: None, retry_after: None }
    }

    /// Fields that are not valid.
    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, Reason::ValidationFailed) }
    }

    /// What was understood but cannot be done.
    pub(crate) fn unprocessable(reason: Reason) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason)
    }

    /// There is nothing there, or nothing of the caller's.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, Reason::NotFound)
    }

    /// The database or the broker is away; the same request may be served later.
    pub(crate) fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Reason::Unavailable)
    }

    /// There were too many; the next is served after `wait`.
    pub(crate) fn too_many(reason: Reason, wait: Duration) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, reason);
        Self { retry_after: Some(whole_seconds(wait)), ..problem }
    }

    /// Our fault. Details belong into the log.
    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::Internal)
    }

    /// The path exists, but not with this method.
    pub(crate) fn method_not_allowed(allow: String) -> Self {
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, Reason::MethodNotAllowed);
        Self { allow: Some(allow), ..problem }
    }

    /// The answer in a language.
    pub(crate) fn render(&self, language: Language) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.content_type("application/problem+json");
        response.insert_header((CONTENT_LANGUAGE, language.tag())).insert_header((VARY, "Accept-Language"));
        if let Some(allow) = &self.allow {
            response.insert_header((ALLOW, allow.as_str()));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS));
        }
        if let Some(seconds) = self.retry_after {
            response.insert_header((RETRY_AFTER, seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, self.challenge()));
        }
        response.body(self.document(language))
    }

    fn document(&self, language: Language) -> String {
        let detail = self.reason.text(language);
        let errors = self.errors.iter().map(|error| ErrorDocument {
            field: &error.field,
            code: error.reason.code(),
            message: error.reason.text(language),
        });
        let document = Document {
            kind: "about:blank",
            title: title(self.status, language),
            status: self.status.as_u16(),
            detail,
            code: self.reason.code(),
            errors: errors.collect(),
        };
        serde_json::to_string(&document).unwrap_or_default()
    }

    /// RFC 6750 §3: no error code for a request without credentials.
    fn challenge(&self) -> String {
        match self.reason {
            Reason::TokenMissing => r#"Bearer realm="lokroom-webhooks""#.to_owned(),
            _ => format!(
                r#"Bearer realm="lokroom-webhooks", error="invalid_token", error_description="{}""#,
                self.reason.text(Language::English)
            ),
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
    status: u16,
    detail: String,
    code: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ErrorDocument<'a>>,
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    field: &'a str,
    code: &'a str,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.code())
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    /// In English; `observe` renders it again in the caller's language.
    fn error_response(&self) -> HttpResponse {
        self.render(Language::English)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_retryable() {
            tracing::warn!(%error, "the database is away");
            return Self::unavailable();
        }
        let source = std::error::Error::source(&error).map(ToString::to_string);
        error!(%error, source, "a request failed");
        Self::internal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(problem: &Problem, language: Language) -> serde_json::Value {
        serde_json::from_str(&problem.document(language)).unwrap()
    }

    #[test]
    fn a_problem_speaks_both_languages_and_keeps_its_codes() {
        let problem = Problem::invalid(vec![FieldError::new("events[1]", Reason::Duplicate)]);
        let (english, french) = (document(&problem, Language::English), document(&problem, Language::French));
        assert_eq!(english["status"], 422);
        assert_eq!(english["code"], "validation_failed");
        assert_eq!(english["errors"][0]["field"], "events[1]");
        assert_eq!(english["errors"][0]["code"], "duplicate");
        for part in ["title", "detail"] {
            assert_ne!(english[part], french[part], "{part}");
        }
        assert_ne!(english["errors"][0]["message"], french["errors"][0]["message"]);
        assert_eq!(french["errors"][0]["code"], "duplicate");
    }

    #[test]
    fn a_challenge_names_no_error_where_no_token_was_sent() {
        let problem = |reason| Problem::new(StatusCode::UNAUTHORIZED, reason);
        assert!(!problem(Reason::TokenMissing).challenge().contains("error="));
        let expired = problem(Reason::TokenExpired).challenge();
        assert!(expired.contains(r#"error="invalid_token""#), "{expired}");
        assert!(expired.is_ascii(), "{expired}");
    }
}

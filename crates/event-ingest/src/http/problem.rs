//! Errors as `application/problem+json` (RFC 9457). This is the only place that writes one.

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpRequest, HttpResponse, Responder, ResponseError};
use serde_json::{Value, json};

/// Seconds after which a caller may try again when the database or the broker is away.
const RETRY_AFTER_SECONDS: &str = "5";

/// A request whose events were not taken, none of them, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("publishing over HTTP is switched off here: ingest.token (LOK__INGEST__TOKEN) is not configured")]
    NotConfigured,
    #[error("a bearer token is required: Authorization: Bearer TOKEN")]
    TokenMissing,
    #[error("the bearer token is none of those that are configured here")]
    TokenInvalid,
    #[error("there is nothing here; events are published with POST /v1/events")]
    NotFound,
    #[error("only POST is served here")]
    MethodNotAllowed,
    #[error("the body must be application/json without Content-Encoding")]
    UnsupportedMediaType,
    #[error("the body may have at most {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body did not arrive in time")]
    TooSlow,
    #[error("the body could not be read")]
    Unreadable,
    #[error("the body is not JSON: {reason}")]
    MalformedJson { reason: String },
    #[error("the array is empty: send 1 to as many events as are allowed")]
    NoEvents,
    #[error("the array has {found} events, at most {max} are allowed")]
    TooManyEvents { found: usize, max: usize },
    /// None of the events is acceptable; their errors as in an answer 202.
    #[error("no event was accepted; `errors` tells why, event by event")]
    NothingAccepted { errors: Vec<Value> },
    #[error(
        "the database or the broker cannot be used now; nothing was refused: publish the same events again"
    )]
    Unavailable,
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotConfigured | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::TokenMissing | Self::TokenInvalid => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Unreadable | Self::MalformedJson { .. } => StatusCode::BAD_REQUEST,
            Self::NoEvents | Self::TooManyEvents { .. } | Self::NothingAccepted { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotConfigured => "not_configured",
            Self::TokenMissing => "token_missing",
            Self::TokenInvalid => "token_invalid",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::TooLarge { .. } => "body_too_large",
            Self::TooSlow => "request_timeout",
            Self::Unreadable => "unreadable_body",
            Self::MalformedJson { .. } => "malformed_json",
            Self::NoEvents => "no_events",
            Self::TooManyEvents { .. } => "too_many_events",
            Self::NothingAccepted { .. } => "nothing_accepted",
            Self::Unavailable => "unavailable",
        }
    }

    fn render(&self) -> HttpResponse {
        let status = self.status();
        let mut document = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": self.to_string(),
            "code": self.code(),
        });
        let mut response = HttpResponse::build(status);
        response.content_type("application/problem+json");
        match self {
            // RFC 6750 §3: no error code for a request without credentials.
            Self::TokenMissing => {
                response.insert_header((WWW_AUTHENTICATE, r#"Bearer realm="lokroom-events""#));
            }
            Self::TokenInvalid => {
                let challenge = r#"Bearer realm="lokroom-events", error="invalid_token""#;
                response.insert_header((WWW_AUTHENTICATE, challenge));
            }
            Self::MethodNotAllowed => {
                response.insert_header((ALLOW, "POST"));
            }
            Self::Unavailable => {
                response.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS));
            }
            Self::NothingAccepted { errors } => document["errors"] = json!(errors),
            _ => {}
        }
        response.body(document.to_string())
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.render()
    }
}

impl Responder for Problem {
    type Body = BoxBody;

    fn respond_to(self, _request: &HttpRequest) -> HttpResponse {
        self.render()
    }
}

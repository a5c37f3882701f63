//! Answers to requests that never reach the application. In English: the head that would tell the language is not there.

use actix_http::StatusCode;
use actix_http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use actix_http::{Response, body::BoxBody};

/// A refusal as `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: u16,
    reason: &'static str,
    code: &'static str,
    detail: &'static str,
    /// Seconds, for `Retry-After`.
    retry_after: Option<&'static str>,
}

/// The head did not come in time.
pub(crate) const HEAD_TOO_SLOW: Refusal = Refusal {
    status: 408,
    reason: "Request Timeout",
    code: "request_timeout",
    detail: "The head of the request did not arrive in time.",
    retry_after: None,
};

/// The head is larger than allowed.
pub(crate) const HEAD_TOO_LARGE: Refusal = Refusal {
    status: 431,
    reason: "Request Header Fields Too Large",
    code: "head_too_large",
    detail: "The request line and the header fields together are too large.",
    retry_after: None,
};

/// The address has as many connections as it may have.
pub(crate) const TOO_MANY_CONNECTIONS: Refusal = Refusal {
    status: 429,
    reason: "Too Many Requests",
    code: "too_many_connections",
    detail: "Too many connections are open from this address; use those that are open.",
    retry_after: Some("1"),
};

/// The application took too long.
pub(crate) const NO_ANSWER: Refusal = Refusal {
    status: 503,
    reason: "Service Unavailable",
    code: "service_unavailable",
    detail: "The service is not available for the moment; please try again.",
    retry_after: Some("5"),
};

impl Refusal {
    /// What programs go by.
    pub(crate) fn code(self) -> &'static str {
        self.code
    }

    fn document(self) -> String {
        let Self { status, reason, code, detail, .. } = self;
        format!(
            r#"{{"type":"about:blank","title":"{reason}","status":{status},"detail":"{detail}","code":"{code}"}}"#
        )
    }

    /// The whole answer, for a connection that ends with it.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let Self { status, reason, .. } = self;
        let document = self.document();
        let retry_after = self.retry_after.map(|it| format!("retry-after: {it}\r\n")).unwrap_or_default();
        format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n\
             {retry_after}connection: close\r\n\r\n{document}",
            length = document.len()
        )
        .into_bytes()
    }

    /// The answer to a request that was begun.
    pub(crate) fn response(self) -> Response<BoxBody> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let mut response = Response::with_body(status, BoxBody::new(self.document()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }
}

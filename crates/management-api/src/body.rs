//! The body of a request: JSON, within bounds of size, depth and time.

use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::{FromRequest, HttpRequest, web};
use bytes::{Bytes, BytesMut};
use domain::js::{self, JsonError, Value};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::api::Api;
use crate::problem::{FieldError, Problem};
use crate::texts::Reason;

/// Deepest nesting. Nothing that the API understands has more than two levels.
const MAX_DEPTH: usize = 32;

/// A body that was received whole and claims to be JSON.
#[derive(Debug)]
pub(crate) struct JsonBody(Bytes);

impl JsonBody {
    /// The body as an object. As in JavaScript, the last of duplicate keys counts.
    pub(crate) fn object(&self) -> Result<js::Object<'_>, Problem> {
        match js::parse(&self.0, MAX_DEPTH).map_err(|error| refuse(&error))? {
            Value::Object(members) => Ok(members),
            _ => Err(Problem::unprocessable(Reason::NotAnObject)),
        }
    }

    /// The body as an object; an empty body is an object without members.
    pub(crate) fn object_or_empty(&self) -> Result<js::Object<'_>, Problem> {
        if self.0.iter().all(u8::is_ascii_whitespace) { Ok(js::Object::new()) } else { self.object() }
    }
}

impl FromRequest for JsonBody {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let payload = payload.take();
        let headers = request.headers().clone();
        let api = request.app_data::<web::Data<Api>>().cloned();
        Box::pin(async move {
            let api = api.ok_or_else(Problem::internal)?;
            let receiving = receive(payload, &headers, api.http.body_limit.0);
            let late = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, Reason::BodyTimeout);
            let body = timeout(api.http.request_timeout.0, receiving).await.map_err(late)??;
            check_content_encoding(&headers)?;
            if !body.is_empty() {
                check_content_type(&headers)?;
            }
            Ok(Self(body))
        })
    }
}

async fn receive(mut payload: Payload, headers: &HeaderMap, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, Reason::BodyTooLarge { limit });
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        // The connection broke or its framing is wrong: nobody reads the answer.
        let chunk = chunk.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, Reason::Refused))?;
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn check_content_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let encoded = headers.get(CONTENT_ENCODING).is_some_and(|value| value != "identity");
    let refused = || Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Reason::UnsupportedEncoding);
    if encoded { Err(refused()) } else { Ok(()) }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let refused = || Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Reason::UnsupportedMediaType);
    if content_type.is_some_and(is_json) { Ok(()) } else { Err(refused()) }
}

/// `application/json` and `application/…+json`, in UTF-8 if a charset is named.
fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
    let json = media_type == "application/json"
        || media_type.strip_prefix("application/").is_some_and(|subtype| subtype.ends_with("+json"));
    let mut charsets = parts.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    json && charsets
        .all(|charset| charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8"))
}

/// What is no JSON at all is a 400; JSON that cannot be represented is a matter of its field.
fn refuse(error: &JsonError) -> Problem {
    let malformed = |what| {
        let reason = Reason::MalformedJson { offset: error.offset, what };
        Problem::new(StatusCode::BAD_REQUEST, reason)
    };
    let invalid = |reason| Problem::invalid(vec![FieldError::new(field(error.pointer.as_str()), reason)]);
    match error.problem {
        js::Problem::Malformed { expected } => malformed(expected),
        js::Problem::NotUtf8 => malformed("UTF-8"),
        js::Problem::TooDeep { .. } => malformed("less nesting"),
        js::Problem::IntegerOutOfRange | js::Problem::NumberOverflow => invalid(Reason::NumberOutOfRange),
        js::Problem::LoneSurrogate => invalid(Reason::LoneSurrogate),
    }
}

/// `/events/1` is `events[1]`.
fn field(pointer: &str) -> String {
    let mut field = String::new();
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let place = match token.parse::<usize>() {
            Ok(index) => format!("[{index}]"),
            Err(_) if field.is_empty() => token,
            Err(_) => format!(".{token}"),
        };
        field.push_str(&place);
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognised_by_its_media_type_in_utf_8() {
        for json in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
            "application/problem+json",
            "application/json; profile=x",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in
            ["", "text/json", "application/x-www-form-urlencoded", "application/json; charset=latin1"]
        {
            assert!(!is_json(other), "{other}");
        }
    }

    #[test]
    fn nesting_has_a_bound() {
        let body = JsonBody(format!("{{\"url\":{}", "[".repeat(30_000)).into());
        assert!(body.object().is_err());
    }

    #[test]
    fn places_are_named_as_fields() {
        assert_eq!(field("/events/1"), "events[1]");
        assert_eq!(field("/url"), "url");
        assert_eq!(field("/a/b~1c/0"), "a.b/c[0]");
        assert_eq!(field(""), "");
    }
}

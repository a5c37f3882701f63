//! Requests as developers and internal services send them.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// The longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of an answer.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// An HTTP client that keeps connections. Clones share them.
#[derive(Clone)]
pub struct HttpClient(Client<HttpConnector, Full<Bytes>>);

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}

impl Default for HttpClient {
    fn default() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }
}

impl HttpClient {
    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// There is no answer: what was the matter, as text.
    pub async fn try_send(&self, request: http::Request<Bytes>) -> Result<Answer, String> {
        let line = format!("{} {}", request.method(), request.uri());
        let exchange = async {
            let response = self.0.request(request.map(Full::new)).await.map_err(|error| explain(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|e| e.to_string())?;
            Ok(Answer {
                request: line.clone(),
                status: head.status,
                headers: head.headers,
                body: body.to_bytes(),
            })
        };
        let answer: Result<_, String> = tokio::time::timeout(TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
        answer.map_err(|reason| format!("{line}: {reason}"))
    }

    /// Sends a request and reads the whole answer; panics when there is none.
    pub async fn send(&self, request: http::Request<Bytes>) -> Answer {
        self.try_send(request).await.unwrap_or_else(|reason| panic!("{reason}"))
    }

    /// `GET`s a URL.
    pub async fn get(&self, url: &str) -> Answer {
        self.send(http::Request::get(url).body(Bytes::new()).expect("the URL is valid")).await
    }
}

fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    request: String,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The same answer, after a check of its status.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "often the check is all that is wanted")]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}: {}", self.request, self.text());
        self
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error} in {:?}", self.request, self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Requests to one service, with one bearer token.
#[derive(Debug, Clone)]
pub struct ApiClient {
    http: HttpClient,
    base: String,
    headers: HeaderMap,
}

impl ApiClient {
    /// Requests to `base` (`http://host:port`) without a token.
    pub fn new(http: HttpClient, base: impl Into<String>) -> Self {
        Self { http, base: base.into(), headers: HeaderMap::new() }
    }

    /// With a bearer token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header(AUTHORIZATION.as_str(), &format!("Bearer {token}"))
    }

    /// With a header on every request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        self.headers.insert(name, HeaderValue::from_str(value).expect("a header value"));
        self
    }

    /// `GET` of a path such as `/api/webhooks`.
    pub async fn get(&self, path: &str) -> Answer {
        self.raw(Method::GET, path, None, Bytes::new()).await
    }

    /// `POST` of a JSON document.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.json(Method::POST, path, body).await
    }

    /// `PUT` of a JSON document.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.json(Method::PUT, path, body).await
    }

    /// `DELETE` of a path.
    pub async fn delete(&self, path: &str) -> Answer {
        self.raw(Method::DELETE, path, None, Bytes::new()).await
    }

    /// A request with a JSON document.
    pub async fn json(&self, method: Method, path: &str, body: &Value) -> Answer {
        self.raw(method, path, Some("application/json"), body.to_string().into()).await
    }

    /// `POST` of a JSON text exactly as written.
    pub async fn post_text(&self, path: &str, json: impl Into<Bytes>) -> Answer {
        self.raw(Method::POST, path, Some("application/json"), json.into()).await
    }

    /// A request with any body.
    pub async fn raw(&self, method: Method, path: &str, content_type: Option<&str>, body: Bytes) -> Answer {
        let mut request = http::Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.base).parse().expect("a path");
        *request.headers_mut() = self.headers.clone();
        if let Some(content_type) = content_type {
            let value = HeaderValue::from_str(content_type).expect("a content type");
            request.headers_mut().insert(CONTENT_TYPE, value);
        }
        self.http.send(request).await
    }
}

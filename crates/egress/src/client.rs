//! The client.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::network::AddressPolicy;
use http::{Extensions, HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use crate::attempt::{Attempt, AttemptError, Outcome, Response};
use crate::connect::{Bounded, Connector};
use crate::connection::{AwaitedAnswer, Connections, Usage};
use crate::proxy::{Proxy, Route};
use crate::resolve::{DnsConfig, Resolver};
use crate::tls;

/// Most headers of a response.
const MAX_RESPONSE_HEADERS: usize = 100;

/// Most bytes of a response's head.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// Bytes of one response's body that an HTTP/2 receiver may send ahead of being read.
const STREAM_WINDOW: u32 = 32 * 1024;

/// The same for one connection: a receiver that floods its answers fills this much memory.
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// Bytes that are read of one answer beyond its head and what is kept of its body: trailers, how chunks and frames are
/// written, and what was under way when the reading stopped.
const ANSWER_OVERHEAD: usize = 128 * 1024;

/// How much later than the last request on it can end a connection is cut, whatever goes on on it.
const CONNECTION_SLACK: Duration = Duration::from_secs(2);

/// How requests are made.
#[derive(Debug, Clone)]
pub struct EgressConfig {
    /// One attempt, from its start to the status line.
    pub timeout: Duration,
    /// DNS, connection and TLS; part of the attempt's time.
    pub connect_timeout: Duration,
    /// Bytes of a response's body that are kept.
    pub response_limit: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// Idle connections kept to one receiver.
    pub max_idle_per_host: usize,
    /// Connections open at once, beyond which those that have done their request are closed.
    pub max_connections: u32,
    /// How long a connection takes new requests.
    pub connection_lifetime: Duration,
    /// The proxy that all connections go through. The environment's are not asked.
    pub proxy: Option<Proxy>,
    /// Which addresses requests may go to.
    pub addresses: AddressPolicy,
    /// How receivers' names are looked up.
    pub dns: DnsConfig,
    /// PEM certificates to trust instead of the platform's.
    pub ca_file: Option<PathBuf>,
}

/// The client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// No certificates to trust.
    #[error("no trusted certificates: {0}")]
    Roots(String),
    /// TLS or DNS cannot be set up.
    #[error("outgoing requests cannot be set up: {0}")]
    Setup(String),
}

type Https = legacy::Client<Bounded<HttpsConnector<Connector>>, Full<Bytes>>;

/// Makes requests to receivers. Clones share connections.
#[derive(Clone)]
pub struct Client {
    https: Https,
    connections: Connections,
    timeout: Duration,
    response_limit: usize,
    max_connections: u32,
    connection_lifetime: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Client {
    /// Sets up a client.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        let tls = tls::config(config.ca_file.as_deref())?;
        // The last request on a connection starts before its idle time is over, after it stopped taking new ones.
        let last_end = config.connection_lifetime + config.idle_timeout + config.timeout;
        let answer = MAX_RESPONSE_HEAD + config.response_limit + ANSWER_OVERHEAD;
        let connections = Connections::new(answer, last_end + CONNECTION_SLACK);
        let resolver = Resolver::new(config.dns).map_err(EgressError::Setup)?;
        let connector = Connector {
            route: Route::new(config.proxy, &resolver),
            resolver,
            addresses: Arc::new(config.addresses),
            timeout: config.connect_timeout,
            connections: connections.clone(),
        };
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(connector);
        let https = Bounded { inner: https, limit: config.connect_timeout };
        let https = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(config.idle_timeout)
            .pool_max_idle_per_host(config.max_idle_per_host)
            .http1_title_case_headers(true)
            .http1_max_headers(MAX_RESPONSE_HEADERS)
            .http1_max_buf_size(MAX_RESPONSE_HEAD)
            .http2_max_header_list_size(u32::try_from(MAX_RESPONSE_HEAD).unwrap_or(u32::MAX))
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .build(https);
        Ok(Self {
            https,
            connections,
            timeout: config.timeout,
            response_limit: config.response_limit,
            max_connections: config.max_connections,
            connection_lifetime: config.connection_lifetime,
        })
    }

    /// The TCP connections that are open, idle ones and those whose TLS is being agreed on included.
    pub fn open_connections(&self) -> u32 {
        self.connections.open()
    }

    /// Posts a body. Ends by the deadline, whatever the receiver does.
    ///
    /// Cancellation: dropping the future drops the connection; the receiver may have got the request.
    pub async fn post(&self, uri: Uri, headers: HeaderMap, body: Bytes) -> Attempt {
        let start = Instant::now();
        let outcome = match self.request(uri, headers, body, start + self.timeout).await {
            Ok(response) => Outcome::Responded(response),
            Err(error) => Outcome::Failed(error),
        };
        Attempt { duration: start.elapsed(), outcome }
    }

    async fn request(
        &self,
        uri: Uri,
        headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Response, AttemptError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;

        let mut captured = capture_connection(&mut request);
        // Held until the answer was read.
        let mut awaited = None;
        let exchange = async {
            let mut responding = pin!(self.https.request(request));
            tokio::select! {
                biased;
                responded = &mut responding => return responded,
                answer = self.take_part(&mut captured) => awaited = answer,
            }
            responding.await
        };
        let responded = match timeout_at(deadline, exchange).await {
            Ok(responded) => responded.map_err(|error| explain(&error)),
            Err(_) if awaited.is_none() => Err(AttemptError::ConnectTimeout(self.timeout)),
            Err(_) => Err(AttemptError::Timeout(self.timeout)),
        };
        let read = match responded {
            Ok(response) => {
                let status = response.status().as_u16();
                let (body, end) = self.read_body(response.into_body(), deadline).await;
                Ok((Response { status, body }, end))
            }
            Err(error) => Err(error),
        };
        drop(awaited);
        if !matches!(read, Ok((_, BodyEnd::Read))) {
            discard(&captured);
        }
        read.map(|(response, _)| response)
    }

    /// Waits for the request's connection, and counts the request in.
    async fn take_part(&self, captured: &mut CaptureConnection) -> Option<AwaitedAnswer> {
        let connected = captured.wait_for_connection_metadata().await;
        let connected = connected.as_ref()?;
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        let usage: &Arc<Usage> = extras.get()?;
        if usage.age() >= self.connection_lifetime || self.connections.open() > self.max_connections {
            connected.poison();
        }
        Some(usage.await_answer())
    }

    /// Reads what comes before the deadline and below the limit. The status has decided already: a body that
    /// is late, broken or endless is cut.
    async fn read_body(&self, mut body: Incoming, deadline: Instant) -> (Bytes, BodyEnd) {
        let mut kept = BytesMut::new();
        let end = loop {
            if kept.len() >= self.response_limit {
                break if body.is_end_stream() { BodyEnd::Read } else { BodyEnd::Cut };
            }
            match timeout_at(deadline, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let room = self.response_limit - kept.len();
                    kept.extend_from_slice(&data[..data.len().min(room)]);
                }
                Ok(None) => break BodyEnd::Read,
                Ok(Some(Err(_))) | Err(_) => break BodyEnd::Cut,
            }
        };
        (kept.freeze(), end)
    }
}

/// Whether a body was read to its end.
enum BodyEnd {
    Read,
    Cut,
}

/// Sees to it that a connection gets no more requests. Those that are on it already go on.
fn discard(captured: &CaptureConnection) {
    if let Some(connected) = captured.connection_metadata().as_ref() {
        connected.poison();
    }
}

/// Finds the cause that a developer can act on in an error's chain.
fn explain(error: &legacy::Error) -> AttemptError {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut innermost = error.to_string();
    while let Some(current) = cause {
        if let Some(known) = find::<AttemptError>(current) {
            return known.clone();
        }
        if let Some(error) = find::<rustls::Error>(current) {
            return AttemptError::Tls(tls::describe(error));
        }
        innermost = current.to_string();
        cause = current.source();
    }
    if error.is_connect() { AttemptError::Connect(innermost) } else { AttemptError::Protocol(innermost) }
}

/// Errors travel inside I/O errors, whose `source` skips them.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let io: Option<&'a io::Error> = error.downcast_ref();
    let inner = io.and_then(io::Error::get_ref).map(|inner| inner as &(dyn StdError + 'static));
    error.downcast_ref().or_else(|| inner.and_then(find))
}

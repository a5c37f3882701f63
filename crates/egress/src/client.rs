//! The client.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::network::AddressPolicy;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::time::{Instant, timeout_at};

use crate::attempt::{Attempt, AttemptError, Outcome, Response};
use crate::connect::{Bounded, Connector};
use crate::resolve::Resolver;

/// Most headers of a response.
const MAX_RESPONSE_HEADERS: usize = 100;

/// Most bytes of a response's head.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// Bytes of one response's body that an HTTP/2 receiver may send ahead of being read.
const STREAM_WINDOW: u32 = 32 * 1024;

/// The same for one connection: a receiver that floods its answers fills this much memory.
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// How often an HTTP/2 connection with requests is asked whether it still lives, and how long the answer may take. All
/// requests to a receiver share one: were it dead unnoticed, they would time out one after another.
const PING: Duration = Duration::from_secs(3);

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
    /// Which addresses requests may go to.
    pub addresses: AddressPolicy,
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
    timeout: Duration,
    response_limit: usize,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Client {
    /// Sets up a client.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        let tls = tls(config.ca_file.as_deref())?;
        let connector = Connector {
            resolver: Resolver::new().map_err(EgressError::Setup)?,
            addresses: Arc::new(config.addresses),
            timeout: config.connect_timeout,
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
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .build(https);
        Ok(Self { https, timeout: config.timeout, response_limit: config.response_limit })
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

        let responded = timeout_at(deadline, self.https.request(request)).await;
        let response =
            responded.map_err(|_| AttemptError::Timeout(self.timeout))?.map_err(|error| explain(&error))?;
        let status = response.status().as_u16();
        let body = self.read_body(response.into_body(), deadline).await;
        Ok(Response { status, body })
    }

    /// Reads what comes before the deadline and below the limit. The status has decided already: a body that
    /// is late, broken or endless is cut.
    async fn read_body(&self, mut body: Incoming, deadline: Instant) -> Bytes {
        let mut kept = BytesMut::new();
        while kept.len() < self.response_limit
            && let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await
        {
            let Ok(data) = frame.into_data() else { continue };
            let room = self.response_limit - kept.len();
            kept.extend_from_slice(&data[..data.len().min(room)]);
        }
        kept.freeze()
    }
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, EgressError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unusable = |reason: String| EgressError::Roots(format!("{}: {reason}", path.display()));
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
                roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(EgressError::Roots(
            "install the system's CA certificates or set egress.ca_file".to_owned(),
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| EgressError::Setup(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Finds the cause that a developer can act on in an error's chain.
fn explain(error: &legacy::Error) -> AttemptError {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut innermost = error.to_string();
    while let Some(current) = cause {
        if let Some(known) = current.downcast_ref::<AttemptError>() {
            return known.clone();
        }
        if let Some(tls) = find_tls(current) {
            return AttemptError::Tls(describe_tls(tls));
        }
        innermost = current.to_string();
        cause = current.source();
    }
    if error.is_connect() { AttemptError::Connect(innermost) } else { AttemptError::Protocol(innermost) }
}

/// TLS errors travel inside I/O errors, whose `source` skips them.
fn find_tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let io: Option<&'a std::io::Error> = error.downcast_ref();
    let inner = io.and_then(std::io::Error::get_ref).map(|inner| inner as &(dyn StdError + 'static));
    error.downcast_ref().or_else(|| inner.and_then(find_tls))
}

fn describe_tls(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(certificate) = error else { return error.to_string() };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet".to_owned()
        }
        CertificateError::UnknownIssuer => {
            "the certificate's issuer is unknown: is the chain complete, or the certificate self-signed?"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another host name".to_owned()
        }
        other => format!("the certificate is not valid: {other}"),
    }
}

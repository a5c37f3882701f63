//! A server with bounds, from a listener to an application.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::error::DispatchError;
use actix_http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use actix_http::{ConnectionType, HttpMessage as _, HttpService, Protocol, Request, Response, Version};
use actix_server::Server;
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _, apply_fn_factory, fn_service,
    map_config,
};
use actix_web::dev::AppConfig;
use ipnet::IpNet;
use metrics::counter;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::warn;

use crate::answer::{NO_ANSWER, TOO_MANY_CONNECTIONS};
use crate::client::Network;
use crate::connection::{Connection, Patience, Progress};
use crate::slots::Slots;

/// How long a client may go on sending a body that nobody takes, after it was answered.
const DISCONNECT: Duration = Duration::from_secs(1);

/// What a server bears.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Threads that serve requests.
    pub workers: usize,
    /// Connections at once, per thread. More wait to be accepted.
    pub connections: usize,
    /// Connections at once of one IPv4 address or IPv6 /64, of all threads together. More are refused with 429.
    pub connections_per_address: u32,
    /// Those who may have any number of connections: proxies, whose clients are many.
    pub proxies: Vec<IpNet>,
    /// Bytes of a request's head; larger ones are refused with 431.
    pub head_bytes: usize,
    /// From the first byte of a head to its last, then 408; also from the connection to the first head.
    pub head_timeout: Duration,
    /// How long a connection without requests is kept.
    pub idle_timeout: Duration,
    /// From the head to the answer, then 503; the work on the request is given up.
    pub answer_timeout: Duration,
    /// How long a client may take to read its answer, beyond what the system buffers; then the connection is closed.
    pub write_timeout: Duration,
    /// How long requests under way may take when the server is stopped.
    pub grace: Duration,
}

impl Bounds {
    fn patience(&self) -> Patience {
        Patience {
            head: self.head_timeout,
            head_bytes: self.head_bytes,
            idle: self.idle_timeout,
            write: self.write_timeout,
        }
    }
}

/// Binds an address and serves an application there; `application` is called once a thread. The server answers
/// once it is awaited or spawned, and stops through its handle. Tells the address that was bound.
///
/// # Errors
/// The address cannot be bound.
pub fn listen<F, I, S, B>(
    address: SocketAddr,
    bounds: &Bounds,
    application: F,
) -> io::Result<(Server, SocketAddr)>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    let builder = Server::build()
        .workers(bounds.workers)
        .max_concurrent_connections(bounds.connections)
        .shutdown_timeout(bounds.grace.as_secs())
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    let slots = Slots::new(bounds.connections_per_address);
    let (patience, answer_timeout, idle) = (bounds.patience(), bounds.answer_timeout, bounds.idle_timeout);
    let proxies: Arc<[IpNet]> = bounds.proxies.clone().into();

    let server = builder.listen(format!("http {bound}"), listener, move || {
        let (slots, proxies, stopping) = (slots.clone(), proxies.clone(), stopping.clone());
        let accept = fn_service(move |io| accept(io, patience, slots.clone(), proxies.clone()));
        let application = application().into_factory().map_err(|error: S::Error| {
            let error: actix_web::Error = error.into();
            error.error_response()
        });
        let application = map_config(application, |()| AppConfig::default());
        let application = apply_fn_factory(application, move |request: Request, application: &_| {
            let (served, version) = (Served::begin(&request), request.version());
            let answer = Service::call(application, request);
            async move {
                let answered = timeout(answer_timeout, answer).await;
                served.end();
                match answered {
                    Ok(answer) => answer.map(|answer| framed(answer.into().map_into_boxed_body(), version)),
                    Err(_) => Ok(no_answer()),
                }
            }
        });
        let http = HttpService::<Connection, _, BoxBody>::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(idle)
            // The connection does better: see there.
            .client_request_timeout(Duration::ZERO)
            .client_disconnect_timeout(DISCONNECT)
            .local_addr(bound)
            .on_connect_ext(|connection: &Connection, extensions| {
                extensions.insert(connection.progress());
            })
            .finish(application);
        accept.and_then(http)
    })?;
    Ok((server.run(), bound))
}

/// A request that the application works on.
struct Served {
    progress: Option<Rc<Progress>>,
    has_body: bool,
}

impl Served {
    fn begin(request: &Request) -> Self {
        let progress = request.conn_data::<Rc<Progress>>().cloned();
        if let Some(progress) = &progress {
            progress.begin();
        }
        let headers = request.headers();
        let is_empty = headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0");
        Self { progress, has_body: !is_empty || headers.contains_key(TRANSFER_ENCODING) }
    }

    fn end(self) {
        if let Some(progress) = self.progress {
            progress.end(self.has_body);
        }
    }
}

/// A client that does not know chunks takes a body of unknown length until the connection ends (RFC 9112 §6.1 and §6.3).
fn framed(mut answer: Response<BoxBody>, version: Version) -> Response<BoxBody> {
    if version < Version::HTTP_11 && answer.body().size() == BodySize::Stream {
        let head = answer.head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close);
    }
    answer
}

fn no_answer() -> Response<BoxBody> {
    warn!("a request was given up: no answer within the time for it");
    counter!("http_requests_given_up_total").increment(1);
    NO_ANSWER.response()
}

/// Takes a connection in, if its address may have one more.
async fn accept(
    mut io: TcpStream,
    patience: Patience,
    slots: Arc<Slots<Network>>,
    proxies: Arc<[IpNet]>,
) -> Result<(Connection, Protocol, Option<SocketAddr>), DispatchError> {
    let peer = io.peer_addr().ok();
    let is_proxy = |peer: SocketAddr| proxies.iter().any(|proxy| proxy.contains(&peer.ip().to_canonical()));
    let slot = if peer.is_some_and(is_proxy) {
        None
    } else {
        let network = peer.map_or_else(Network::unknown, |peer| Network::of(peer.ip()));
        let Some(slot) = slots.take(network) else {
            counter!("http_connections_closed_total", "why" => TOO_MANY_CONNECTIONS.code()).increment(1);
            // An empty send buffer takes it at once.
            let _ = timeout(DISCONNECT, io.write_all(&TOO_MANY_CONNECTIONS.bytes())).await;
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        };
        Some(slot)
    };
    Ok((Connection::new(io, patience, slot), Protocol::Http1, peer))
}

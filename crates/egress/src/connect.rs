//! Connections to addresses that were checked.

use std::error::Error as StdError;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use domain::network::{AddressPolicy, Host, HostError};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use crate::attempt::AttemptError;
use crate::connection::{Connection, Connections};
use crate::proxy::Route;
use crate::resolve::Resolver;

/// Opens TCP connections, to allowed addresses only.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) resolver: Resolver,
    pub(crate) addresses: Arc<AddressPolicy>,
    pub(crate) timeout: Duration,
    pub(crate) route: Route,
    pub(crate) connections: Connections,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let stream = connector.connect(&uri).await?;
            Ok(TokioIo::new(connector.connections.admit(stream)))
        })
    }
}

/// Bounds everything that comes before a request: DNS, connection, TLS.
#[derive(Clone)]
pub(crate) struct Bounded<S> {
    pub(crate) inner: S,
    pub(crate) limit: Duration,
}

impl<S> Service<Uri> for Bounded<S>
where
    S: Service<Uri, Error = Box<dyn StdError + Send + Sync>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, limit) = (self.inner.call(uri), self.limit);
        Box::pin(
            async move { timeout(limit, connecting).await.map_err(|_| AttemptError::ConnectTimeout(limit))? },
        )
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> Result<TcpStream, AttemptError> {
        let destinations = self.destinations(uri).await?;

        // Tried one after another, each with its share of the time that is left.
        let share = self.timeout / u32::try_from(destinations.len()).unwrap_or(u32::MAX).clamp(1, 3);
        let mut failure = AttemptError::Dns(format!("{} has no address", uri.host().unwrap_or_default()));
        for destination in destinations {
            match timeout(share, self.route.open(destination, share)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                // Another address would not mend it.
                Ok(Err(error)) if error.is_ours() => return Err(error),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = AttemptError::ConnectTimeout(share),
            }
        }
        Err(failure)
    }

    /// Where a request to a URL may go: what its host leads to at this moment, without what is blocked; an error if
    /// nothing is left. What is connected to is what was checked here.
    async fn destinations(&self, uri: &Uri) -> Result<Vec<SocketAddr>, AttemptError> {
        let text = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        // The rules of the URL's creation, again: nothing here relies on its having been checked.
        let found = match self.addresses.check_host(text, port) {
            Ok(Host::Address(address)) => vec![address],
            Ok(Host::Name(name)) => self.resolver.addresses(&name).await?,
            Err(HostError::Address(blocked)) => return Err(AttemptError::Blocked(blocked)),
            Err(error) => return Err(AttemptError::Url(error.to_string())),
        };
        let mut refused = None;
        let mut destinations = Vec::with_capacity(found.len());
        for address in found {
            match self.addresses.check(address) {
                Ok(()) => match self.addresses.check_port(address, port) {
                    Ok(()) => destinations.push(SocketAddr::new(address, port)),
                    Err(blocked) => refused = Some(AttemptError::Url(blocked.to_string())),
                },
                Err(blocked) => refused = Some(AttemptError::Blocked(blocked)),
            }
        }
        match refused {
            Some(error) if destinations.is_empty() => Err(error),
            _ => Ok(destinations),
        }
    }
}

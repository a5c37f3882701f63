//! Connections to addresses that were checked.

use std::error::Error as StdError;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use domain::network::AddressPolicy;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use crate::attempt::AttemptError;
use crate::resolve::Resolver;

/// Opens TCP connections, to allowed addresses only.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) resolver: Resolver,
    pub(crate) addresses: Arc<AddressPolicy>,
    pub(crate) timeout: Duration,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { Ok(TokioIo::new(connector.connect(&uri).await?)) })
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
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let allowed = self.allowed_addresses(host).await?;

        // Tried one after another, each with its share of the time that is left.
        let share = self.timeout / u32::try_from(allowed.len()).unwrap_or(u32::MAX).clamp(1, 3);
        let mut failure = AttemptError::Dns(format!("{host} has no address"));
        for address in allowed {
            let address = SocketAddr::new(address, port);
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => failure = AttemptError::Connect(format!("{address}: {error}")),
                Err(_) => failure = AttemptError::ConnectTimeout(share),
            }
        }
        Err(failure)
    }

    /// The host's addresses that requests may go to; an error if there is none.
    async fn allowed_addresses(&self, host: &str) -> Result<Vec<IpAddr>, AttemptError> {
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let found = match literal {
            Ok(address) => vec![address],
            Err(_) => self.resolver.addresses(host).await?,
        };
        let mut blocked = None;
        let mut allowed = Vec::with_capacity(found.len());
        for address in found {
            match self.addresses.check(address) {
                Ok(()) => allowed.push(address),
                Err(error) => blocked = Some(error),
            }
        }
        match blocked {
            Some(blocked) if allowed.is_empty() => Err(AttemptError::Blocked(blocked)),
            _ => Ok(allowed),
        }
    }
}

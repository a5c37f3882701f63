//! The way to a receiver: straight, or through the operator's proxy.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tracing::{info, warn};
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::attempt::AttemptError;
use crate::resolve::Resolver;

/// Most bytes of the proxy's answer.
const MAX_HEAD: usize = 8 * 1024;

/// Most headers of the proxy's answer.
const MAX_HEADERS: usize = 64;

/// An HTTP proxy that requests leave through.
#[derive(Clone)]
pub struct Proxy {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<Zeroizing<String>>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

/// The proxy's URL is not usable. The URL is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proxy must be given as http://host:port or http://user:password@host:port")]
pub struct InvalidProxy;

impl Proxy {
    /// Reads `http://host:port`, with `user:password@` before the host for basic authentication.
    pub fn parse(url: &str) -> Result<Self, InvalidProxy> {
        let url = Url::parse(url).map_err(|_| InvalidProxy)?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if url.scheme() != "http" || !bare {
            return Err(InvalidProxy);
        }
        let host = match url.host().ok_or(InvalidProxy)? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let authorization = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => Some(basic(user, password.unwrap_or_default())),
        };
        Ok(Self { host, port: url.port_or_known_default().ok_or(InvalidProxy)?, authorization })
    }
}

/// RFC 7617.
fn basic(user: &str, password: &str) -> Zeroizing<String> {
    let mut credentials = Zeroizing::new(Vec::new());
    credentials.extend(percent_decode_str(user));
    credentials.push(b':');
    credentials.extend(percent_decode_str(password));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(&*credentials)))
}

/// How connections leave.
#[derive(Clone)]
pub(crate) enum Route {
    Direct,
    Proxied(Tunnels),
}

impl Route {
    pub(crate) fn new(proxy: Option<Proxy>) -> Self {
        proxy.map_or(Self::Direct, |proxy| {
            Self::Proxied(Tunnels { proxy: Arc::new(proxy), failing: Arc::default() })
        })
    }

    /// Connects to an address that was checked. It is the address that a proxy is told, never the name: what the proxy
    /// would find under the name was not checked.
    pub(crate) async fn open(
        &self,
        resolver: &Resolver,
        address: SocketAddr,
    ) -> Result<TcpStream, AttemptError> {
        match self {
            Self::Direct => TcpStream::connect(address)
                .await
                .map_err(|error| AttemptError::Connect(format!("{address}: {error}"))),
            Self::Proxied(tunnels) => tunnels.open(resolver, address).await,
        }
    }
}

/// Connections through a proxy by `CONNECT` (RFC 9110 §9.3.6), for `http` URLs too.
#[derive(Clone)]
pub(crate) struct Tunnels {
    proxy: Arc<Proxy>,
    /// Whether the last one failed for the proxy's reasons.
    failing: Arc<AtomicBool>,
}

impl Tunnels {
    async fn open(&self, resolver: &Resolver, address: SocketAddr) -> Result<TcpStream, AttemptError> {
        let opened = async {
            let mut stream = self.connect(resolver).await?;
            let status = self.ask(&mut stream, address).await?;
            Ok((stream, status))
        };
        let failed = match opened.await {
            Ok((stream, 200..300)) => {
                self.note_success();
                return Ok(stream);
            }
            // The proxy works; whom it was to connect to does not answer it.
            Ok((_, status @ 502..=504)) => {
                self.note_success();
                let reason = format!("{address}: the egress proxy could not connect, status {status}");
                return Err(AttemptError::Connect(reason));
            }
            Ok((_, status)) => format!("it refused the connection with status {status}"),
            Err(reason) => reason,
        };
        if !self.failing.swap(true, Ordering::Relaxed) {
            warn!(
                proxy.host = self.proxy.host,
                proxy.port = self.proxy.port,
                reason = failed,
                "the egress proxy fails"
            );
        }
        Err(AttemptError::Proxy(failed))
    }

    fn note_success(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            info!("the egress proxy works again");
        }
    }

    /// The reasons do not say where the proxy is: developers read them.
    async fn connect(&self, resolver: &Resolver) -> Result<TcpStream, String> {
        let addresses = if let Ok(address) = self.proxy.host.parse() {
            vec![address]
        } else {
            let found = resolver.addresses(&self.proxy.host).await;
            found.map_err(|_| "its name leads nowhere".to_owned())?
        };
        let mut failure = "its name leads nowhere".to_owned();
        for address in addresses {
            match TcpStream::connect((address, self.proxy.port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = format!("it cannot be reached: {error}"),
            }
        }
        Err(failure)
    }

    /// Asks for a tunnel; the status of the answer. Nothing may follow the answer: that would be taken for the
    /// receiver's.
    async fn ask(&self, stream: &mut TcpStream, address: SocketAddr) -> Result<u16, String> {
        let broken = |error: std::io::Error| format!("the connection to it broke: {error}");
        let mut request = Zeroizing::new(format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n"));
        if let Some(authorization) = &self.proxy.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(broken)?;

        let mut head = vec![0; MAX_HEAD];
        let mut filled = 0;
        loop {
            let read = stream.read(&mut head[filled..]).await.map_err(broken)?;
            if read == 0 {
                return Err("it closed the connection".to_owned());
            }
            filled += read;
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut answer = httparse::Response::new(&mut headers);
            match answer.parse(&head[..filled]) {
                Ok(httparse::Status::Complete(length)) => match answer.code {
                    Some(200..300) if length < filled => {
                        return Err("it sent more than its answer".to_owned());
                    }
                    Some(status) => return Ok(status),
                    None => return Err("its answer has no status".to_owned()),
                },
                Ok(httparse::Status::Partial) if filled == MAX_HEAD => {
                    return Err("its answer is too long".to_owned());
                }
                Ok(httparse::Status::Partial) => {}
                Err(error) => return Err(format!("its answer is not HTTP: {error}")),
            }
        }
    }
}

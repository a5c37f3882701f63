//! The way to a receiver: straight, or through the operator's proxy.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{info, warn};
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::attempt::{AttemptError, is_exhausted};
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
    Proxied(Box<Tunnels>),
}

impl Route {
    pub(crate) fn new(proxy: Option<Proxy>, resolver: &Resolver) -> Self {
        proxy.map_or(Self::Direct, |proxy| {
            let resolver = resolver.for_one_name();
            Self::Proxied(Box::new(Tunnels { proxy: Arc::new(proxy), resolver, failing: Arc::default() }))
        })
    }

    /// Connects to an address that was checked; the caller ends it after `limit`. It is the address that a proxy is told, never the name: what the proxy
    /// would find under the name was not checked.
    pub(crate) async fn open(&self, address: SocketAddr, limit: Duration) -> Result<TcpStream, AttemptError> {
        match self {
            Self::Direct => TcpStream::connect(address)
                .await
                .map_err(|error| AttemptError::of_connecting(&error, address)),
            Self::Proxied(tunnels) => tunnels.open(address, limit).await,
        }
    }
}

/// Connections through a proxy by `CONNECT` (RFC 9110 §9.3.6), for `http` URLs too.
#[derive(Clone)]
pub(crate) struct Tunnels {
    proxy: Arc<Proxy>,
    resolver: Resolver,
    /// Whether the last one failed for the proxy's reasons.
    failing: Arc<AtomicBool>,
}

impl Tunnels {
    async fn open(&self, address: SocketAddr, limit: Duration) -> Result<TcpStream, AttemptError> {
        let opened = async {
            // What is left of the time is for the proxy to connect in.
            let mut stream = self.connect(limit / 2).await?;
            let answer = self.ask(&mut stream, address).await?;
            Ok((stream, answer))
        };
        let failed = match opened.await {
            // RFC 9110 §15.5.8: who asks for credentials says which.
            Ok((_, Answer { status: 407, asks_who_we_are: true, .. } | Answer { status: 429, .. })) => {
                "it does not let us in".to_owned()
            }
            // The proxy works. Whom it was to connect to does not answer, or it may not connect there.
            Ok((stream, answer)) => {
                self.note_success();
                return match answer {
                    Answer { status: 200..300, is_all: true, .. } => Ok(stream),
                    // Taken for the answer to the request, it would be one to whatever is requested.
                    Answer { status: 200..300, is_all: false, .. } => {
                        Err(AttemptError::Protocol("the receiver spoke before it was asked".to_owned()))
                    }
                    // Squid and Envoy deny by 403, Smokescreen by a 407 that asks for nothing.
                    Answer { status: status @ (403 | 407 | 451), .. } => Err(AttemptError::Url(format!(
                        "the address may not be reached: the egress proxy refuses it (status {status})"
                    ))),
                    // 502, 503 and 504 too: common proxies answer each of them where a destination does not.
                    Answer { status, .. } => Err(AttemptError::Connect(format!(
                        "{address}: the egress proxy did not connect, status {status}"
                    ))),
                };
            }
            Err(Failure::Ours(error)) => return Err(error),
            Err(Failure::Proxy(reason)) => reason,
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

    /// The reasons do not say where the proxy is: developers may read them. Its addresses are tried one after another, each
    /// with its share of the time.
    async fn connect(&self, limit: Duration) -> Result<TcpStream, Failure> {
        let nowhere = || Failure::Proxy("its name leads nowhere".to_owned());
        let addresses = if let Ok(address) = self.proxy.host.parse() {
            vec![address]
        } else {
            let found = timeout(limit, self.resolver.addresses(&self.proxy.host)).await;
            found.map_err(|_| nowhere())?.map_err(|error| match error {
                error if error.is_ours() => Failure::Ours(error),
                _ => nowhere(),
            })?
        };
        let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut failure = nowhere();
        for address in addresses {
            failure = match timeout(share, TcpStream::connect((address, self.proxy.port))).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) if is_exhausted(&error) => {
                    return Err(Failure::Ours(AttemptError::Exhausted(error.to_string())));
                }
                Ok(Err(error)) => Failure::Proxy(format!("it cannot be reached: {error}")),
                Err(_) => Failure::Proxy("it cannot be reached: no answer in time".to_owned()),
            };
        }
        Err(failure)
    }

    /// Asks for a tunnel.
    async fn ask(&self, stream: &mut TcpStream, address: SocketAddr) -> Result<Answer, Failure> {
        let failed = |reason: &str| Err(Failure::Proxy(reason.to_owned()));
        let broken = |error: io::Error| Failure::Proxy(format!("the connection to it broke: {error}"));
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
                return failed("it closed the connection");
            }
            filled += read;
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut answer = httparse::Response::new(&mut headers);
            match answer.parse(&head[..filled]) {
                Ok(httparse::Status::Complete(length)) => {
                    return match answer.code {
                        Some(status) => Ok(Answer {
                            status,
                            asks_who_we_are: answer
                                .headers
                                .iter()
                                .any(|header| header.name.eq_ignore_ascii_case("proxy-authenticate")),
                            is_all: length == filled,
                        }),
                        None => failed("its answer has no status"),
                    };
                }
                Ok(httparse::Status::Partial) if filled == MAX_HEAD => {
                    return failed("its answer is too long");
                }
                Ok(httparse::Status::Partial) => {}
                Err(error) => return failed(&format!("its answer is not HTTP: {error}")),
            }
        }
    }
}

/// What the proxy answered.
struct Answer {
    status: u16,
    /// It has a `Proxy-Authenticate`.
    asks_who_we_are: bool,
    /// Nothing came behind it.
    is_all: bool,
}

/// Why there is no answer.
enum Failure {
    Ours(AttemptError),
    Proxy(String),
}

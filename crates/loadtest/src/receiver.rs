//! The receiver: verifies every signature, notes the event, answers as its webhook is told to.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ring::hmac;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::tally::Tally;
use crate::tls::Protocol;

/// How a webhook's endpoint answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200, at once.
    Well,
    /// 200, after this time.
    After(Duration),
    /// 500, at once.
    Failing,
    /// Never.
    Never,
}

/// One webhook's endpoint.
struct Hook {
    key: hmac::Key,
    answer: Answer,
    /// Requests with a good signature.
    requests: AtomicU64,
}

/// An HTTP server on loopback, in this process.
pub(crate) struct Receiver {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
}

struct Shared {
    tally: Arc<Tally>,
    /// What is at `/hook/INDEX`.
    hooks: OnceLock<Vec<Hook>>,
}

/// What the receiver speaks.
#[derive(Clone)]
pub(crate) struct Speaks {
    /// With TLS, its side of it.
    pub(crate) tls: Option<TlsAcceptor>,
    /// The version of HTTP.
    pub(crate) protocol: Protocol,
}

impl Receiver {
    /// Starts listening on a port that the system chooses.
    pub(crate) async fn start(tally: Arc<Tally>, speaks: Speaks) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("the receiver cannot listen")?;
        let address = listener.local_addr()?;
        let scheme = if speaks.tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared { tally, hooks: OnceLock::new() });
        tokio::spawn(serve(listener, shared.clone(), speaks));
        Ok(Self { address, scheme, shared })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of webhook `index`.
    pub(crate) fn url(&self, index: usize) -> String {
        format!("{}://{}/hook/{index}", self.scheme, self.address)
    }

    /// Tells the webhooks' secrets and how they answer, once all are made.
    pub(crate) fn set_hooks(
        &self,
        secrets: &[String],
        answers: impl Fn(usize) -> Answer,
    ) -> anyhow::Result<()> {
        let hooks = secrets.iter().enumerate().map(|(index, secret)| Hook {
            // The key of the guide's signature: the whole secret.
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            answer: answers(index),
            requests: AtomicU64::new(0),
        });
        self.shared.hooks.set(hooks.collect()).ok().context("the secrets were told before")
    }

    /// Requests that came to webhook `index`.
    pub(crate) fn requests(&self, index: usize) -> u64 {
        let hook = self.shared.hooks.get().and_then(|hooks| hooks.get(index));
        hook.map_or(0, |hook| hook.requests.load(Ordering::Relaxed))
    }
}

/// Ends with the runtime; connections are as many as the client opens: the dispatcher's bound, or the bare loop's.
async fn serve(listener: TcpListener, shared: Arc<Shared>, speaks: Speaks) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (shared, speaks) = (shared.clone(), speaks.clone());
        tokio::spawn(async move {
            match speaks.tls {
                None => serve_connection(stream, shared, speaks.protocol).await,
                // A client that does not get through the handshake misses its deliveries: they are counted.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve_connection(stream, shared, speaks.protocol).await;
                    }
                }
            }
        });
    }
}

async fn serve_connection<S>(stream: S, shared: Arc<Shared>, protocol: Protocol)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| answer(request, shared.clone()));
    // A connection that breaks off is the client's affair.
    let _ = match protocol {
        Protocol::Http1 => http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await,
        Protocol::Http2 => {
            let server = http2::Builder::new(TokioExecutor::new());
            server.serve_connection(TokioIo::new(stream), answer).await
        }
    };
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let status = match known(&shared, head.uri.path(), &head.headers, &body) {
        Some(Answer::Well) => StatusCode::OK,
        Some(Answer::After(delay)) => {
            tokio::time::sleep(delay).await;
            StatusCode::OK
        }
        Some(Answer::Failing) => StatusCode::INTERNAL_SERVER_ERROR,
        Some(Answer::Never) => pending().await,
        None => {
            shared.tally.note_invalid();
            StatusCode::UNAUTHORIZED
        }
    };
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    Ok(response)
}

/// How to answer a request, which is noted; `None` if it is not what it has to be.
fn known(shared: &Shared, path: &str, headers: &HeaderMap, body: &[u8]) -> Option<Answer> {
    let webhook: usize = path.strip_prefix("/hook/")?.parse().ok()?;
    let hook = shared.hooks.get()?.get(webhook)?;
    let signature = unhex(headers.get("x-lok-signature")?.as_bytes())?;
    hmac::verify(&hook.key, body, &signature).ok()?;
    let is_expected = shared.tally.note_received(event(headers)?, webhook);
    hook.requests.fetch_add(1, Ordering::Relaxed);
    is_expected.then_some(hook.answer)
}

/// The tally's event: the number at the end of the event's id.
fn event(headers: &HeaderMap) -> Option<usize> {
    headers.get("x-lok-event-id")?.to_str().ok()?.rsplit('-').next()?.parse().ok()
}

fn unhex(text: &[u8]) -> Option<[u8; 32]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_only_at_its_own_webhook_with_its_own_signature() {
        let tally = Arc::new(Tally::new(1, 1, 2));
        let hook = |secret: &[u8]| Hook {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            answer: Answer::Well,
            requests: AtomicU64::new(0),
        };
        let shared = Shared { tally, hooks: OnceLock::from(vec![hook(b"a"), hook(b"b")]) };
        let request = |secret: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            let signature = hmac::sign(&key, b"{}");
            let hex = signature.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
            let mut headers = HeaderMap::new();
            headers.insert("x-lok-signature", hex.parse().unwrap());
            headers.insert("x-lok-event-id", "run-0".parse().unwrap());
            headers
        };
        shared.tally.note_sent(0, 0);
        assert_eq!(known(&shared, "/hook/0", &request(b"b"), b"{}"), None);
        assert_eq!(known(&shared, "/hook/0", &request(b"a"), b"{ }"), None);
        assert_eq!(known(&shared, "/hook/1", &request(b"b"), b"{}"), None, "not the event's user");
        assert_eq!(shared.tally.counts(0..1).received, 0);
        assert_eq!(known(&shared, "/hook/0", &request(b"a"), b"{}"), Some(Answer::Well));
        assert_eq!(shared.tally.counts(0..1).received, 1);
    }
}

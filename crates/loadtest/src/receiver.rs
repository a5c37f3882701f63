//! The receiver: verifies every signature, notes the event, answers 200.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::hmac;
use tokio::net::TcpListener;

use crate::tally::Tally;

/// An HTTP/1.1 server on loopback, in this process.
pub(crate) struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    tally: Arc<Tally>,
    /// The secret of the webhook at `/hook/INDEX`.
    keys: OnceLock<Vec<hmac::Key>>,
    sample: Mutex<Option<Sample>>,
}

/// A request as it was received.
#[derive(Clone)]
pub(crate) struct Sample {
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: Bytes,
}

impl Receiver {
    /// Starts listening on a port that the system chooses.
    pub(crate) async fn start(tally: Arc<Tally>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("the receiver cannot listen")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { tally, keys: OnceLock::new(), sample: Mutex::new(None) });
        tokio::spawn(serve(listener, shared.clone()));
        Ok(Self { address, shared })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of webhook `index`.
    pub(crate) fn url(&self, index: usize) -> String {
        format!("http://{}/hook/{index}", self.address)
    }

    /// Tells the secrets, once all webhooks are made.
    pub(crate) fn set_secrets(&self, secrets: &[String]) -> anyhow::Result<()> {
        let keys = secrets.iter().map(|secret| key(secret)).collect();
        self.shared.keys.set(keys).ok().context("the secrets were told before")
    }

    /// The first request that was received.
    pub(crate) fn sample(&self) -> anyhow::Result<Sample> {
        let sample = self.shared.sample.lock().unwrap_or_else(PoisonError::into_inner);
        sample.clone().context("nothing was received")
    }
}

/// The key of the guide's signature: the whole secret.
fn key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}

/// Ends with the runtime; connections are as many as the client opens: the dispatcher's bound, or the bare loop's.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        let answer = service_fn(move |request| answer(request, shared.clone()));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let known = webhook(head.uri.path())
        .and_then(|webhook| shared.keys.get()?.get(webhook))
        .filter(|key| is_signed(&head.headers, &body, key))
        .and_then(|_| index(&head.headers))
        .is_some_and(|index| shared.tally.note_received(index));
    let status = if known {
        keep_first(&shared, head.headers, body);
        StatusCode::OK
    } else {
        shared.tally.note_invalid();
        StatusCode::UNAUTHORIZED
    };
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    Ok(response)
}

fn keep_first(shared: &Shared, headers: HeaderMap, body: Bytes) {
    let mut sample = shared.sample.lock().unwrap_or_else(PoisonError::into_inner);
    sample.get_or_insert(Sample { headers, body });
}

fn webhook(path: &str) -> Option<usize> {
    path.strip_prefix("/hook/")?.parse().ok()
}

/// The tally's entry: the number at the end of the event's id.
fn index(headers: &HeaderMap) -> Option<usize> {
    headers.get("x-lok-event-id")?.to_str().ok()?.rsplit('-').next()?.parse().ok()
}

fn is_signed(headers: &HeaderMap, body: &[u8], key: &hmac::Key) -> bool {
    let signature = headers.get("x-lok-signature").and_then(|value| unhex(value.as_bytes()));
    signature.is_some_and(|signature| hmac::verify(key, body, &signature).is_ok())
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.chunks(2).map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

//! Signed POSTs over kept connections, with nothing in between: what the floors send with.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use domain::signature::{Signer, WebhookSecret};
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::receiver::Receiver;

/// The headers of a delivery that are the same in every request here, as long as the dispatcher's.
const HEADERS: [(HeaderName, &str); 9] = [
    (CONTENT_TYPE, "application/json"),
    (USER_AGENT, "Lokroom-Webhooks/1.0"),
    (HeaderName::from_static("x-lok-event"), "booking.created"),
    (HeaderName::from_static("x-lok-timestamp"), "2026-01-15T10:30:00Z"),
    (HeaderName::from_static("x-lok-attempt"), "1"),
    (HeaderName::from_static("x-lok-delivery-id"), "delivery_01kf0c6zdqe5ys3ah02m4b9k3t"),
    (HeaderName::from_static("webhook-id"), "bench1768473000000-123456"),
    (HeaderName::from_static("webhook-timestamp"), "1768473000"),
    (HeaderName::from_static("webhook-signature"), "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
];

type Sender = SendRequest<Full<Bytes>>;

/// Connections to the receiver.
pub(crate) struct Poster {
    free: Mutex<Vec<Sender>>,
    permits: Semaphore,
    headers: HeaderMap,
    signers: Vec<Signer>,
}

impl Poster {
    pub(crate) async fn connect(
        connections: usize,
        receiver: &Receiver,
        secrets: &[String],
    ) -> anyhow::Result<Self> {
        let mut free = Vec::with_capacity(connections);
        for _ in 0..connections {
            let stream =
                TcpStream::connect(receiver.address()).await.context("the receiver does not answer")?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            free.push(sender);
        }
        let mut headers: HeaderMap =
            HEADERS.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
        headers.insert(HOST, HeaderValue::from_str(&receiver.address().to_string())?);
        let secrets = secrets.iter().map(|secret| WebhookSecret::parse(secret));
        let signers = secrets.map(|secret| Ok(Signer::new(&secret?, None))).collect::<anyhow::Result<_>>()?;
        Ok(Self { free: Mutex::new(free), permits: Semaphore::new(connections), headers, signers })
    }

    /// Posts an event to a webhook as soon as a connection is free, and reads the answer.
    pub(crate) async fn post(&self, event: &str, webhook: usize, body: Bytes) -> anyhow::Result<()> {
        let _permit = self.permits.acquire().await?;
        let free = self.lock().pop();
        let mut sender = free.context("a permit is a free connection")?;
        let posted = self.post_on(&mut sender, event, webhook, body).await;
        self.lock().push(sender);
        posted
    }

    async fn post_on(
        &self,
        sender: &mut Sender,
        event: &str,
        webhook: usize,
        body: Bytes,
    ) -> anyhow::Result<()> {
        let signature = self.signers[webhook].lok_signature(&body);
        let mut request = Request::post(format!("/hook/{webhook}")).body(Full::new(body))?;
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        headers.insert("x-lok-signature", HeaderValue::from_str(&signature)?);
        headers.insert("x-lok-event-id", HeaderValue::from_str(event)?);
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "the receiver answered {}", response.status());
        response.into_body().collect().await?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sender>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

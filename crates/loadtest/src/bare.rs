//! The bare loop to compare with: signed POSTs from a hyper client to the same receiver, nothing in between.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use domain::signature::{Signer, WebhookSecret};
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::receiver::{Receiver, Sample};
use crate::tally::Tally;

/// Connections to the receiver, and what is sent over them.
pub(crate) struct Bare {
    connections: Vec<Mutex<SendRequest<Full<Bytes>>>>,
    headers: HeaderMap,
    body: Bytes,
    signers: Vec<Signer>,
    tally: Arc<Tally>,
}

impl Bare {
    /// Opens the connections. Every request has the headers and the body that the dispatcher sent, and a signature of
    /// its own.
    pub(crate) async fn connect(
        connections: usize,
        receiver: &Receiver,
        sample: Sample,
        secrets: &[String],
        tally: Arc<Tally>,
    ) -> anyhow::Result<Arc<Self>> {
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            let stream =
                TcpStream::connect(receiver.address()).await.context("the bare loop cannot connect")?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            open.push(Mutex::new(sender));
        }
        let mut headers = sample.headers;
        headers.remove(CONTENT_LENGTH);
        headers.insert(HOST, HeaderValue::from_str(&receiver.address().to_string())?);
        let secrets = secrets.iter().map(|secret| WebhookSecret::parse(secret));
        let signers = secrets.map(|secret| Ok(Signer::new(&secret?, None))).collect::<anyhow::Result<_>>()?;
        Ok(Arc::new(Self { connections: open, headers, body: sample.body, signers, tally }))
    }

    async fn post(&self, index: usize, sender: &mut SendRequest<Full<Bytes>>) -> anyhow::Result<()> {
        let webhook = index % self.signers.len();
        let signature = self.signers[webhook].lok_signature(&self.body);
        let mut request = Request::post(format!("/hook/{webhook}")).body(Full::new(self.body.clone()))?;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert("x-lok-signature", HeaderValue::from_str(&signature)?);
        request.headers_mut().insert("x-lok-event-id", HeaderValue::from_str(&format!("bare-{index}"))?);
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "the receiver answered {}", response.status());
        response.into_body().collect().await?;
        Ok(())
    }

    /// Posts as fast as every connection goes.
    pub(crate) async fn burst(self: &Arc<Self>, entries: Range<usize>) -> anyhow::Result<()> {
        let next = Arc::new(AtomicUsize::new(entries.start));
        let mut workers = JoinSet::new();
        for connection in 0..self.connections.len() {
            let (bare, next, end) = (self.clone(), next.clone(), entries.end);
            workers.spawn(async move {
                let mut sender = bare.connections[connection].lock().await;
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= end {
                        return anyhow::Ok(());
                    }
                    bare.tally.note_sent(index);
                    bare.post(index, &mut sender).await?;
                }
            });
        }
        finish(workers).await
    }

    /// Posts once every `interval`, however long the earlier ones take, each on a connection that is free.
    pub(crate) async fn steady(
        self: &Arc<Self>,
        entries: Range<usize>,
        interval: Duration,
    ) -> anyhow::Result<()> {
        let free = Arc::new(Semaphore::new(self.connections.len()));
        let mut posting = JoinSet::new();
        let mut next = Instant::now();
        for index in entries {
            sleep_until(next).await;
            next += interval;
            let (bare, free) = (self.clone(), free.clone());
            posting.spawn(async move {
                bare.tally.note_sent(index);
                let _permit = free.acquire().await?;
                let connection = bare.connections.iter().find_map(|connection| connection.try_lock().ok());
                let mut sender = connection.context("a permit is a free connection")?;
                bare.post(index, &mut sender).await
            });
        }
        finish(posting).await
    }
}

async fn finish(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(finished) = tasks.join_next().await {
        finished?.context("the bare loop")?;
    }
    Ok(())
}

//! The bare loop: signed POSTs from a hyper client to the same receiver.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::WEBHOOKS;
use crate::load::data;
use crate::poster::Poster;
use crate::tally::Tally;

/// What it sends, and where.
#[derive(Clone)]
pub(super) struct Bare {
    poster: Arc<Poster>,
    tally: Arc<Tally>,
    body: Bytes,
}

impl Bare {
    /// Bodies are as large as a delivery's: the data with the event around it.
    pub(super) fn new(poster: Arc<Poster>, tally: Arc<Tally>, padding: &str) -> Self {
        let data = data(0, padding);
        let body =
            format!(r#"{{"event":"booking.created","timestamp":"2026-01-15T10:30:00Z","data":{data}}}"#);
        Self { poster, tally, body: body.into() }
    }

    /// Posts as fast as every connection goes.
    pub(super) async fn burst(&self, events: Range<usize>, connections: usize) -> anyhow::Result<()> {
        let next = Arc::new(AtomicUsize::new(events.start));
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            let (bare, next) = (self.clone(), next.clone());
            workers.spawn(async move {
                loop {
                    let event = next.fetch_add(1, Ordering::Relaxed);
                    if event >= events.end {
                        return anyhow::Ok(());
                    }
                    bare.post(event).await?;
                }
            });
        }
        finish(workers).await
    }

    /// Posts once every `interval`, however long the earlier ones take.
    pub(super) async fn steady(&self, events: Range<usize>, interval: Duration) -> anyhow::Result<()> {
        let (mut posting, mut next) = (JoinSet::new(), Instant::now());
        for event in events {
            sleep_until(next).await;
            next += interval;
            let bare = self.clone();
            posting.spawn(async move { bare.post(event).await });
        }
        finish(posting).await
    }

    async fn post(&self, event: usize) -> anyhow::Result<()> {
        let webhook = event % WEBHOOKS;
        self.tally.note_sent(event, webhook);
        self.poster.post(&format!("bench-{event}"), webhook, self.body.clone()).await
    }
}

async fn finish(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(finished) = tasks.join_next().await {
        finished?.context("the bare loop")?;
    }
    Ok(())
}

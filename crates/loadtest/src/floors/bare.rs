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

/// Posts as fast as every connection goes.
pub(super) async fn burst(
    poster: &Arc<Poster>,
    tally: &Arc<Tally>,
    events: Range<usize>,
    connections: usize,
) -> anyhow::Result<()> {
    let (next, body) = (Arc::new(AtomicUsize::new(events.start)), body());
    let mut workers = JoinSet::new();
    for _ in 0..connections {
        let (poster, tally, next, body) = (poster.clone(), tally.clone(), next.clone(), body.clone());
        workers.spawn(async move {
            loop {
                let event = next.fetch_add(1, Ordering::Relaxed);
                if event >= events.end {
                    return anyhow::Ok(());
                }
                post(&poster, &tally, event, body.clone()).await?;
            }
        });
    }
    finish(workers).await
}

/// Posts once every `interval`, however long the earlier ones take.
pub(super) async fn steady(
    poster: &Arc<Poster>,
    tally: &Arc<Tally>,
    events: Range<usize>,
    interval: Duration,
) -> anyhow::Result<()> {
    let (mut posting, mut next, body) = (JoinSet::new(), Instant::now(), body());
    for event in events {
        sleep_until(next).await;
        next += interval;
        let (poster, tally, body) = (poster.clone(), tally.clone(), body.clone());
        posting.spawn(async move { post(&poster, &tally, event, body).await });
    }
    finish(posting).await
}

async fn post(poster: &Poster, tally: &Tally, event: usize, body: Bytes) -> anyhow::Result<()> {
    let webhook = event % WEBHOOKS;
    tally.note_sent(event, webhook);
    poster.post(&format!("bench-{event}"), webhook, body).await
}

/// As large as a delivery's body: the data with the event around it.
fn body() -> Bytes {
    format!(r#"{{"event":"booking.created","timestamp":"2026-01-15T10:30:00Z","data":{}}}"#, data(0, 0))
        .into()
}

async fn finish(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(finished) = tasks.join_next().await {
        finished?.context("the bare loop")?;
    }
    Ok(())
}

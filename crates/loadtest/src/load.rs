//! Publishing: as fast as it goes, and at a steady rate.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use broker::{Message, PublishError, Publisher};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::seed::user;
use crate::tally::Tally;

/// Publishes not confirmed yet, at most.
pub(crate) const IN_FLIGHT: usize = 1024;

/// What is published, and where.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) publisher: Publisher,
    pub(crate) exchange: String,
    pub(crate) tally: Arc<Tally>,
    /// Begins every event's id: no other run has it.
    pub(crate) run: String,
    /// Bytes of an event's `data`, or about 350 if that is more.
    pub(crate) data_bytes: usize,
}

impl Load {
    fn message(&self, event: usize, user: usize) -> Message {
        let body = body(&format!("{}-{event}", self.run), user, &data(event, self.data_bytes));
        Message::to_exchange(&self.exchange, "booking.created", body.into()).content_type(wire::JSON)
    }

    /// Publishes as fast as confirms come, pipelined.
    pub(crate) async fn burst(
        &self,
        events: Range<usize>,
        user_of: impl Fn(usize) -> usize,
    ) -> anyhow::Result<()> {
        stream::iter(events)
            .map(|event| {
                let user = user_of(event);
                async move {
                    let message = self.message(event, user);
                    self.tally.note_sent(event, user);
                    self.publisher.publish(message).await.map(drop)
                }
            })
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await
            .context("the broker did not take the events")
    }

    /// Publishes one event every `interval`, however long the earlier ones take. Returns the longest that one was
    /// behind its time: the load generator's own fault.
    pub(crate) async fn steady(
        &self,
        events: Range<usize>,
        interval: Duration,
        user_of: impl Fn(usize) -> usize,
    ) -> anyhow::Result<Duration> {
        let mut publishing: JoinSet<Result<(), PublishError>> = JoinSet::new();
        let (mut next, mut lag) = (Instant::now(), Duration::ZERO);
        for event in events {
            let user = user_of(event);
            let (message, publisher, tally) =
                (self.message(event, user), self.publisher.clone(), self.tally.clone());
            sleep_until(next).await;
            lag = lag.max(next.elapsed());
            next += interval;
            publishing.spawn(async move {
                tally.note_sent(event, user);
                publisher.publish(message).await.map(drop)
            });
            while let Some(published) = publishing.try_join_next() {
                published?.context("the broker did not take the events")?;
            }
        }
        while let Some(published) = publishing.join_next().await {
            published?.context("the broker did not take the events")?;
        }
        Ok(lag)
    }
}

/// An event as publishers write it.
fn body(id: &str, to: usize, data: &str) -> String {
    let recipient = user(to);
    format!(
        r#"{{"id":"{id}","event":"booking.created","timestamp":"2026-01-15T10:30:00Z","recipients":["{recipient}"],"data":{data}}}"#
    )
}

/// An event's data: 350 bytes, or more if `bytes` is.
pub(crate) fn data(event: usize, bytes: usize) -> String {
    let mut data = format!(
        r#"{{"id":"booking_{event:08}","listingId":"listing_{:06}","guestId":"user_{:06}","startDate":"2026-02-01T14:00:00Z","endDate":"2026-02-03T11:00:00Z","totalPrice":250.00,"currency":"EUR","status":"PENDING","pricingMode":"DAILY","createdAt":"2026-01-15T10:30:00Z","note":"Arrivée tardive, merci de laisser les clés à la réception"#,
        event % 1000,
        event % 5000,
    );
    while data.len() + 2 < bytes {
        let missing = bytes - 2 - data.len();
        data.push_str(&". Merci beaucoup et à bientôt"[..].chars().take(missing).collect::<String>());
    }
    data.push_str("\"}");
    data
}

#[cfg(test)]
mod tests {
    use domain::EventType;

    use super::*;

    #[test]
    fn the_data_has_the_size_that_is_told_and_follows_the_schema() {
        for (asked, size) in [(0, 330..=370), (4096, 4096..=4100), (250 * 1024, 256_000..=256_004)] {
            let data = data(7, asked);
            assert!(size.contains(&data.len()), "{}", data.len());
            let value = serde_json::from_str(&data).unwrap();
            assert_eq!(EventType::BookingCreated.violations(&value, 10), []);
        }
    }

    #[test]
    fn the_event_is_json_as_publishers_write_it() {
        let event: serde_json::Value = serde_json::from_str(&body("run-7", 3, &data(7, 0))).unwrap();
        assert_eq!(event["id"], "run-7");
        assert_eq!(event["recipients"], serde_json::json!(["user_3"]));
        assert_eq!(event["data"]["id"], "booking_00000007");
    }
}

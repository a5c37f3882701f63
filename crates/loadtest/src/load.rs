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
    /// Makes every event's `data` longer.
    pub(crate) padding: Arc<str>,
}

impl Load {
    fn message(&self, event: usize, user: usize) -> Message {
        let body = body(&format!("{}-{event}", self.run), user, &data(event, &self.padding));
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

/// Text that makes an event's data, which has 350 bytes without, so long.
pub(crate) fn padding(data_bytes: usize) -> Arc<str> {
    let missing = data_bytes.saturating_sub(data(0, "").len());
    ". Merci beaucoup et bon voyage".chars().cycle().take(missing).collect::<String>().into()
}

/// An event's data.
pub(crate) fn data(event: usize, padding: &str) -> String {
    format!(
        r#"{{"id":"booking_{event:08}","listingId":"listing_{:06}","guestId":"user_{:06}","startDate":"2026-02-01T14:00:00Z","endDate":"2026-02-03T11:00:00Z","totalPrice":250.00,"currency":"EUR","status":"PENDING","pricingMode":"DAILY","createdAt":"2026-01-15T10:30:00Z","note":"Arrivée tardive, merci de laisser les clés à la réception{padding}"}}"#,
        event % 1000,
        event % 5000,
    )
}

#[cfg(test)]
mod tests {
    use domain::EventType;

    use super::*;

    #[test]
    fn the_data_has_the_size_that_is_told_and_follows_the_schema() {
        for (asked, size) in [(0, 330..=370), (4096, 4096..=4096), (250 * 1024, 256_000..=256_000)] {
            let data = data(7, &padding(asked));
            assert!(size.contains(&data.len()), "{}", data.len());
            let value = serde_json::from_str(&data).unwrap();
            assert_eq!(EventType::BookingCreated.violations(&value, 10), []);
        }
    }

    #[test]
    fn the_event_is_json_as_publishers_write_it() {
        let event: serde_json::Value = serde_json::from_str(&body("run-7", 3, &data(7, ""))).unwrap();
        assert_eq!(event["id"], "run-7");
        assert_eq!(event["recipients"], serde_json::json!(["user_3"]));
        assert_eq!(event["data"]["id"], "booking_00000007");
    }
}

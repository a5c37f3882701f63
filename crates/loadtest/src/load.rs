//! Publishing: as fast as it goes, and at a steady rate.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use broker::{Message, PublishError, Publisher};
use domain::EventType;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use testkit::{Event, Stack};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::tally::Tally;

/// Publishes not confirmed yet, at most.
const IN_FLIGHT: usize = 1024;

/// Where the events come from and whom they go to.
pub(crate) struct Load<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) publisher: Publisher,
    pub(crate) tally: Arc<Tally>,
    pub(crate) users: Vec<String>,
    /// Ends up in every event's id: no other run has it.
    pub(crate) run: String,
}

impl Load<'_> {
    /// Event number `index`, to one user.
    fn message(&self, index: usize) -> Message {
        let event = Event::example(EventType::BookingCreated)
            .id(format!("{}-{index}", self.run))
            .timestamp("2026-01-15T10:30:00Z")
            .to(&self.users[index % self.users.len()])
            .data(data(index));
        self.stack.message(&event)
    }

    /// Publishes as fast as confirms come, pipelined.
    pub(crate) async fn burst(&self, entries: Range<usize>) -> anyhow::Result<()> {
        stream::iter(entries)
            .map(|index| async move {
                let message = self.message(index);
                self.tally.note_sent(index);
                self.publisher.publish(message).await.map(drop)
            })
            .buffer_unordered(IN_FLIGHT)
            .try_collect::<()>()
            .await
            .context("the broker did not take the events")
    }

    /// Publishes one event every `interval`, however long the earlier ones take. Returns the longest that one was
    /// behind its time: the load generator's own fault.
    pub(crate) async fn steady(&self, entries: Range<usize>, interval: Duration) -> anyhow::Result<Duration> {
        let mut publishing: JoinSet<Result<(), PublishError>> = JoinSet::new();
        let (mut next, mut lag) = (Instant::now(), Duration::ZERO);
        for index in entries {
            let (message, publisher, tally) =
                (self.message(index), self.publisher.clone(), self.tally.clone());
            sleep_until(next).await;
            lag = lag.max(next.elapsed());
            next += interval;
            publishing.spawn(async move {
                tally.note_sent(index);
                publisher.publish(message).await.map(drop)
            });
        }
        while let Some(published) = publishing.join_next().await {
            published?.context("the broker did not take the events")?;
        }
        Ok(lag)
    }
}

/// About 350 bytes.
fn data(index: usize) -> String {
    format!(
        r#"{{"id":"booking_{index:08}","listingId":"listing_{:06}","guestId":"user_{:06}","startDate":"2026-02-01T14:00:00Z","endDate":"2026-02-03T11:00:00Z","totalPrice":250.00,"currency":"EUR","status":"PENDING","pricingMode":"DAILY","createdAt":"2026-01-15T10:30:00Z","note":"Arrivée tardive, merci de laisser les clés à la réception"}}"#,
        index % 1000,
        index % 5000,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_has_the_size_that_is_told_and_follows_the_schema() {
        let data = data(7);
        assert!((330..=370).contains(&data.len()), "{}", data.len());
        let value = serde_json::from_str(&data).unwrap();
        assert_eq!(EventType::BookingCreated.violations(&value, 10), []);
    }
}

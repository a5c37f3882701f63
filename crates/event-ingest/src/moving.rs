//! Events in bursts: moved out of the way of others, and stored when those are.

use std::sync::Arc;

use broker::{Confirmed, Message, Received};
use bytes::Bytes;
use domain::EventId;
use futures_util::future::{try_join, try_join_all};
use isolation::{Isolation, Work};
use metrics::counter;
use wire::rejected::UNUSABLE;
use wire::{PROTOBUF, moved};

use crate::bursts::Bursts;
use crate::outbox::Outbox;
use crate::plenty::Plenty;
use crate::retry::Stopping;
use crate::storing::Storing;

/// Moves events that come in bursts, and stores the others.
pub(crate) struct Sorting {
    pub(crate) storing: Arc<Storing>,
    pub(crate) bursts: Arc<Bursts>,
    pub(crate) plenty: Arc<Plenty>,
    pub(crate) outbox: Outbox,
    /// Where events in bursts wait.
    pub(crate) queue: String,
}

impl Sorting {
    /// Moves messages, a group with each message: that costs much less than storing them.
    async fn put(&self, messages: Vec<(EventId, &Received)>) -> Result<Confirmed, Stopping> {
        let count = messages.len() as u64;
        let publishing = moved::encode(messages)
            .into_iter()
            .map(|group| self.outbox.publish(Message::to_queue(&self.queue, group).content_type(PROTOBUF)));
        let confirmed = try_join_all(publishing).await?;
        counter!("ingest_moved_to_bulk_total").increment(count);
        Ok(confirmed.into_iter().fold(Confirmed::nothing_to_publish(), Confirmed::and))
    }
}

impl Work for Sorting {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, isolation::Stopping> {
        let checked = self.storing.check(messages.iter().map(|message| (message, None))).await?;
        let accepted = checked.iter().filter_map(|(_, checked)| checked.as_ref().ok());
        let largest = messages.iter().map(|message| message.body.len()).max().unwrap_or_default();
        let (is_in_burst, _counted) = self.bursts.among(accepted);
        self.plenty.note(messages.len(), largest, is_in_burst.contains(&true));
        let mut is_in_burst = is_in_burst.into_iter();
        let (mut in_bursts, mut others) = (Vec::new(), Vec::with_capacity(checked.len()));
        for (message, checked) in checked {
            match checked {
                Ok(event) if is_in_burst.next().unwrap_or(false) => in_bursts.push((event.id, message)),
                checked => others.push((message, checked)),
            }
        }
        let (moved, stored) = try_join(self.put(in_bursts), self.storing.store_or_reject(others)).await?;
        Ok(moved.and(stored))
    }
}

/// Stores events that were moved.
pub(crate) struct StoringMoved {
    pub(crate) storing: Arc<Storing>,
    pub(crate) isolation: Isolation,
}

impl Work for StoringMoved {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, isolation::Stopping> {
        let (mut moved, mut proof) = (Vec::new(), Confirmed::nothing_to_publish());
        for message in messages {
            match moved::decode(message.body.clone()) {
                Ok(group) => moved.extend(group),
                Err(error) => {
                    let moving = message.forward_to(self.isolation.queue());
                    proof = proof.and(self.isolation.set_aside(moving, UNUSABLE, &error.to_string()).await?);
                }
            }
        }
        let checked = self.storing.check(moved.iter().map(|moved| (&moved.message, Some(moved.id)))).await?;
        Ok(proof.and(self.storing.store_or_reject(checked).await?))
    }

    fn parts(&self, message: &Received) -> Vec<Bytes> {
        let messages = moved::decode(message.body.clone()).unwrap_or_default();
        messages.iter().flat_map(|moved| moved::encode([(moved.id, &moved.message)])).collect()
    }
}

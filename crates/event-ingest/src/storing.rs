//! Messages as they were published: what is acceptable is stored, the rest is set aside.

use broker::{Confirmed, Received};
use domain::EventId;
use domain::event::{AcceptedEvent, NotAccepted, Rejection};
use domain::id::NoRandomness;
use futures_util::future::{try_join, try_join_all};
use isolation::Work;
use tokio::task::block_in_place;

use crate::counted::{Outcome, Source};
use crate::decode::{Decoded, Decoder};
use crate::pipeline::{Pipeline, Receipt, to_store};
use crate::reject::RejectedQueue;
use crate::retry::{Retry, Stopping};

/// Batches with more bytes are checked as blocking work: other tasks must not wait on this thread for a long check.
const BLOCKING_BYTES: usize = 32 * 1024;

/// Stores what is acceptable, and sets the rest aside.
pub(crate) struct Storing {
    pub(crate) pipeline: Pipeline,
    pub(crate) decoder: Decoder,
    pub(crate) rejected: RejectedQueue,
    pub(crate) retry: Retry,
}

impl Storing {
    /// When this returns, every event is committed and handed over, and every other message is in the rejected queue.
    pub(crate) async fn store_or_reject(
        &self,
        checked: Vec<(&Received, Checked)>,
    ) -> Result<Confirmed, Stopping> {
        let (mut accepted, mut messages, mut rejections) = (Vec::new(), Vec::new(), Vec::new());
        for (message, checked) in checked {
            match checked {
                Ok(event) => {
                    accepted.push(to_store(event));
                    messages.push(message);
                }
                Err(rejection) => rejections.push((message, rejection)),
            }
        }
        let (rejected, (receipts, taken)) =
            try_join(self.reject(&rejections), self.pipeline.take(&accepted)).await?;

        let refused: Vec<_> = messages.into_iter().zip(receipts).filter_map(refusal).collect();
        let refused = self.reject(&refused).await?;
        Ok(taken.and(rejected).and(refused))
    }

    /// Checks every message, in order. One that moved has an id, and was received when it moved.
    pub(crate) async fn check<'a>(
        &self,
        messages: impl Iterator<Item = (&'a Received, Option<EventId>)> + Clone,
    ) -> Result<Vec<(&'a Received, Checked)>, Stopping> {
        let bytes: usize = messages.clone().map(|(message, _)| message.body.len()).sum();
        let check = |(message, moved)| Ok((message, sorted(self.decoder.decode(message, moved))?));
        let check_all = || messages.clone().map(check).collect();
        let checked = self.retry.until_answered(|| {
            std::future::ready(if bytes > BLOCKING_BYTES { block_in_place(check_all) } else { check_all() })
        });
        checked.await?.map_err(|NoRandomness| Stopping)
    }

    async fn reject(&self, rejections: &[(&Received, Rejection)]) -> Result<Confirmed, Stopping> {
        let moving = rejections.iter().map(|(message, rejection)| self.rejected.put(message, rejection));
        let confirmed = try_join_all(moving).await?;
        Ok(confirmed.into_iter().fold(Confirmed::nothing_to_publish(), Confirmed::and))
    }
}

impl Work for Storing {
    async fn work_off(&self, messages: &[Received]) -> Result<Confirmed, isolation::Stopping> {
        let checked = self.check(messages.iter().map(|message| (message, None))).await?;
        Ok(self.store_or_reject(checked).await?)
    }
}

/// A message that may be stored, or that has to be set aside.
pub(crate) type Checked = Result<AcceptedEvent, Rejection>;

fn sorted(decoded: Decoded) -> Result<Checked, NoRandomness> {
    match decoded {
        Ok(event) => Ok(Ok(event)),
        Err(NotAccepted::Rejected(rejection)) => Ok(Err(rejection)),
        Err(NotAccepted::NoRandomness(error)) => Err(error),
    }
}

/// Counts what became of an event; what the database refused has still to be set aside.
fn refusal<T>((of, receipt): (T, Receipt)) -> Option<(T, Rejection)> {
    match receipt {
        Receipt::Stored(_) => Source::Amqp.count(Outcome::Accepted),
        Receipt::Duplicate(_) => Source::Amqp.count(Outcome::Duplicate),
        Receipt::Refused(rejection) => return Some((of, rejection)),
    }
    None
}

//! One job of a delivery at a time within this process.
//!
//! When a channel is lost, the broker delivers its messages again while their first holders are still at work, perhaps
//! with the request on the wire. The copy waits for the first to end and is then told how.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::DeliveryId;
use domain::retry::AttemptNumber;
use tokio::sync::watch;

/// How a claim ended, for those who waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Not yet.
    Open,
    /// This attempt is recorded, and what follows from it is handed over.
    HandedOver(AttemptNumber),
    /// Otherwise: the row tells what is left to do.
    Over,
}

/// The deliveries that are being worked on. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims {
    /// Each with who is to be told of its end, if anybody waits for it.
    open: Arc<Mutex<HashMap<DeliveryId, Option<watch::Sender<End>>>>>,
}

/// The right to work on a delivery. Dropped, whoever waits gets it.
#[derive(Debug)]
pub(crate) struct Claim {
    delivery: DeliveryId,
    claims: Claims,
    end: End,
}

impl Claims {
    /// Waits for the right to work on a delivery; `None` if another job handed over meanwhile what follows from the
    /// `wanted` attempt: then there is nothing left to do. Bounded by the time the other takes.
    pub(crate) async fn claim(&self, delivery: DeliveryId, wanted: AttemptNumber) -> Option<Claim> {
        loop {
            let mut other = match self.lock().entry(delivery) {
                Entry::Occupied(mut entry) => {
                    entry.get_mut().get_or_insert_with(|| watch::Sender::new(End::Open)).subscribe()
                }
                Entry::Vacant(entry) => {
                    entry.insert(None);
                    return Some(Claim { delivery, claims: self.clone(), end: End::Over });
                }
            };
            let ended = other.wait_for(|end| *end != End::Open).await.map(|end| *end);
            if let Ok(End::HandedOver(attempt)) = ended
                && attempt >= wanted
            {
                return None;
            }
        }
    }

    /// The number of deliveries that are being worked on.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeliveryId, Option<watch::Sender<End>>>> {
        // Entries are added and removed whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// What follows from this attempt is handed over, confirmed.
    pub(crate) fn handed_over(mut self, attempt: AttemptNumber) {
        self.end = End::HandedOver(attempt);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let waited_for = self.claims.lock().remove(&self.delivery).flatten();
        if let Some(waited_for) = waited_for {
            waited_for.send_replace(self.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;

    fn delivery(n: u128) -> DeliveryId {
        DeliveryId::from_uuid(Uuid::from_u128(n))
    }

    const FIRST: AttemptNumber = AttemptNumber::FIRST;

    async fn has_to_wait(waiting: &mut (impl Future<Output = Option<Claim>> + Unpin)) -> bool {
        timeout(Duration::from_millis(20), waiting).await.is_err()
    }

    #[tokio::test]
    async fn a_copy_waits_and_has_nothing_to_do_once_the_first_handed_over() {
        let claims = Claims::default();
        let first = claims.claim(delivery(1), FIRST).await.unwrap();
        let mut copy = Box::pin(claims.claim(delivery(1), FIRST));
        assert!(has_to_wait(&mut copy).await);
        first.handed_over(FIRST);
        assert!(copy.await.is_none());
        assert_eq!(claims.len(), 0);
    }

    #[tokio::test]
    async fn the_next_attempt_is_not_taken_for_a_copy() {
        let claims = Claims::default();
        let first = claims.claim(delivery(1), FIRST).await.unwrap();
        let mut next = Box::pin(claims.claim(delivery(1), FIRST.next()));
        assert!(has_to_wait(&mut next).await);
        first.handed_over(FIRST);
        assert!(next.await.is_some());
    }

    #[tokio::test]
    async fn whoever_waited_looks_for_itself_where_the_first_handed_nothing_over() {
        let claims = Claims::default();
        let first = claims.claim(delivery(1), FIRST).await.unwrap();
        let second = tokio::spawn({
            let claims = claims.clone();
            async move { claims.claim(delivery(1), FIRST).await }
        });
        drop(first);
        assert!(second.await.unwrap().is_some());
        assert_eq!(claims.len(), 0);
    }

    #[tokio::test]
    async fn other_deliveries_are_not_waited_for() {
        let claims = Claims::default();
        let first = claims.claim(delivery(1), FIRST).await;
        let second = claims.claim(delivery(2), FIRST).await;
        assert!(first.is_some() && second.is_some());
    }
}

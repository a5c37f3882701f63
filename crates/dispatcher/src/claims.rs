//! One job of a delivery at a time within this process.
//!
//! When a channel is lost, the broker delivers its messages again while their first holders are still at work, perhaps
//! with the request on the wire. The copy waits for the first to end and is then told how.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::DeliveryId;
use tokio::sync::watch;

/// How a claim ended, for those who waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Not yet.
    Open,
    /// Everything the job asked for is durable.
    Settled,
    /// The job was given back.
    Dropped,
}

/// The deliveries that are being worked on. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims {
    open: Arc<Mutex<HashMap<DeliveryId, watch::Receiver<End>>>>,
}

/// The right to work on a delivery. Dropped unsettled, whoever waits gets it.
#[derive(Debug)]
pub(crate) struct Claim {
    delivery: DeliveryId,
    claims: Claims,
    end: watch::Sender<End>,
}

impl Claims {
    /// Waits for the right to work on a delivery; `None` if another job of it was settled meanwhile: then there
    /// is nothing left to do. Bounded by the time the other takes.
    pub(crate) async fn claim(&self, delivery: DeliveryId) -> Option<Claim> {
        loop {
            let mut other = match self.lock().entry(delivery) {
                Entry::Occupied(entry) => entry.get().clone(),
                Entry::Vacant(entry) => {
                    let (end, receiver) = watch::channel(End::Open);
                    entry.insert(receiver);
                    return Some(Claim { delivery, claims: self.clone(), end });
                }
            };
            let ended = other.wait_for(|end| *end != End::Open).await.map(|end| *end);
            if matches!(ended, Ok(End::Settled)) {
                return None;
            }
        }
    }

    /// The number of deliveries that are being worked on.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeliveryId, watch::Receiver<End>>> {
        // Entries are added and removed whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Everything the job asked for is durable.
    pub(crate) fn settle(self) {
        self.finish(End::Settled);
    }

    fn finish(&self, end: End) {
        self.claims.lock().remove(&self.delivery);
        self.end.send_replace(end);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if *self.end.borrow() == End::Open {
            self.finish(End::Dropped);
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

    #[tokio::test]
    async fn a_second_job_waits_and_has_nothing_to_do_once_the_first_is_settled() {
        let claims = Claims::default();
        let first = claims.claim(delivery(1)).await.unwrap();
        let mut second = Box::pin(claims.claim(delivery(1)));
        assert!(timeout(Duration::from_millis(20), &mut second).await.is_err(), "the second has to wait");
        first.settle();
        assert!(second.await.is_none());
        assert_eq!(claims.len(), 0);
    }

    #[tokio::test]
    async fn a_second_job_goes_on_where_the_first_was_given_back() {
        let claims = Claims::default();
        let first = claims.claim(delivery(1)).await.unwrap();
        let second = tokio::spawn({
            let claims = claims.clone();
            async move { claims.claim(delivery(1)).await }
        });
        drop(first);
        assert!(second.await.unwrap().is_some());
        assert_eq!(claims.len(), 0);
    }

    #[tokio::test]
    async fn other_deliveries_are_not_waited_for() {
        let claims = Claims::default();
        let first = claims.claim(delivery(1)).await;
        let second = claims.claim(delivery(2)).await;
        assert!(first.is_some() && second.is_some());
    }
}

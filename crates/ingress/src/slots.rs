//! How many connections one address has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client::Network;

/// The connections of each network, of all threads together. Bounded by the number of connections: a network without one is
/// not remembered.
#[derive(Debug)]
pub(crate) struct Slots {
    most: u32,
    taken: Mutex<HashMap<Network, u32>>,
}

/// One connection's place. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    network: Network,
    slots: Arc<Slots>,
}

impl Slots {
    /// At most `most` connections a network.
    pub(crate) fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// A place for one more connection, if there is one.
    pub(crate) fn take(self: &Arc<Self>, network: Network) -> Option<Slot> {
        let mut taken = self.lock();
        let count = taken.entry(network).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Slot { network, slots: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Network, u32>> {
        // A map of numbers is whole after any panic.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        if let Some(count) = taken.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_connection_is_gone_and_nobody_is_remembered_for_ever() {
        let slots = Slots::new(2);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|it| Network::of(it.parse().unwrap()));
        let (first, second) = (slots.take(one).unwrap(), slots.take(one).unwrap());
        assert!(slots.take(one).is_none());
        assert!(slots.take(other).is_some(), "others have their own");
        drop(first);
        assert!(slots.take(one).is_some());
        drop(second);
        assert!(slots.lock().is_empty());
    }
}

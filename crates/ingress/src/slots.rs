//! How much somebody has of what there is a bound on: connections of an address, requests and memory of a user.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places that each has taken, of all threads together. Bounded by the number of places that are taken: who has none is
/// not remembered.
#[derive(Debug)]
pub struct Slots<K: Eq + Hash> {
    most: u32,
    taken: Mutex<HashMap<K, u32>>,
}

/// Places that somebody has taken at once. Given back when it is dropped.
#[derive(Debug)]
pub struct Slot<K: Eq + Hash> {
    key: K,
    count: u32,
    slots: Arc<Slots<K>>,
}

impl<K: Eq + Hash + Clone> Slots<K> {
    /// At most `most` places for each.
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// One more place, if there is one.
    pub fn take(self: &Arc<Self>, key: K) -> Option<Slot<K>> {
        self.take_many(key, 1)
    }

    /// So many more places at once, if there are as many; else none of them.
    pub fn take_many(self: &Arc<Self>, key: K, count: u32) -> Option<Slot<K>> {
        let mut taken = self.lock();
        let before = taken.get(&key).copied().unwrap_or_default();
        let after = before.checked_add(count).filter(|after| *after <= self.most)?;
        taken.insert(key.clone(), after);
        Some(Slot { key, count, slots: self.clone() })
    }
}

impl<K: Eq + Hash> Slots<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, u32>> {
        // A map of numbers is whole after any panic.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        if let Some(left) = taken.get_mut(&self.key) {
            *left -= self.count;
            if *left == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Network;

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

    #[test]
    fn places_are_taken_and_given_back_together() {
        let slots = Slots::new(10);
        let first = slots.take_many("one", 7).unwrap();
        assert!(slots.take_many("one", 4).is_none() && slots.take_many("one", u32::MAX).is_none());
        let second = slots.take_many("one", 3).unwrap();
        assert!(slots.take("one").is_none());
        drop(first);
        assert!(slots.take_many("one", 8).is_none());
        drop(slots.take_many("one", 7).unwrap());
        drop(second);
        assert!(slots.lock().is_empty());
    }
}

//! Who subscribes to what, remembered until a notification says otherwise.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backends::Availability;
use domain::{EventType, UserId, WebhookId};
use moka::sync::Cache;
use store::{Change, Store, StoreError, Subscription};
use tokio_util::sync::CancellationToken;

/// Users asked for with one query.
const USERS_A_QUERY: usize = 5000;

/// Users that share a counter of changes.
const STRIPES: usize = 256;

/// A set of event types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct EventSet(u32);

impl EventSet {
    fn of(events: &[EventType]) -> Self {
        Self(events.iter().fold(0, |set, event| set | 1 << *event as u32))
    }

    fn contains(self, event: EventType) -> bool {
        self.0 & 1 << event as u32 != 0
    }
}

/// The subscriptions of one user's active webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserSubscriptions(Arc<[(WebhookId, EventSet)]>);

impl UserSubscriptions {
    /// The webhooks that get this event.
    pub(crate) fn to(&self, event: EventType) -> impl Iterator<Item = WebhookId> {
        self.0.iter().filter(move |(_, events)| events.contains(event)).map(|(webhook, _)| *webhook)
    }

    fn weight(&self) -> u32 {
        u32::try_from(self.0.len().max(1)).unwrap_or(u32::MAX)
    }
}

/// What is remembered. Clones share it.
#[derive(Clone)]
pub(crate) struct Subscriptions {
    cache: Cache<UserId, UserSubscriptions>,
    /// Counts the changes that were told of, by user: what was read before a change must not be remembered after
    /// it.
    changes: Arc<[AtomicU64]>,
    hasher: RandomState,
    store: Store,
    availability: Availability,
}

impl Subscriptions {
    /// Remembers up to `capacity` subscriptions (a user without any counts as one), each for at most `max_age`.
    pub(crate) fn new(store: Store, availability: Availability, capacity: u32, max_age: Duration) -> Self {
        let cache = Cache::builder()
            .max_capacity(capacity.into())
            .weigher(|_: &UserId, subscriptions: &UserSubscriptions| subscriptions.weight())
            .time_to_live(max_age)
            .build();
        let changes = (0..STRIPES).map(|_| AtomicU64::new(0)).collect();
        Self { cache, changes, hasher: RandomState::new(), store, availability }
    }

    /// Forgets what changes, until `stopping`.
    pub(crate) async fn follow_changes(self, stopping: CancellationToken) {
        let mut listener = self.store.listener();
        loop {
            let change = tokio::select! {
                () = stopping.cancelled() => return,
                change = listener.next() => change,
            };
            // Counted before it is forgotten: whoever is reading now finds the count changed.
            match change {
                Change::Of(user) => {
                    self.changes_of(&user).fetch_add(1, Ordering::SeqCst);
                    self.cache.invalidate(&user);
                }
                Change::Everything => {
                    for changes in &*self.changes {
                        changes.fetch_add(1, Ordering::SeqCst);
                    }
                    self.cache.invalidate_all();
                }
            }
        }
    }

    /// The subscriptions of these users; those that are not remembered are read with one query.
    pub(crate) async fn of<'a>(
        &self,
        users: impl IntoIterator<Item = &'a UserId>,
    ) -> Result<HashMap<&'a UserId, UserSubscriptions>, StoreError> {
        let users: HashSet<&UserId> = users.into_iter().collect();
        let mut found = HashMap::with_capacity(users.len());
        let mut unknown = Vec::new();
        for user in users {
            match self.cache.get(user) {
                Some(subscriptions) => drop(found.insert(user, subscriptions)),
                None => unknown.push(user),
            }
        }
        for users in unknown.chunks(USERS_A_QUERY) {
            self.read(users, &mut found).await?;
        }
        Ok(found)
    }

    async fn read<'a>(
        &self,
        users: &[&'a UserId],
        found: &mut HashMap<&'a UserId, UserSubscriptions>,
    ) -> Result<(), StoreError> {
        let owned: Vec<UserId> = users.iter().copied().cloned().collect();
        let before: Vec<u64> = users.iter().map(|user| self.change_count(user)).collect();
        let read = self.availability.until_available(|| self.store.subscriptions_of(&owned)).await?;

        let mut by_user: HashMap<UserId, Vec<_>> = HashMap::with_capacity(owned.len());
        for Subscription { webhook, user, events } in read {
            by_user.entry(user).or_default().push((webhook, EventSet::of(&events)));
        }
        for ((user, key), before) in users.iter().copied().zip(owned).zip(before) {
            let subscriptions = UserSubscriptions(by_user.remove(user).unwrap_or_default().into());
            self.cache.insert(key, subscriptions.clone());
            if self.change_count(user) != before {
                self.cache.invalidate(user);
            }
            found.insert(user, subscriptions);
        }
        Ok(())
    }

    fn change_count(&self, user: &UserId) -> u64 {
        self.changes_of(user).load(Ordering::SeqCst)
    }

    fn changes_of(&self, user: &UserId) -> &AtomicU64 {
        let stripe = usize::try_from(self.hasher.hash_one(user) % STRIPES as u64).unwrap_or(0);
        &self.changes[stripe]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_it_was_made_of() {
        for event in EventType::ALL {
            let set = EventSet::of(&[*event]);
            for other in EventType::ALL {
                assert_eq!(set.contains(*other), event == other);
            }
        }
        assert!(EventType::ALL.iter().all(|event| EventSet::of(EventType::ALL).contains(*event)));
        assert!(!EventSet::of(&[]).contains(EventType::BookingCreated));
    }
}

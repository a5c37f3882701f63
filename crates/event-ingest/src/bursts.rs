//! Events that come in bursts: they are stored after those of other users.

use broker::{Confirmed, Message, Received};
use domain::UserId;
use domain::event::AcceptedEvent;
use futures_util::future::try_join_all;
use ingress::{Buckets, Rate};
use metrics::counter;
use service::settings::Ingest;
use tokio::time::Instant;
use wire::moved::moved;

use crate::outbox::Outbox;
use crate::retry::Stopping;

/// Tells which events come in bursts, and moves them to the queue of those.
pub(crate) struct Bursts {
    users: Option<Buckets>,
    outbox: Outbox,
    queue: String,
}

impl Bursts {
    /// Moves what is over the configured rate to `queue`.
    pub(crate) fn new(settings: &Ingest, outbox: Outbox, queue: String) -> Self {
        let rate = Rate { per_second: settings.user_rate, burst: settings.user_burst };
        let remembered = usize::try_from(settings.users_remembered).unwrap_or(usize::MAX);
        let buckets = || Buckets::new(rate, remembered, Instant::now().into_std());
        Self { users: (settings.user_rate > 0).then(buckets), outbox, queue }
    }

    /// Whether an event comes in a burst.
    pub(crate) fn include(&self, event: &AcceptedEvent, now: Instant) -> bool {
        self.users.as_ref().is_some_and(|users| all_are_over(users, &event.recipients, now))
    }

    /// Publishes messages that move, all at once.
    ///
    /// # Errors
    /// The service is stopping and the broker does not confirm.
    pub(crate) async fn put(&self, messages: Vec<Message>) -> Result<Confirmed, Stopping> {
        let count = messages.len() as u64;
        let confirmed =
            try_join_all(messages.into_iter().map(|message| self.outbox.publish(message))).await?;
        counter!("ingest_moved_to_bulk_total").increment(count);
        Ok(confirmed.into_iter().fold(Confirmed::nothing_to_publish(), Confirmed::and))
    }

    /// A message as it moves to the queue of those that come in bursts: as it was published. If the event has no id but the one it was given here, it keeps that one: the broker may
    /// take two copies of the message, or deliver it twice.
    pub(crate) fn message(&self, received: &Received, event: &AcceptedEvent) -> Message {
        let message = moved(received, &self.queue);
        match event.publisher_id {
            Some(_) => message,
            None => message.message_id(event.public_id().as_str()),
        }
    }
}

/// Whether everybody whom an event concerns got more than the rate. Each of them is charged: an event that somebody waits for who
/// got little comes to all its recipients at once.
fn all_are_over(users: &Buckets, recipients: &[UserId], now: Instant) -> bool {
    let under = recipients.iter().filter(|user| users.take(user, 1, now.into_std()).wait.is_none());
    under.count() == 0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn users(ids: &[&str]) -> Vec<UserId> {
        ids.iter().map(|id| UserId::parse(*id).unwrap()).collect()
    }

    fn buckets(now: Instant) -> Buckets {
        Buckets::new(Rate { per_second: 10, burst: 5 }, 100, now.into_std())
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_user_gets_beyond_the_rate_comes_in_a_burst_and_others_do_not_notice() {
        let now = Instant::now();
        let (buckets, [busy, quiet]) = (buckets(now), ["busy", "quiet"].map(|id| users(&[id])));
        for _ in 0..5 {
            assert!(!all_are_over(&buckets, &busy, now));
        }
        assert!(all_are_over(&buckets, &busy, now));
        assert!(!all_are_over(&buckets, &quiet, now));

        // What is in bursts is not charged: a part of it always goes with the others.
        let later = now + Duration::from_secs(1);
        let over = (0..100).filter(|_| all_are_over(&buckets, &busy, later)).count();
        assert_eq!(over, 95, "in a second a full bucket came back");
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_goes_with_the_one_recipient_who_gets_little_and_is_charged_to_all() {
        let now = Instant::now();
        let buckets = buckets(now);
        while !all_are_over(&buckets, &users(&["busy"]), now) {}
        for _ in 0..5 {
            assert!(!all_are_over(&buckets, &users(&["busy", "quiet"]), now));
            assert!(!all_are_over(&buckets, &users(&["other", "quiet too"]), now));
        }
        assert!(all_are_over(&buckets, &users(&["busy", "quiet"]), now), "the quiet one was charged");
        assert!(all_are_over(&buckets, &users(&["quiet too"]), now), "the second one too");
    }
}

//! Events that come in bursts: they are stored after those of other users.

use broker::{Confirmed, Message};
use domain::UserId;
use domain::event::AcceptedEvent;
use futures_util::future::try_join_all;
use ingress::{Buckets, Rate};
use metrics::counter;
use service::settings::Ingest;
use tokio::time::Instant;
use wire::{FanOut, PROTOBUF};

use crate::outbox::Outbox;
use crate::pipeline::{of_new, to_store};
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

    /// Puts events into the queue of those that come in bursts: a group a message.
    ///
    /// # Errors
    /// The service is stopping and the broker does not confirm.
    pub(crate) async fn put(&self, events: Vec<AcceptedEvent>) -> Result<Confirmed, Stopping> {
        let count = events.len() as u64;
        let groups = FanOut::grouped(events.into_iter().map(|event| of_new(&to_store(event))));
        let publishing = groups.iter().map(|group| {
            self.outbox.publish(Message::to_queue(&self.queue, group.encode()).content_type(PROTOBUF))
        });
        let confirmed = try_join_all(publishing).await?;
        counter!("ingest_moved_to_bulk_total").increment(count);
        Ok(confirmed.into_iter().fold(Confirmed::nothing_to_publish(), Confirmed::and))
    }
}

/// Whether everybody whom an event concerns got more than the rate. Each of them is charged: an event that somebody waits for who
/// got little comes to all its recipients at once.
fn all_are_over(users: &Buckets, recipients: &[UserId], now: Instant) -> bool {
    let under = recipients.iter().filter(|user| users.charge(user, 1, now.into_std()));
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

        // What goes on as fast is in the burst too.
        let faster = (1..100).map(|n| now + Duration::from_millis(n * 50));
        assert!(faster.map(|at| all_are_over(&buckets, &busy, at)).all(|is_over| is_over));
        assert!(!all_are_over(&buckets, &busy, now + Duration::from_secs(7)), "until it ends");
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

//! Events that come in bursts: they are stored after those of other users.

use std::collections::HashMap;

use broker::{Confirmed, Message};
use domain::UserId;
use domain::event::AcceptedEvent;
use futures_util::future::try_join_all;
use metrics::counter;
use service::settings::Ingest;
use wire::{FanOut, PROTOBUF};

use crate::outbox::Outbox;
use crate::pipeline::{of_new, to_store};
use crate::retry::Stopping;

/// Tells which events come in bursts, and moves them to the queue of those.
pub(crate) struct Bursts {
    bounds: Bounds,
    outbox: Outbox,
    queue: String,
}

/// What a burst is.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Events that came while the batch before was being worked off, from which on what a user has of them says something.
    events: usize,
    /// Percent of them that a user may have.
    share: usize,
}

impl Bursts {
    /// Moves what users have beyond the configured share to `queue`.
    pub(crate) fn new(settings: &Ingest, outbox: Outbox, queue: String) -> Self {
        let bounds = Bounds { events: settings.burst_batch.into(), share: usize::from(settings.burst_share) };
        Self { bounds, outbox, queue }
    }

    /// Of each of these events whether it comes in a burst.
    pub(crate) fn among<'a>(&self, events: impl Iterator<Item = &'a AcceptedEvent>) -> Vec<bool> {
        self.bounds.bursts(&events.map(|event| event.recipients.as_slice()).collect::<Vec<_>>())
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

impl Bounds {
    /// Of each of these events, by its recipients, whether everybody whom it concerns has more than the share of all of them. An
    /// event that somebody waits for who gets little is in no burst.
    fn bursts(self, events: &[&[UserId]]) -> Vec<bool> {
        if events.len() < self.events {
            return vec![false; events.len()];
        }
        let mut counts: HashMap<&UserId, usize> = HashMap::new();
        for user in events.iter().flat_map(|recipients| recipients.iter()) {
            *counts.entry(user).or_default() += 1;
        }
        let has_more = |user: &UserId| counts[user] * 100 > events.len() * self.share;
        events.iter().map(|recipients| recipients.iter().all(&has_more)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { events: 8, share: 25 };

    /// Which of the events are in bursts, each given by its recipients, a letter for each.
    fn bursts(events: &str) -> String {
        let users =
            |event: &str| event.chars().map(|user| UserId::parse(&user.to_string()).unwrap()).collect();
        let events: Vec<Vec<UserId>> = events.split(' ').map(users).collect();
        let events: Vec<_> = events.iter().map(Vec::as_slice).collect();
        BOUNDS.bursts(&events).into_iter().map(|is_in| if is_in { '!' } else { '.' }).collect()
    }

    #[test]
    fn whoever_has_more_than_their_share_of_what_waits_has_a_burst() {
        assert_eq!(bursts("a a a a a a a b"), "!!!!!!!.");
        assert_eq!(bursts("a a a b b b c d"), "!!!!!!..", "two of them");
        assert_eq!(bursts("a a b b c c d d"), "........", "everybody has their share");
    }

    #[test]
    fn of_little_that_waits_nothing_is_said() {
        assert_eq!(bursts("a a a a a a a"), ".......");
        assert_eq!(bursts("a a a a a a a a"), "!!!!!!!!");
    }

    #[test]
    fn an_event_goes_with_the_one_recipient_who_has_little() {
        assert_eq!(bursts("ab a a a a a a a"), ".!!!!!!!");
        assert_eq!(bursts("ab ab ab a a a a a"), "!!!!!!!!", "both have much");
    }

    #[test]
    fn with_a_share_of_everything_there_are_no_bursts() {
        let user = [UserId::parse("a").unwrap()];
        let events = [user.as_slice(); 100];
        assert_eq!(Bounds { events: 1, share: 100 }.bursts(&events), [false; 100]);
    }
}

//! What operators were told lately.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::WebhookId;
use tokio::time::Instant;
use tracing::error;

/// How long nothing is told again.
const SILENCE: Duration = Duration::from_mins(1);

/// Most things that are told one by one within that time.
const NAMED: usize = 1000;

/// Most things that are told apart within that time, to count them; some 30 bytes each.
const COUNTED: usize = 20_000;

/// Keeps the log readable while the same is true of thousands of deliveries, or something of thousands of webhooks.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Apart from webhooks, which must not take their place.
    reasons: Mutex<Interval<&'static str>>,
    webhooks: Mutex<Interval<WebhookId>>,
}

/// The time from the first thing that was news.
#[derive(Debug)]
struct Interval<T> {
    start: Option<Instant>,
    /// The first [`NAMED`] of them were told.
    things: HashSet<T>,
}

impl<T> Default for Interval<T> {
    fn default() -> Self {
        Self { start: None, things: HashSet::new() }
    }
}

/// What is to be told.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    /// The thing itself.
    it: bool,
    /// More things than can be told one by one.
    many: bool,
    /// How many more they were, of the interval before.
    others: Option<usize>,
}

impl Told {
    /// Whether a reason that concerns everybody was not told within the last minute.
    pub(crate) fn is_news(&self, reason: &'static str) -> bool {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).ask(reason, Instant::now()).it
    }

    /// Whether a webhook's trouble is to be told: it was not within the last minute, and that of not too many others was.
    /// How many are left out is told here.
    pub(crate) fn is_news_about(&self, webhook: WebhookId) -> bool {
        let news = self.webhooks.lock().unwrap_or_else(PoisonError::into_inner).ask(webhook, Instant::now());
        if let Some(others) = news.others {
            error!(named = NAMED, others, "other webhooks had the same trouble within a minute");
        }
        if news.many {
            error!(
                named = NAMED,
                "more webhooks have the same trouble; they are counted and no longer named"
            );
        }
        news.it
    }
}

impl<T: Eq + Hash> Interval<T> {
    fn ask(&mut self, what: T, now: Instant) -> News {
        let mut news = News::default();
        if self.start.is_none_or(|start| now - start >= SILENCE) {
            let others = self.things.len().saturating_sub(NAMED);
            news.others = (others > 0).then_some(others);
            *self = Self { start: Some(now), ..Self::default() };
        }
        if self.things.len() < COUNTED && self.things.insert(what) {
            news.it = self.things.len() <= NAMED;
            news.many = self.things.len() == NAMED + 1;
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn ask(interval: &mut Interval<usize>, things: std::ops::Range<usize>, now: Instant) -> Vec<News> {
        things.map(|thing| interval.ask(thing, now)).collect()
    }

    #[test]
    fn what_was_told_is_no_news() {
        let told = Told::default();
        assert!(told.is_news("one") && told.is_news("two"));
        assert!(!told.is_news("one") && !told.is_news("two"));
    }

    #[test]
    fn however_many_webhooks_are_in_trouble_a_reason_is_told() {
        let told = Told::default();
        for number in 0..=NAMED as u128 {
            let is_news = told.is_news_about(WebhookId::from_uuid(Uuid::from_u128(number)));
            assert_eq!(is_news, number < NAMED as u128);
        }
        assert!(told.is_news("proxy"));
    }

    #[test]
    fn after_a_minute_it_is_news_again() {
        let (mut interval, start) = (Interval::default(), Instant::now());
        assert!(interval.ask("one", start).it);
        assert!(!interval.ask("one", start + SILENCE - Duration::from_millis(1)).it);
        assert!(interval.ask("one", start + SILENCE).it);
        assert!(!interval.ask("one", start + SILENCE).it);
    }

    #[test]
    fn of_very_many_things_so_many_are_named_and_the_others_are_told_once_by_their_number() {
        let (mut interval, start) = (Interval::default(), Instant::now());
        let mut lines = 0;
        // As deliveries that are put off come back, every five seconds.
        for round in 0..12 {
            let now = start + Duration::from_secs(5) * round;
            let told = ask(&mut interval, 0..NAMED + 234, now);
            lines += told.iter().filter(|news| news.it || news.many || news.others.is_some()).count();
        }
        assert_eq!(lines, NAMED + 1, "each of those named, and once that there are more");
        let next = ask(&mut interval, 0..2, start + SILENCE);
        assert_eq!(next[0], News { it: true, many: false, others: Some(234) });
        assert_eq!(next[1], News { it: true, many: false, others: None });
        // Nobody was left out this time.
        assert_eq!(ask(&mut interval, 0..1, start + SILENCE * 2)[0].others, None);
    }

    #[test]
    fn what_is_kept_in_mind_has_a_bound() {
        let (mut interval, start) = (Interval::default(), Instant::now());
        let told = ask(&mut interval, 0..COUNTED * 2, start);
        assert_eq!(told.iter().filter(|news| news.it).count(), NAMED);
        assert_eq!(told.iter().filter(|news| news.many).count(), 1);
        assert_eq!(interval.things.len(), COUNTED);
        let next = ask(&mut interval, 0..1, start + SILENCE);
        assert_eq!(next[0].others, Some(COUNTED - NAMED), "at least so many");
    }
}

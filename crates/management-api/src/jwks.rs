//! The provider's keys, from its URL: one task fetches them, requests use what it fetched last.
//!
//! It fetches at the start, when the keys are as old as they may be, and when a token names a key that is not known.
//! However many such tokens come, two fetches are `auth.jwks_min_interval` apart. While the provider is away the keys that
//! are known stay in use.

mod fetch;

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use service::settings::Auth;
use service::{Check, Clock};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::jwks::fetch::{FetchError, Fetched, Provider};
use crate::keys::{Key, KeysError};

/// Requests that wait for a fetch at once; others are told to try again.
const WAITING: usize = 256;

/// How much longer than a fetch may take a request waits for one.
const SLACK: Duration = Duration::from_secs(1);

/// What is known of the provider's keys.
#[derive(Clone)]
pub(crate) struct Known {
    /// The keys of the last set that could be fetched; `None` until there was one with a key to use.
    pub(crate) keys: Option<Arc<[Key]>>,
    /// Whether the provider said so when it was asked last.
    pub(crate) is_current: bool,
    fetches: u64,
    /// When the provider may be asked again.
    next_fetch: Instant,
}

/// The provider's keys, for requests. Nothing here is held while something is waited for.
pub(crate) struct Jwks {
    known: watch::Receiver<Known>,
    wanted: Arc<Notify>,
    places: Semaphore,
    patience: Duration,
}

impl Jwks {
    /// What is known now.
    pub(crate) fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// What is known after the provider was asked again, for a token whose key is not among those `seen`. The same if it
    /// was asked a moment ago; `None` if no answer came in time, or too many wait for one already.
    pub(crate) async fn newer_than(&self, seen: &Known) -> Option<Known> {
        self.wanted.notify_one();
        if Instant::now() < seen.next_fetch {
            return Some(seen.clone());
        }
        let _place = self.places.try_acquire().ok()?;
        let mut known = self.known.clone();
        let newer = known.wait_for(|known| known.fetches > seen.fetches);
        timeout(self.patience, newer).await.ok()?.ok().map(|known| known.clone())
    }
}

/// The task that fetches.
pub(crate) struct Keeper {
    provider: Provider,
    known: watch::Sender<Known>,
    wanted: Arc<Notify>,
    min_interval: Duration,
    max_age: Duration,
}

/// Keys that will be fetched from `auth.jwks_url`, and the task that has to be run for it; `None` without a URL.
pub(crate) fn configured(auth: &Auth) -> Result<Option<(Jwks, Keeper)>, KeysError> {
    let Some(url) = &auth.jwks_url else { return Ok(None) };
    let provider = Provider::new(url, auth).map_err(KeysError::Url)?;
    let nothing = Known { keys: None, is_current: false, fetches: 0, next_fetch: Instant::now() };
    let (sender, known) = watch::channel(nothing);
    let wanted = Arc::new(Notify::new());
    let jwks = Jwks {
        known,
        wanted: wanted.clone(),
        places: Semaphore::new(WAITING),
        patience: auth.jwks_timeout.0 + SLACK,
    };
    let keeper = Keeper {
        provider,
        known: sender,
        wanted,
        min_interval: auth.jwks_min_interval.0,
        max_age: auth.jwks_max_age.0,
    };
    Ok(Some((jwks, keeper)))
}

impl Keeper {
    /// Fetches until the process stops. The check passes once there are keys: later the service can do without the
    /// provider.
    pub(crate) async fn run(self, check: Check, clock: Clock, stopping: CancellationToken) {
        loop {
            let fetched = tokio::select! {
                () = stopping.cancelled() => return,
                fetched = self.provider.fetch() => fetched,
            };
            let next_fetch = Instant::now() + self.min_interval;
            let due = Instant::now() + self.take(fetched, next_fetch, &check, &clock);
            let asked_for = async {
                sleep_until(next_fetch).await;
                self.wanted.notified().await;
            };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = sleep_until(due) => {}
                () = asked_for => {}
            }
        }
    }

    /// Makes known what was fetched, and says how long it is good for.
    fn take(
        &self,
        fetched: Result<Fetched, FetchError>,
        next_fetch: Instant,
        check: &Check,
        clock: &Clock,
    ) -> Duration {
        let before = self.known.borrow().clone();
        let after = |keys, is_current| Known { keys, is_current, fetches: before.fetches + 1, next_fetch };
        match fetched {
            Ok(Fetched { set, max_age }) => {
                counter!("jwks_fetches_total", "outcome" => "success").increment(1);
                #[expect(clippy::cast_precision_loss, reason = "exact for 285,000 years, and for 64 keys")]
                let (now, count) = (clock.now().timestamp() as f64, set.keys.len() as f64);
                gauge!("jwks_fetched_timestamp_seconds").set(now);
                gauge!("jwks_keys").set(count);
                let (keys, left_out) = (set.keys.len(), set.left_out);
                let is_news = !before.is_current || before.keys.as_ref().map(|keys| keys.len()) != Some(keys);
                // Before the first key, a set without one is a provider that is not ready. Later, it has taken all back.
                let nothing_yet = keys == 0 && before.keys.is_none();
                if nothing_yet {
                    check.fail("auth.jwks_url answers with a set without a key that can be used");
                } else {
                    check.pass();
                }
                if is_news && keys == 0 {
                    warn!(left_out, "the keys of auth.jwks_url have none that can be used");
                } else if is_news {
                    info!(keys, left_out, "keys fetched from auth.jwks_url");
                }
                let keys = (!nothing_yet).then(|| set.keys.into());
                self.known.send_replace(after(keys, true));
                let good_for = max_age.unwrap_or(self.max_age).min(self.max_age).max(self.min_interval);
                if nothing_yet { self.min_interval } else { good_for }
            }
            Err(error) => {
                counter!("jwks_fetches_total", "outcome" => "failure").increment(1);
                if before.keys.is_none() {
                    check.fail(format!("auth.jwks_url: {error}"));
                }
                if before.is_current || before.fetches == 0 {
                    warn!(%error, "keys cannot be fetched from auth.jwks_url; those that are known stay in use");
                } else {
                    debug!(%error, "keys still cannot be fetched from auth.jwks_url");
                }
                let keys = before.keys.clone();
                self.known.send_replace(after(keys, false));
                self.min_interval
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests' side, with nobody who fetches.
    fn jwks(places: usize, next_fetch: Instant) -> (Jwks, watch::Sender<Known>) {
        let known = Known { keys: Some(Arc::new([])), is_current: true, fetches: 1, next_fetch };
        let (sender, known) = watch::channel(known);
        let patience = Duration::from_millis(20);
        (Jwks { known, wanted: Arc::default(), places: Semaphore::new(places), patience }, sender)
    }

    /// A fetch once it is asked for.
    async fn fetched(jwks: &Jwks, fetches: &watch::Sender<Known>) {
        jwks.wanted.notified().await;
        fetches.send_modify(|known| known.fetches += 1);
    }

    #[tokio::test]
    async fn a_request_waits_for_a_fetch_within_bounds_of_time_and_number() {
        let (jwks, fetches) = jwks(1, Instant::now());
        assert!(jwks.newer_than(&jwks.known()).await.is_none(), "nobody fetches");
        assert_eq!(jwks.places.available_permits(), 1, "who waited is counted no more");

        let _waiting = jwks.places.acquire().await.unwrap();
        jwks.wanted.notified().await;
        let seen = jwks.known();
        let (newer, ()) = tokio::join!(jwks.newer_than(&seen), fetched(&jwks, &fetches));
        assert!(newer.is_none(), "one waits already: not even what comes is waited for");
    }

    #[tokio::test]
    async fn a_provider_that_was_asked_a_moment_ago_is_not_waited_for() {
        let (jwks, _fetches) = jwks(0, Instant::now() + Duration::from_secs(3600));
        let known = jwks.newer_than(&jwks.known()).await.expect("what is known");
        assert_eq!((known.fetches, known.is_current), (1, true));
        // It is asked when it may be.
        jwks.wanted.notified().await;
    }

    #[tokio::test]
    async fn a_request_gets_what_was_fetched_after_it_asked() {
        let (jwks, fetches) = jwks(1, Instant::now());
        let seen = jwks.known();
        let (newer, ()) = tokio::join!(jwks.newer_than(&seen), fetched(&jwks, &fetches));
        assert_eq!(newer.map(|known| known.fetches), Some(2));
    }
}

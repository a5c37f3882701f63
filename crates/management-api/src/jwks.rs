//! The provider's keys, from its URL: one task fetches them, requests use what it fetched last.
//!
//! It fetches at the start, when the keys are as old as they may be, and when a token names a key that is not known.
//! However many such tokens come, two fetches are `auth.jwks_min_interval` apart; such a token waits for one that began
//! after it came, for only that one can tell. While the provider is away the keys that are known stay in use.

mod fetch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ingress::{Network, Slot, Slots};
use metrics::{counter, gauge};
use service::settings::Auth;
use service::{Check, Clock};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::jwks::fetch::{FetchError, Fetched, Provider};
use crate::keys::{Key, KeysError, count_not_in};

/// Requests that wait for a fetch at once; others are told to try again.
const WAITING: usize = 256;

/// Those of one address, so that it does not keep others waiting with keys it makes up.
const WAITING_OF_ADDRESS: u32 = 32;

/// How much longer than a fetch may take a request waits for one.
const SLACK: Duration = Duration::from_secs(1);

/// The longest wait until the provider may be asked again, for a request. If it is longer, the request is told at once.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What is known of the provider's keys.
#[derive(Clone)]
pub(crate) struct Known {
    /// The keys of the last set that could be fetched; `None` until there was one with a key to use.
    pub(crate) keys: Option<Arc<[Key]>>,
    /// Whether the provider said so when it was asked last.
    pub(crate) is_current: bool,
    /// How many fetches ended.
    fetches: u64,
    /// When the provider may be asked again.
    next_fetch: Instant,
}

/// The provider's keys, for requests. Nothing here is held while something is waited for.
pub(crate) struct Jwks {
    known: watch::Receiver<Known>,
    wanted: Arc<Notify>,
    /// How many fetches began.
    begun: Arc<AtomicU64>,
    places: Arc<Semaphore>,
    of_addresses: Arc<Slots<Network>>,
    /// Between two fetches.
    interval: Duration,
    /// For a fetch.
    fetch: Duration,
}

impl Jwks {
    /// What is known now.
    pub(crate) fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// What the provider says that is newer than what was `seen`, for a token whose key is not in that. `None` if
    /// nothing comes in time, too many wait already (of all, or of its address), or the provider was away a moment ago.
    ///
    /// Only an answer to a question that was asked after the token came says that there is no such key.
    pub(crate) async fn newer_than(&self, seen: &Known, question: &mut Question) -> Option<Known> {
        let deadline = question.deadline?;
        if !seen.is_current && Instant::now() < seen.next_fetch {
            return None;
        }
        if question.place.is_none() {
            question.place = Some(self.place(question.from)?);
            self.wanted.notify_one();
        }
        let mut known = self.known.clone();
        let newer = known.wait_for(|known| known.fetches > seen.fetches);
        timeout_at(deadline, newer).await.ok()?.ok().map(|known| known.clone())
    }

    fn place(&self, from: Network) -> Option<Place> {
        let of_address = self.of_addresses.take(from)?;
        let of_all = self.places.clone().try_acquire_owned().ok()?;
        Some(Place { _of_address: of_address, _of_all: of_all })
    }

    /// Starts to ask for a token that just came from an address.
    pub(crate) fn question(&self, from: Network) -> Question {
        let (now, next_fetch) = (Instant::now(), self.known.borrow().next_fetch);
        let wait = next_fetch.saturating_duration_since(now);
        // A fetch that is under way may have been asked before, and this one comes after it.
        let deadline = now + wait.max(self.interval).min(LONGEST_WAIT) + self.fetch * 2 + SLACK;
        Question {
            begun: self.begun.load(Ordering::SeqCst),
            deadline: (wait <= LONGEST_WAIT).then_some(deadline),
            from,
            place: None,
        }
    }
}

/// One request that waits for the provider. It has a place among those who do until it is dropped.
pub(crate) struct Question {
    /// How many fetches had begun when it came.
    begun: u64,
    deadline: Option<Instant>,
    from: Network,
    place: Option<Place>,
}

/// A place among the requests that wait, and among those of its address.
struct Place {
    _of_address: Slot<Network>,
    _of_all: OwnedSemaphorePermit,
}

impl Question {
    /// Whether this came from asking after the question was.
    pub(crate) fn is_answered_by(&self, known: &Known) -> bool {
        known.fetches > self.begun
    }
}

/// The task that fetches.
pub(crate) struct Keeper {
    provider: Provider,
    known: watch::Sender<Known>,
    wanted: Arc<Notify>,
    begun: Arc<AtomicU64>,
    /// There are keys that need no provider.
    has_others: bool,
    min_interval: Duration,
    max_age: Duration,
}

/// Keys that will be fetched from `auth.jwks_url`, and the task that has to be run for it; `None` without a URL.
pub(crate) fn configured(auth: &Auth) -> Result<Option<(Jwks, Keeper)>, KeysError> {
    let Some(url) = &auth.jwks_url else { return Ok(None) };
    let provider = Provider::new(url, auth).map_err(KeysError::Url)?;
    let nothing = Known { keys: None, is_current: false, fetches: 0, next_fetch: Instant::now() };
    let (sender, known) = watch::channel(nothing);
    let (wanted, begun) = (Arc::new(Notify::new()), Arc::new(AtomicU64::new(0)));
    let jwks = Jwks {
        known,
        wanted: wanted.clone(),
        begun: begun.clone(),
        places: Arc::new(Semaphore::new(WAITING)),
        of_addresses: Slots::new(WAITING_OF_ADDRESS),
        interval: auth.jwks_min_interval.0,
        fetch: auth.jwks_timeout.0,
    };
    let keeper = Keeper {
        provider,
        known: sender,
        wanted,
        begun,
        has_others: auth.jwks_file.is_some() || auth.hs256_secret.is_some(),
        min_interval: auth.jwks_min_interval.0,
        max_age: auth.jwks_max_age.0,
    };
    Ok(Some((jwks, keeper)))
}

impl Keeper {
    /// Fetches until the process stops. The check passes once there are keys, from whom ever: then the service can do without
    /// the provider.
    pub(crate) async fn run(self, check: Check, clock: Clock, stopping: CancellationToken) {
        gauge!("jwks_keys").set(0);
        if self.has_others {
            check.pass();
        }
        loop {
            self.begun.fetch_add(1, Ordering::SeqCst);
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
                let old = before.keys.as_deref().unwrap_or_default();
                let (new, gone) = (count_not_in(&set.keys, old), count_not_in(old, &set.keys));
                let is_news = !before.is_current || new > 0 || gone > 0;
                // Before the first key, a set without one is a provider that is not ready. Later, it has taken all back.
                let nothing_yet = keys == 0 && before.keys.is_none();
                if nothing_yet && !self.has_others {
                    check.fail("auth.jwks_url answers with a set without a key");
                } else {
                    check.pass();
                }
                if is_news && keys == 0 {
                    warn!(gone, "auth.jwks_url has no keys");
                } else if is_news {
                    info!(keys, new, gone, left_out, "keys fetched from auth.jwks_url");
                }
                let keys = (!nothing_yet).then(|| set.keys.into());
                self.known.send_replace(after(keys, true));
                let good_for = max_age.unwrap_or(self.max_age).min(self.max_age).max(self.min_interval);
                if nothing_yet { self.min_interval } else { good_for }
            }
            Err(error) => {
                counter!("jwks_fetches_total", "outcome" => "failure").increment(1);
                if before.keys.is_none() && !self.has_others {
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

    /// Requests' side, with nobody who fetches: one fetch was made.
    fn jwks(places: usize, next_fetch: Instant) -> (Jwks, watch::Sender<Known>) {
        let known = Known { keys: Some(Arc::new([])), is_current: true, fetches: 1, next_fetch };
        let (sender, known) = watch::channel(known);
        let jwks = Jwks {
            known,
            wanted: Arc::default(),
            begun: Arc::new(AtomicU64::new(1)),
            places: Arc::new(Semaphore::new(places)),
            of_addresses: Slots::new(1),
            interval: Duration::ZERO,
            fetch: Duration::from_millis(20),
        };
        (jwks, sender)
    }

    /// A fetch once it is asked for.
    async fn fetched(jwks: &Jwks, fetches: &watch::Sender<Known>) {
        jwks.wanted.notified().await;
        fetches.send_modify(|known| known.fetches += 1);
    }

    async fn ask(jwks: &Jwks) -> Option<Known> {
        jwks.newer_than(&jwks.known(), &mut jwks.question(Network::unknown())).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_fetch_within_bounds_of_time_and_number() {
        let (jwks, fetches) = jwks(1, Instant::now());
        assert!(ask(&jwks).await.is_none(), "nobody fetches");
        assert_eq!(jwks.places.available_permits(), 1, "who waited is counted no more");

        let _waiting = jwks.places.acquire().await.unwrap();
        let (newer, ()) = tokio::join!(ask(&jwks), fetched(&jwks, &fetches));
        assert!(newer.is_none(), "one waits already: not even what comes is waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_at_one_address_leaves_places_to_others() {
        let (jwks, fetches) = jwks(2, Instant::now());
        let other = Network::of("192.0.2.1".parse().unwrap());
        let waiting = jwks.place(other).unwrap();
        let (seen, mut question) = (jwks.known(), jwks.question(other));
        assert!(jwks.newer_than(&seen, &mut question).await.is_none(), "one of its own waits already");
        assert_eq!(tokio::join!(ask(&jwks), fetched(&jwks, &fetches)).0.map(|known| known.fetches), Some(2));
        drop(waiting);
        let seen = jwks.known();
        let (newer, ()) = tokio::join!(jwks.newer_than(&seen, &mut question), fetched(&jwks, &fetches));
        assert!(newer.is_some(), "it waits no more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_may_not_be_asked_yet_is_waited_for_unless_that_takes_too_long() {
        let (jwks, fetches) = jwks(1, Instant::now() + LONGEST_WAIT);
        let answer = async {
            tokio::time::sleep(LONGEST_WAIT).await;
            fetched(&jwks, &fetches).await;
        };
        assert_eq!(tokio::join!(ask(&jwks), answer).0.map(|known| known.fetches), Some(2));

        fetches.send_modify(|known| known.next_fetch = Instant::now() + Duration::from_secs(3600));
        let before = Instant::now();
        assert!(ask(&jwks).await.is_none());
        assert_eq!(Instant::now(), before, "told at once");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_earlier_question_does_not_tell_that_there_is_no_such_key() {
        let (jwks, fetches) = jwks(1, Instant::now());
        jwks.begun.store(2, Ordering::SeqCst);
        let mut question = jwks.question(Network::unknown());
        let seen = jwks.known();
        let (early, ()) = tokio::join!(jwks.newer_than(&seen, &mut question), fetched(&jwks, &fetches));
        let early = early.expect("what was asked for before");
        assert!(early.fetches == 2 && !question.is_answered_by(&early));
        let answer = async { fetches.send_modify(|known| known.fetches += 1) };
        let (late, ()) = tokio::join!(jwks.newer_than(&early, &mut question), answer);
        assert!(question.is_answered_by(&late.expect("the answer")));
        drop(question);
        assert_eq!(jwks.places.available_permits(), 1);
    }
}

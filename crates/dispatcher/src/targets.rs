//! Webhooks ready to be sent to.

use std::sync::Arc;
use std::time::Duration;

use domain::WebhookId;
use domain::redaction::Redactor;
use domain::signature::Signer;
use domain::webhook_url::{UrlPolicy, WebhookUrl};
use http::Uri;
use moka::sync::Cache;
use service::Clock;
use store::{DecryptError, WebhookTarget};

use crate::journal::{Journal, JournalError};

/// A webhook ready to be sent to.
#[derive(Debug)]
pub(crate) struct Target {
    revision: i64,
    /// Whether it takes events.
    pub(crate) active: bool,
    /// Where requests go, or why the URL may not be requested any more: policies change.
    pub(crate) uri: Result<Uri, String>,
    /// Signs requests.
    pub(crate) signer: Signer,
    /// Finds the webhook's secrets in what is answered.
    pub(crate) redactor: Redactor,
}

/// There is no target to send to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoTarget {
    /// The webhook was deleted.
    #[error("the webhook was deleted")]
    Gone,
    /// Its secret cannot be read: ours to mend, and then the attempt can be made.
    #[error(transparent)]
    Secret(#[from] DecryptError),
    /// It could not be found out.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Targets that are remembered, each for one revision of its webhook.
pub(crate) struct Targets {
    cache: Cache<WebhookId, Arc<Target>>,
    /// Webhooks whose secrets could not be read, as they were at a revision: each of their deliveries would ask again.
    unreadable: Cache<(WebhookId, i64), DecryptError>,
    policy: UrlPolicy,
    clock: Clock,
}

impl Target {
    /// Whether it is the webhook as it is at `revision`, or later.
    pub(crate) fn is_as_of(&self, revision: i64) -> bool {
        self.revision >= revision
    }
}

impl Targets {
    /// Remembers the targets of up to `webhooks` webhooks, and for as long as `unreadable` those that it could not read.
    pub(crate) fn new(webhooks: u32, unreadable: Duration, policy: UrlPolicy, clock: Clock) -> Self {
        let unreadable = Cache::builder().max_capacity(webhooks.into()).time_to_live(unreadable).build();
        Self { cache: Cache::new(webhooks.into()), unreadable, policy, clock }
    }

    /// A webhook's target, if it is remembered.
    pub(crate) fn remembered(&self, webhook: WebhookId) -> Option<Arc<Target>> {
        self.cache.get(&webhook)
    }

    /// Reads a webhook's target as it is now, at `revision` or later, and remembers what came of it. Takes as long as
    /// the database is away.
    pub(crate) async fn load(
        &self,
        webhook: WebhookId,
        revision: i64,
        journal: &Journal,
    ) -> Result<Arc<Target>, NoTarget> {
        if let Some(error) = self.unreadable.get(&(webhook, revision)) {
            return Err(error.into());
        }
        let loaded = journal.load_target(webhook).await?.ok_or(NoTarget::Gone)?;
        match loaded.and_then(|loaded| self.prepare(loaded)) {
            Ok(target) => {
                let target = Arc::new(target);
                self.cache.insert(webhook, target.clone());
                Ok(target)
            }
            Err(error) => {
                self.unreadable.insert((webhook, revision), error.clone());
                Err(error.into())
            }
        }
    }

    /// A secret that has had its time need not be readable any more.
    fn prepare(&self, loaded: WebhookTarget) -> Result<Target, DecryptError> {
        let uri = WebhookUrl::parse(&loaded.url, &self.policy)
            .map_err(|error| format!("the webhook's URL {error}"))
            .and_then(|url| {
                url.url().as_str().parse().map_err(|error| format!("the webhook's URL: {error}"))
            });
        let previous = match loaded.previous_secret {
            Some(previous) if self.clock.now() < previous.until => Some((previous.secret?, previous.until)),
            _ => None,
        };
        let previous = previous.as_ref().map(|(secret, until)| (secret, *until));
        Ok(Target {
            revision: loaded.revision,
            active: loaded.active,
            uri,
            signer: Signer::new(&loaded.secret, previous),
            redactor: Redactor::new([&loaded.secret].into_iter().chain(previous.map(|(secret, _)| secret))),
        })
    }
}

#[cfg(test)]
mod tests {
    use domain::signature::WebhookSecret;
    use domain::{PublicEventId, Timestamp};
    use ring::rand::SystemRandom;
    use store::PreviousSecret;

    use super::*;

    fn targets_at(now: Timestamp) -> Targets {
        Targets::new(1, Duration::from_secs(5), UrlPolicy::default(), Clock::fixed(now))
    }

    fn loaded(previous: PreviousSecret) -> WebhookTarget {
        let random = SystemRandom::new();
        WebhookTarget {
            id: WebhookId::generate(Timestamp::UNIX_EPOCH, &random).unwrap(),
            revision: 1,
            active: true,
            url: "https://receiver.example/".to_owned(),
            secret: WebhookSecret::generate(&random).unwrap(),
            previous_secret: Some(previous),
        }
    }

    #[test]
    fn a_previous_secret_signs_along_until_its_end_and_only_until_then_has_to_be_readable() {
        let until = Timestamp::UNIX_EPOCH + Duration::from_hours(24);
        let (before, id) = (until - Duration::from_millis(1), PublicEventId::parse("evt_1").unwrap());
        let lost = loaded(PreviousSecret { until, secret: Err(DecryptError::UnknownKey("lost".to_owned())) });
        let waits = targets_at(before).prepare(lost.clone());
        assert!(matches!(waits, Err(DecryptError::UnknownKey(key)) if key == "lost"));
        let target = targets_at(until).prepare(lost).unwrap();
        assert!(!target.signer.standard_signature(&id, until, b"{}").contains(' '));

        let secret = WebhookSecret::generate(&SystemRandom::new());
        let target =
            targets_at(before).prepare(loaded(PreviousSecret { until, secret: Ok(secret.unwrap()) }));
        let signer = target.unwrap().signer;
        assert!(signer.standard_signature(&id, before, b"{}").contains(' '));
        assert!(!signer.standard_signature(&id, until, b"{}").contains(' '), "remembered or not");
    }

    #[test]
    fn a_target_finds_both_of_its_secrets_in_what_is_answered() {
        let previous = WebhookSecret::generate(&SystemRandom::new()).unwrap();
        let until = Timestamp::UNIX_EPOCH + Duration::from_hours(24);
        let webhook = loaded(PreviousSecret { until, secret: Ok(previous.clone()) });
        let current = webhook.secret.clone();
        let target = targets_at(Timestamp::UNIX_EPOCH).prepare(webhook).unwrap();
        for secret in [current, previous] {
            let bare = secret.expose().trim_start_matches("whsec_");
            assert_eq!(target.redactor.redact(&format!("bad key: {bare}")), "bad key: [redacted]");
        }
    }
}

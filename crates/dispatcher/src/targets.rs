//! Webhooks ready to be sent to.

use std::sync::Arc;

use domain::WebhookId;
use domain::signature::Signer;
use domain::webhook_url::{UrlPolicy, WebhookUrl};
use http::Uri;
use moka::sync::Cache;
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
    policy: UrlPolicy,
}

impl Target {
    /// Whether it is the webhook as it is at `revision`, or later.
    pub(crate) fn is_as_of(&self, revision: i64) -> bool {
        self.revision >= revision
    }
}

impl Targets {
    /// Remembers the targets of up to `webhooks` webhooks.
    pub(crate) fn new(webhooks: u32, policy: UrlPolicy) -> Self {
        Self { cache: Cache::new(webhooks.into()), policy }
    }

    /// A webhook's target, if it is remembered.
    pub(crate) fn remembered(&self, webhook: WebhookId) -> Option<Arc<Target>> {
        self.cache.get(&webhook)
    }

    /// Reads a webhook's target as it is now, and remembers it. Takes as long as the database is away.
    pub(crate) async fn load(&self, webhook: WebhookId, journal: &Journal) -> Result<Arc<Target>, NoTarget> {
        let loaded = journal.load_target(webhook).await?.ok_or(NoTarget::Gone)??;
        let target = Arc::new(self.prepare(&loaded));
        self.cache.insert(webhook, target.clone());
        Ok(target)
    }

    fn prepare(&self, loaded: &WebhookTarget) -> Target {
        let uri = WebhookUrl::parse(&loaded.url, &self.policy)
            .map_err(|error| format!("the webhook's URL {error}"))
            .and_then(|url| {
                url.url().as_str().parse().map_err(|error| format!("the webhook's URL: {error}"))
            });
        let previous = loaded.previous_secret.as_ref().map(|(secret, until)| (secret, *until));
        Target {
            revision: loaded.revision,
            active: loaded.active,
            uri,
            signer: Signer::new(&loaded.secret, previous),
        }
    }
}

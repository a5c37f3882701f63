//! Webhooks as those see them who deliver events.

use std::collections::HashMap;

use diesel::{BoolExpressionMethods as _, ExpressionMethods as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::RunQueryDsl as _;
use domain::signature::WebhookSecret;
use domain::{EventType, Timestamp, UserId, WebhookId};
use uuid::Uuid;

use super::{Row, event_types};
use crate::encryption::{DecryptError, Encrypted, SecretKeys};
use crate::error::StoreError;
use crate::pool::Store;
use crate::schema::webhooks;

/// Where and how to send events.
#[derive(Debug, Clone)]
pub struct WebhookTarget {
    /// The webhook.
    pub id: WebhookId,
    /// What this is valid for.
    pub revision: i64,
    /// Whether it takes events.
    pub active: bool,
    /// Where events go.
    pub url: String,
    /// Signs requests.
    pub secret: WebhookSecret,
    /// Signs Standard Webhooks requests too, until its end.
    pub previous_secret: Option<PreviousSecret>,
}

/// The secret before a regeneration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousSecret {
    /// When it stops signing along.
    pub until: Timestamp,
    /// The secret. That it cannot be decrypted matters until then only.
    pub secret: Result<WebhookSecret, DecryptError>,
}

/// Which events an active webhook gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The webhook.
    pub webhook: WebhookId,
    /// Its owner.
    pub user: UserId,
    /// The types it subscribes to.
    pub events: Vec<EventType>,
}

impl Row {
    fn previous_secret(&self, keys: &SecretKeys) -> Option<PreviousSecret> {
        let (bytes, key_id) = (self.previous_secret.clone()?, self.previous_secret_key_id.clone()?);
        let secret = keys.decrypt(WebhookId::from_uuid(self.id), &Encrypted { key_id, bytes });
        Some(PreviousSecret { until: self.previous_secret_until?, secret })
    }

    fn into_target(self, keys: &SecretKeys) -> Result<WebhookTarget, DecryptError> {
        Ok(WebhookTarget {
            secret: self.secret(keys)?,
            previous_secret: self.previous_secret(keys),
            id: WebhookId::from_uuid(self.id),
            revision: self.revision,
            active: self.active,
            url: self.url,
        })
    }
}

fn user_id(text: &str) -> Result<UserId, StoreError> {
    UserId::parse(text)
        .map_err(|error| StoreError::Query(diesel::result::Error::DeserializationError(Box::new(error))))
}

impl Store {
    /// Who of these users subscribes to what, with active webhooks only; one query for all. Index:
    /// `webhooks_user_id`.
    pub async fn subscriptions_of(&self, users: &[UserId]) -> Result<Vec<Subscription>, StoreError> {
        let users: Vec<_> = users.iter().map(UserId::as_str).collect();
        let mut connection = self.connection().await?;
        let rows: Vec<(Uuid, String, Vec<String>)> = webhooks::table
            .filter(webhooks::user_id.eq_any(users).and(webhooks::active))
            .select((webhooks::id, webhooks::user_id, webhooks::events))
            .load(&mut connection)
            .await?;
        rows.into_iter()
            .map(|(id, user, events)| {
                let (webhook, user) = (WebhookId::from_uuid(id), user_id(&user)?);
                Ok(Subscription { webhook, user, events: event_types(&events) })
            })
            .collect()
    }

    /// These webhooks, as far as they exist, one query for all. A secret that cannot be decrypted is an error of
    /// its webhook alone.
    pub async fn webhook_targets(
        &self,
        ids: &[WebhookId],
    ) -> Result<HashMap<WebhookId, Result<WebhookTarget, DecryptError>>, StoreError> {
        let ids: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
        let mut connection = self.connection().await?;
        let rows: Vec<Row> = webhooks::table
            .filter(webhooks::id.eq_any(ids))
            .select(Row::as_select())
            .load(&mut connection)
            .await?;
        let target = |row: Row| (WebhookId::from_uuid(row.id), row.into_target(&self.keys));
        Ok(rows.into_iter().map(target).collect())
    }
}

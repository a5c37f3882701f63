//! Developers' webhooks.

mod targets;

use std::time::Duration;

use diesel::prelude::{AsChangeset, Queryable, Selectable};
use diesel::sql_types::Text;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use domain::signature::WebhookSecret;
use domain::{EventType, Timestamp, UserId, WebhookId};
use tracing::warn;
use uuid::Uuid;

use crate::encryption::{DecryptError, Encrypted, SecretKeys};
use crate::error::StoreError;
use crate::history::Page;
use crate::idempotency::IdempotencyKey;
use crate::pool::Store;
use crate::schema::webhooks;

pub use self::targets::{PreviousSecret, Subscription, WebhookTarget};

/// A webhook as its owner sees it: without its secret, so that looking at webhooks needs none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Where events go, as the developer wrote it.
    pub url: String,
    /// The types it subscribes to, in the developer's order.
    pub events: Vec<EventType>,
    /// The developer's note.
    pub description: Option<String>,
    /// Whether events are sent.
    pub active: bool,
    /// Why the platform disabled it.
    pub disabled_reason: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// A webhook and its secret, for the answers that show it: to creating and to regenerating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disclosed {
    /// The webhook.
    pub webhook: Webhook,
    /// Its secret.
    pub secret: WebhookSecret,
}

/// A webhook to be created.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Its id.
    pub id: WebhookId,
    /// Its owner.
    pub user: UserId,
    /// Where events go.
    pub url: String,
    /// The types it subscribes to.
    pub events: Vec<EventType>,
    /// The developer's note.
    pub description: Option<String>,
    /// Its secret.
    pub secret: WebhookSecret,
    /// When it is created.
    pub created_at: Timestamp,
}

/// What creating a webhook gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// A new webhook.
    New(Disclosed),
    /// The webhook that the same key created before. With its secret, unless that was regenerated since: only whoever did that
    /// is to see the new one.
    Replayed(Webhook, Option<WebhookSecret>),
}

/// A webhook was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The user has as many as allowed.
    #[error("the user has {0} webhooks already")]
    LimitReached(u32),
    /// The key was used for another request, or its webhook is gone.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The user has as many keys as are remembered.
    #[error("the user has {limit} idempotency keys already; the oldest is forgotten in {wait:?}")]
    TooManyKeys {
        /// How many are remembered.
        limit: u32,
        /// How long to wait.
        wait: Duration,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<diesel::result::Error> for CreateError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Changes to a webhook; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookChanges {
    /// Where events go.
    pub url: Option<String>,
    /// The types it subscribes to.
    pub events: Option<Vec<EventType>>,
    /// Whether events are sent.
    pub active: Option<bool>,
    /// The developer's note; `Some(None)` removes it.
    pub description: Option<Option<String>>,
}

/// A page of webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookPage {
    /// Newest first.
    pub webhooks: Vec<Webhook>,
    /// All of the user's.
    pub total: u64,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = webhooks, check_for_backend(diesel::pg::Pg))]
struct Row {
    id: Uuid,
    url: String,
    events: Vec<String>,
    description: Option<String>,
    active: bool,
    disabled_reason: Option<String>,
    secret: Vec<u8>,
    secret_key_id: String,
    previous_secret: Option<Vec<u8>>,
    previous_secret_key_id: Option<String>,
    previous_secret_until: Option<Timestamp>,
    revision: i64,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[expect(clippy::option_option, reason = "diesel's way to tell a column that stays from one set to NULL")]
#[derive(AsChangeset)]
#[diesel(table_name = webhooks)]
struct Changeset {
    url: Option<String>,
    events: Option<Vec<String>>,
    active: Option<bool>,
    description: Option<Option<String>>,
    /// What the developer turns on again is no longer disabled by the platform.
    disabled_reason: Option<Option<String>>,
    updated_at: Timestamp,
}

impl Row {
    fn secret(&self, keys: &SecretKeys) -> Result<WebhookSecret, DecryptError> {
        let encrypted = Encrypted { key_id: self.secret_key_id.clone(), bytes: self.secret.clone() };
        keys.decrypt(WebhookId::from_uuid(self.id), &encrypted)
    }

    fn into_webhook(self) -> Webhook {
        Webhook {
            id: WebhookId::from_uuid(self.id),
            url: self.url,
            events: event_types(&self.events),
            description: self.description,
            active: self.active,
            disabled_reason: self.disabled_reason,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}

/// Types that this version does not know are a later version's: they are kept in the row and left out here.
fn event_types(names: &[String]) -> Vec<EventType> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

fn names(events: &[EventType]) -> Vec<String> {
    events.iter().map(|event| event.as_str().to_owned()).collect()
}

impl Store {
    /// Creates a webhook, unless the user has `limit` already: exact under concurrency, because creates of one
    /// user wait for each other. Costs an index scan of the user's webhooks.
    pub async fn create_webhook(
        &self,
        new: NewWebhook,
        limit: u32,
        idempotency: Option<IdempotencyKey>,
    ) -> Result<Created, CreateError> {
        let encrypted = self.keys.encrypt(new.id, &new.secret).map_err(StoreError::from)?;
        let mut connection = self.connection().await?;
        connection
            .transaction(async |connection| {
                lock_user(connection, &new.user).await?;
                if let Some(key) = &idempotency
                    && let Some(replayed) = self.replay(connection, &new, key).await?
                {
                    return Ok(replayed);
                }
                let count: i64 = webhooks::table
                    .filter(webhooks::user_id.eq(new.user.as_str()))
                    .count()
                    .get_result(connection)
                    .await?;
                if count >= i64::from(limit) {
                    return Err(CreateError::LimitReached(limit));
                }
                let row = insert(connection, &new, &encrypted).await?;
                if let Some(key) = &idempotency {
                    key.remember(connection, &new).await?;
                }
                Ok(Created::New(Disclosed { webhook: row.into_webhook(), secret: new.secret.clone() }))
            })
            .await
    }

    /// The webhook that the key created within the last 24 hours.
    async fn replay(
        &self,
        connection: &mut AsyncPgConnection,
        new: &NewWebhook,
        key: &IdempotencyKey,
    ) -> Result<Option<Created>, CreateError> {
        let Some(webhook) = key.webhook(connection, &new.user, new.created_at).await? else {
            return Ok(None);
        };
        match find(connection, &new.user, webhook).await? {
            Some(row) => {
                // Kept for 24 hours after a regeneration: longer than the key, which is older.
                let was_regenerated = row.previous_secret_until.is_some();
                let secret = (!was_regenerated).then(|| row.secret(&self.keys)).transpose();
                let secret = secret.map_err(StoreError::from)?;
                Ok(Some(Created::Replayed(row.into_webhook(), secret)))
            }
            None => Err(CreateError::KeyReused),
        }
    }

    /// A page of the user's webhooks, newest first. Index: `webhooks_user_id`.
    pub async fn list_webhooks(&self, user: &UserId, page: Page) -> Result<WebhookPage, StoreError> {
        let mut connection = self.connection().await?;
        let total: i64 = webhooks::table
            .filter(webhooks::user_id.eq(user.as_str()))
            .count()
            .get_result(&mut connection)
            .await?;
        let rows: Vec<Row> = webhooks::table
            .filter(webhooks::user_id.eq(user.as_str()))
            .order(webhooks::id.desc())
            .limit(page.limit())
            .offset(page.offset())
            .select(Row::as_select())
            .load(&mut connection)
            .await?;
        let webhooks = rows.into_iter().map(Row::into_webhook).collect();
        Ok(WebhookPage { webhooks, total: u64::try_from(total).unwrap_or(0) })
    }

    /// One of the user's webhooks.
    pub async fn get_webhook(&self, user: &UserId, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
        let mut connection = self.connection().await?;
        Ok(find(&mut connection, user, id).await?.map(Row::into_webhook))
    }

    /// Changes one of the user's webhooks.
    pub async fn update_webhook(
        &self,
        user: &UserId,
        id: WebhookId,
        changes: WebhookChanges,
        now: Timestamp,
    ) -> Result<Option<Webhook>, StoreError> {
        let changeset = Changeset {
            url: changes.url,
            events: changes.events.map(|events| names(&events)),
            active: changes.active,
            description: changes.description,
            disabled_reason: changes.active.filter(|active| *active).map(|_| None),
            updated_at: now,
        };
        let mut connection = self.connection().await?;
        let row: Option<Row> = diesel::update(webhooks::table.find(id.uuid()))
            .filter(webhooks::user_id.eq(user.as_str()))
            .set(changeset)
            .returning(Row::as_returning())
            .get_result(&mut connection)
            .await
            .optional()?;
        Ok(row.map(Row::into_webhook))
    }

    /// Deletes one of the user's webhooks. Its pending deliveries are abandoned when their turn comes.
    pub async fn delete_webhook(&self, user: &UserId, id: WebhookId) -> Result<bool, StoreError> {
        let mut connection = self.connection().await?;
        let deleted = diesel::delete(webhooks::table.find(id.uuid()))
            .filter(webhooks::user_id.eq(user.as_str()))
            .execute(&mut connection)
            .await?;
        Ok(deleted > 0)
    }

    /// Gives one of the user's webhooks a new secret; the old one signs along until `previous_until`, unless it cannot be
    /// decrypted: then this is the way out, and nothing of it is kept.
    pub async fn regenerate_secret(
        &self,
        user: &UserId,
        id: WebhookId,
        secret: &WebhookSecret,
        previous_until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Disclosed>, StoreError> {
        let encrypted = self.keys.encrypt(id, secret)?;
        let mut connection = self.connection().await?;
        let row: Option<Row> = connection
            .transaction(async |connection| {
                let before: Option<Row> = webhooks::table
                    .find(id.uuid())
                    .filter(webhooks::user_id.eq(user.as_str()))
                    .for_update()
                    .select(Row::as_select())
                    .first(connection)
                    .await
                    .optional()?;
                let Some(before) = before else { return Ok::<_, StoreError>(None) };
                let previous = match before.secret(&self.keys) {
                    Ok(_) => Some((before.secret, before.secret_key_id)),
                    Err(reason) => {
                        warn!(webhook.id = %id, %reason, "the secret before a regeneration does not sign along");
                        None
                    }
                };
                let (previous_secret, previous_key) = previous.unzip();
                let row = diesel::update(webhooks::table.find(id.uuid()))
                    .set((
                        webhooks::previous_secret.eq(previous_secret),
                        webhooks::previous_secret_key_id.eq(previous_key),
                        webhooks::previous_secret_until.eq(Some(previous_until)),
                        webhooks::secret.eq(encrypted.bytes),
                        webhooks::secret_key_id.eq(encrypted.key_id),
                        webhooks::updated_at.eq(now),
                    ))
                    .returning(Row::as_returning())
                    .get_result(connection)
                    .await?;
                Ok(Some(row))
            })
            .await?;
        Ok(row.map(|row| Disclosed { webhook: row.into_webhook(), secret: secret.clone() }))
    }
}

/// One of the user's webhooks: another user's is as good as none.
async fn find(
    connection: &mut AsyncPgConnection,
    user: &UserId,
    id: WebhookId,
) -> Result<Option<Row>, StoreError> {
    let row = webhooks::table
        .find(id.uuid())
        .filter(webhooks::user_id.eq(user.as_str()))
        .select(Row::as_select())
        .first(connection)
        .await
        .optional()?;
    Ok(row)
}

/// Makes creates of one user wait for each other until the transaction ends.
async fn lock_user(connection: &mut AsyncPgConnection, user: &UserId) -> Result<(), StoreError> {
    diesel::sql_query("SELECT pg_advisory_xact_lock(hashtextextended('lokroom webhooks of ' || $1, 0))")
        .bind::<Text, _>(user.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert(
    connection: &mut AsyncPgConnection,
    new: &NewWebhook,
    encrypted: &Encrypted,
) -> Result<Row, StoreError> {
    let row = diesel::insert_into(webhooks::table)
        .values((
            webhooks::id.eq(new.id.uuid()),
            webhooks::user_id.eq(new.user.as_str()),
            webhooks::url.eq(&new.url),
            webhooks::events.eq(names(&new.events)),
            webhooks::description.eq(&new.description),
            webhooks::secret.eq(&encrypted.bytes),
            webhooks::secret_key_id.eq(&encrypted.key_id),
            webhooks::created_at.eq(new.created_at),
            webhooks::updated_at.eq(new.created_at),
        ))
        .returning(Row::as_returning())
        .get_result(connection)
        .await?;
    Ok(row)
}

//! Developers' `Idempotency-Key`s: which webhook a key created, for 24 hours. Whoever calls has made creates of the user wait for
//! each other.

use std::time::Duration;

use diesel::dsl::min;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use domain::{Timestamp, UserId, WebhookId};
use uuid::Uuid;

use crate::schema::idempotency_keys;
use crate::webhooks::{CreateError, NewWebhook};

/// How long a key is remembered.
const LIFE: Duration = Duration::from_hours(24);

/// A developer's `Idempotency-Key`: creating again with the same key answers with the first webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The key.
    pub key: String,
    /// A digest of the request, to tell a repetition from a mistake.
    pub fingerprint: Vec<u8>,
    /// How many keys of a user are remembered; more have to wait until the oldest has had its 24 hours.
    pub most: u32,
}

impl IdempotencyKey {
    /// The webhook that the key created within the last 24 hours; it may be gone.
    pub(crate) async fn webhook(
        &self,
        connection: &mut AsyncPgConnection,
        user: &UserId,
        now: Timestamp,
    ) -> Result<Option<WebhookId>, CreateError> {
        let found: Option<(Vec<u8>, Uuid)> = idempotency_keys::table
            .find((user.as_str(), &self.key))
            .filter(idempotency_keys::created_at.ge(now - LIFE))
            .select((idempotency_keys::fingerprint, idempotency_keys::webhook_id))
            .first(connection)
            .await
            .optional()?;
        match found {
            Some((fingerprint, _)) if fingerprint != self.fingerprint => Err(CreateError::KeyReused),
            found => Ok(found.map(|(_, webhook)| WebhookId::from_uuid(webhook))),
        }
    }

    /// Remembers that the key created this webhook, unless the user's keys are too many.
    pub(crate) async fn remember(
        &self,
        connection: &mut AsyncPgConnection,
        new: &NewWebhook,
    ) -> Result<(), CreateError> {
        self.check_room(connection, &new.user, new.created_at).await?;
        let remembered = (
            idempotency_keys::fingerprint.eq(&self.fingerprint),
            idempotency_keys::webhook_id.eq(new.id.uuid()),
            idempotency_keys::created_at.eq(new.created_at),
        );
        // A key that has had its time may still be there.
        diesel::insert_into(idempotency_keys::table)
            .values((
                idempotency_keys::user_id.eq(new.user.as_str()),
                idempotency_keys::key.eq(&self.key),
                remembered,
            ))
            .on_conflict((idempotency_keys::user_id, idempotency_keys::key))
            .do_update()
            .set(remembered)
            .execute(connection)
            .await?;
        Ok(())
    }

    /// Exact under concurrency, because creates of one user wait for each other; costs an index scan of the user's keys.
    async fn check_room(
        &self,
        connection: &mut AsyncPgConnection,
        user: &UserId,
        now: Timestamp,
    ) -> Result<(), CreateError> {
        let keys = idempotency_keys::table
            .filter(idempotency_keys::user_id.eq(user.as_str()))
            .filter(idempotency_keys::created_at.ge(now - LIFE));
        let count: i64 = keys.count().get_result(connection).await?;
        if count < i64::from(self.most) {
            return Ok(());
        }
        let oldest: Option<Timestamp> =
            keys.select(min(idempotency_keys::created_at)).get_result(connection).await?;
        let wait = oldest.and_then(|oldest| (oldest + LIFE - now).to_std().ok());
        Err(CreateError::TooManyKeys { limit: self.most, wait: wait.unwrap_or_default() })
    }
}

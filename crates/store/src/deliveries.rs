//! Deliveries: written when an event is fanned out, looked at before every attempt.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use domain::protocol::{Row, WebhookState};
use domain::{DeliveryId, EventId, EventType, Timestamp, UserId, WebhookId};
use uuid::Uuid;

use crate::error::StoreError;
use crate::events::NewEvent;
use crate::history::read_status;
use crate::id_range::IdRange;
use crate::manual::{ManualLimits, count_manual_attempt};
use crate::pool::Store;
use crate::reissue::fence;
use crate::statement::Prepared;

/// A delivery to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewDelivery {
    /// Its id, a function of event and webhook.
    pub id: DeliveryId,
    /// Its webhook.
    pub webhook: WebhookId,
    /// Its event.
    pub event: EventId,
    /// What happened.
    pub event_type: EventType,
}

/// A delivery at the moment of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryState {
    /// What decides about its job.
    pub row: Row,
    /// The event's body, where it was asked for.
    pub body: Option<Bytes>,
}

#[derive(QueryableByName)]
pub(crate) struct IdRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

impl IdRow {
    pub(crate) fn delivery(self) -> DeliveryId {
        DeliveryId::from_uuid(self.id)
    }
}

#[derive(QueryableByName)]
struct StateRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    status: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Integer)]
    fence: i32,
    #[diesel(sql_type = Nullable<Bool>)]
    active: Option<bool>,
    #[diesel(sql_type = Nullable<BigInt>)]
    revision: Option<i64>,
    #[diesel(sql_type = Nullable<Binary>)]
    body: Option<Vec<u8>>,
}

/// Only webhooks that still exist, are active and subscribe get a delivery, whatever the caller remembers. In the
/// order of ids, so that two dispatchers that fan out the same events cannot wait for each other.
const RECORD_FAN_OUT: &str = "
    WITH new AS (
        SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[])
            AS new (id, webhook_id, event_id, event_type)
    ), inserted AS (
        INSERT INTO deliveries (id, webhook_id, event_id, event_type, next_attempt_at, created_at)
        SELECT new.id, new.webhook_id, new.event_id, new.event_type, $5, $5
          FROM new
          CROSS JOIN LATERAL (
              SELECT active, events FROM webhooks WHERE id = new.webhook_id OFFSET 0
          ) webhook
         WHERE webhook.active AND new.event_type = ANY(webhook.events)
         ORDER BY new.id
        ON CONFLICT (id) DO NOTHING
        RETURNING id, webhook_id, event_type
    ), counted AS (
        INSERT INTO webhook_statistics (webhook_id, event_type, pending)
        SELECT webhook_id, event_type, count(*) FROM inserted
         GROUP BY webhook_id, event_type ORDER BY webhook_id, event_type
        ON CONFLICT (webhook_id, event_type) DO UPDATE
            SET pending = webhook_statistics.pending + excluded.pending
    ), marked AS (
        DELETE FROM events_to_fan_out
         USING unnest($6::uuid[]) AS completed (id)
         WHERE event_id BETWEEN completed.id AND completed.id
    )
    SELECT id FROM inserted";

const CHECK: &str = "
    SELECT wanted.id, delivery.status, delivery.attempts, delivery.fence, webhook.active, webhook.revision, event.body
      FROM unnest($1::uuid[], $2::boolean[]) AS wanted (id, body)
      CROSS JOIN LATERAL (
          SELECT * FROM deliveries WHERE id = wanted.id AND id BETWEEN $3 AND $4 OFFSET 0
      ) delivery
      LEFT JOIN LATERAL (
          SELECT active, revision FROM webhooks WHERE id = delivery.webhook_id OFFSET 0
      ) webhook ON true
      LEFT JOIN LATERAL (
          SELECT body FROM events
           WHERE wanted.body AND id = delivery.event_id AND id BETWEEN $3 AND $4 OFFSET 0
      ) event ON true";

const ABANDON: &str = "
    WITH abandoned AS (
        UPDATE deliveries delivery
           SET status = 'failed', next_attempt_at = NULL, error = given.reason
          FROM unnest($1::uuid[], $2::text[]) AS given (id, reason)
         WHERE delivery.id BETWEEN given.id AND given.id AND delivery.status || '' = 'pending'
        RETURNING delivery.webhook_id, delivery.event_type
    )
    INSERT INTO webhook_statistics (webhook_id, event_type, pending, failed)
    SELECT webhook_id, event_type, -count(*), count(*) FROM abandoned
     GROUP BY webhook_id, event_type ORDER BY webhook_id, event_type
    ON CONFLICT (webhook_id, event_type) DO UPDATE
        SET pending = webhook_statistics.pending + excluded.pending,
            failed = webhook_statistics.failed + excluded.failed";

/// For a webhook of the user's, whatever the caller has looked at before.
const INSERT_TEST_EVENT: &str = "
    INSERT INTO events (id, public_id, type, recipients, timestamp, body, is_test, received_at)
    SELECT $1, $2, $3, ARRAY[$4], $5, $6, true, $7
     WHERE EXISTS (SELECT FROM webhooks WHERE id = $8 AND user_id = $4)";

impl Store {
    /// Writes the deliveries of fanned-out events, each once however often it is asked for, and marks
    /// `completed` events as fanned out. Returns those that are new. One statement; primary keys.
    pub async fn record_fan_out(
        &self,
        deliveries: &[NewDelivery],
        completed: &[EventId],
        now: Timestamp,
    ) -> Result<HashSet<DeliveryId>, StoreError> {
        let mut connection = self.connection().await?;
        record_fan_out(&mut connection, deliveries, completed, now).await
    }

    /// What these deliveries and their webhooks are now; `true` asks for the event's body too. Absent
    /// deliveries are left out. One statement; primary keys.
    pub async fn check_deliveries(
        &self,
        wanted: &[(DeliveryId, bool)],
    ) -> Result<HashMap<DeliveryId, DeliveryState>, StoreError> {
        let ids: Vec<_> = wanted.iter().map(|(id, _)| id.uuid()).collect();
        let bodies: Vec<_> = wanted.iter().map(|(_, body)| *body).collect();
        let range = IdRange::of(ids.iter().copied());
        let mut connection = self.connection().await?;
        let rows: Vec<StateRow> = Prepared(
            sql_query(CHECK)
                .bind::<Array<SqlUuid>, _>(ids)
                .bind::<Array<Bool>, _>(bodies)
                .bind::<SqlUuid, _>(range.first)
                .bind::<SqlUuid, _>(range.last),
        )
        .load(&mut connection)
        .await?;
        rows.into_iter().map(StateRow::into_state).collect()
    }

    /// Ends pending deliveries that can never be attempted, with the reason. One statement.
    pub async fn abandon_deliveries(&self, abandoned: &[(DeliveryId, &str)]) -> Result<(), StoreError> {
        let mut abandoned = abandoned.to_vec();
        abandoned.sort_unstable();
        let ids: Vec<_> = abandoned.iter().map(|(id, _)| id.uuid()).collect();
        let reasons: Vec<_> = abandoned.iter().map(|(_, reason)| *reason).collect();
        let mut connection = self.connection().await?;
        Prepared(sql_query(ABANDON).bind::<Array<SqlUuid>, _>(ids).bind::<Array<Text>, _>(reasons))
            .execute(&mut connection)
            .await?;
        Ok(())
    }

    /// Stores a sample event for one webhook alone, with its delivery, unless the user had too many of them lately.
    pub async fn create_test_delivery(
        &self,
        user: &UserId,
        event: &NewEvent,
        delivery: NewDelivery,
        limits: ManualLimits,
        now: Timestamp,
    ) -> Result<(), TestDeliveryError> {
        let mut connection = self.connection().await?;
        connection
            .transaction(async |connection| {
                let wait = count_manual_attempt(connection, user, delivery.webhook, limits, now).await?;
                if let Some(wait) = wait {
                    return Err(TestDeliveryError::TooMany { wait });
                }
                let inserted = sql_query(INSERT_TEST_EVENT)
                    .bind::<SqlUuid, _>(event.id.uuid())
                    .bind::<Text, _>(event.public_id().as_str())
                    .bind::<Text, _>(event.event_type.as_str())
                    .bind::<Text, _>(user.as_str())
                    .bind::<Text, _>(&event.timestamp)
                    .bind::<Binary, _>(event.body.as_ref())
                    .bind::<Timestamptz, _>(now)
                    .bind::<SqlUuid, _>(delivery.webhook.uuid())
                    .execute(connection)
                    .await?;
                if inserted == 0 {
                    return Err(TestDeliveryError::NotTaken);
                }
                let new = record_fan_out(connection, &[delivery], &[], now).await?;
                // Without its delivery the event is of no use to anyone.
                if new.is_empty() { Err(TestDeliveryError::NotTaken) } else { Ok(()) }
            })
            .await
    }
}

/// A test event was not stored.
#[derive(Debug, thiserror::Error)]
pub enum TestDeliveryError {
    /// The webhook was deleted or disabled meanwhile.
    #[error("the webhook takes no events")]
    NotTaken,
    /// There were as many as are allowed within a minute or a day.
    #[error("too many attempts by hand; the next may be made in {wait:?}")]
    TooMany {
        /// How long to wait.
        wait: Duration,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<diesel::result::Error> for TestDeliveryError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Store(error.into())
    }
}

async fn record_fan_out(
    connection: &mut AsyncPgConnection,
    deliveries: &[NewDelivery],
    completed: &[EventId],
    now: Timestamp,
) -> Result<HashSet<DeliveryId>, StoreError> {
    let uuids = |of: fn(&NewDelivery) -> Uuid| deliveries.iter().map(of).collect::<Vec<_>>();
    let types: Vec<_> = deliveries.iter().map(|delivery| delivery.event_type.as_str()).collect();
    let mut completed: Vec<_> = completed.iter().map(|event| event.uuid()).collect();
    completed.sort_unstable();
    let rows: Vec<IdRow> = Prepared(
        sql_query(RECORD_FAN_OUT)
            .bind::<Array<SqlUuid>, _>(uuids(|delivery| delivery.id.uuid()))
            .bind::<Array<SqlUuid>, _>(uuids(|delivery| delivery.webhook.uuid()))
            .bind::<Array<SqlUuid>, _>(uuids(|delivery| delivery.event.uuid()))
            .bind::<Array<Text>, _>(types)
            .bind::<Timestamptz, _>(now)
            .bind::<Array<SqlUuid>, _>(completed),
    )
    .load(connection)
    .await?;
    Ok(rows.into_iter().map(IdRow::delivery).collect())
}

impl StateRow {
    fn into_state(self) -> Result<(DeliveryId, DeliveryState), StoreError> {
        let webhook = match (self.active, self.revision) {
            (Some(true), Some(revision)) => WebhookState::Active { revision },
            (Some(_), _) => WebhookState::Disabled,
            (None, _) => WebhookState::Gone,
        };
        let row = Row {
            status: read_status(&self.status)?,
            attempts: u32::try_from(self.attempts).unwrap_or(0),
            fence: fence(self.fence),
            webhook,
        };
        let state = DeliveryState { row, body: self.body.map(Bytes::from) };
        Ok((DeliveryId::from_uuid(self.id), state))
    }
}

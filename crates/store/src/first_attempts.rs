//! First attempts, made by whoever fans an event out: their deliveries are written once there is something to say of
//! them. Until then the stored event stands for them.

use std::collections::{HashMap, HashSet};

use chrono::SubsecRound as _;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl as _;
use domain::{DeliveryId, EventId, EventType, Timestamp, WebhookId};
use uuid::Uuid;

use crate::attempts::{AttemptColumns, AttemptRecord};
use crate::deliveries::{IdRow, NewDelivery};
use crate::error::StoreError;
use crate::id_range::IdRange;
use crate::pool::Store;
use crate::statement::Prepared;

/// A delivery that has no row yet, and its first attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstAttempt {
    /// The delivery.
    pub delivery: NewDelivery,
    /// When it was decided to make it.
    pub created_at: Timestamp,
    /// The attempt.
    pub made: AttemptRecord,
    /// Whether nothing else is left to do for its event, which is marked with it.
    pub ends_event: bool,
}

/// A delivery that has no row yet, and that a message stands for from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingDelivery {
    /// The delivery.
    pub delivery: NewDelivery,
    /// When it was decided to make it.
    pub created_at: Timestamp,
    /// When its message is due.
    pub due: Timestamp,
    /// Whether nothing else is left to do for its event, which is marked with it.
    pub ends_event: bool,
}

/// What is found where a delivery was not written when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// It is still not written, and its webhook takes events, as of this revision.
    Wanted {
        /// The webhook's revision.
        revision: i64,
    },
    /// Its webhook was deleted or disabled.
    Unwanted,
    /// Somebody has written it, and goes on with it.
    Written,
}

#[derive(QueryableByName)]
struct WantedRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    event_type: String,
    #[diesel(sql_type = BigInt)]
    revision: i64,
}

#[derive(QueryableByName)]
struct UnwrittenRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Bool)]
    is_written: bool,
    #[diesel(sql_type = Nullable<BigInt>)]
    revision: Option<i64>,
}

/// Each pair is asked for once and comes back as it was asked.
const WANTED: &str = "
    SELECT asked.id, asked.event_type, webhook.revision
      FROM unnest($1::uuid[], $2::text[]) AS asked (id, event_type)
      CROSS JOIN LATERAL (
          SELECT active, events, revision FROM webhooks WHERE id = asked.id OFFSET 0
      ) webhook
     WHERE webhook.active AND asked.event_type = ANY(webhook.events)";

const UNWRITTEN: &str = "
    SELECT asked.id, delivery.id IS NOT NULL AS is_written, webhook.revision
      FROM unnest($1::uuid[], $2::uuid[]) AS asked (id, webhook_id)
      LEFT JOIN LATERAL (
          SELECT id FROM deliveries WHERE id = asked.id AND id BETWEEN $3 AND $4 OFFSET 0
      ) delivery ON true
      LEFT JOIN LATERAL (
          SELECT revision FROM webhooks WHERE id = asked.webhook_id AND active OFFSET 0
      ) webhook ON true";

/// In the order of ids, so that two dispatchers that write the same deliveries cannot wait for each other.
const SETTLE: &str = "
    WITH settled AS (
        INSERT INTO deliveries
               (id, webhook_id, event_id, event_type, created_at, attempts, last_attempt_at, duration_ms,
                response_status, response_body, error, status, next_attempt_at)
        SELECT made.*
          FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::integer[],
                      $7::timestamptz[], $8::integer[], $9::integer[], $10::text[], $11::text[], $12::text[],
                      $13::timestamptz[]) AS made (id)
         ORDER BY made.id
        ON CONFLICT (id) DO NOTHING
        RETURNING id, webhook_id, event_type, status
    ), counted AS (
        INSERT INTO webhook_statistics (webhook_id, event_type, pending, success, failed)
        SELECT webhook_id, event_type, count(*) FILTER (WHERE status = 'pending'),
               count(*) FILTER (WHERE status = 'success'), count(*) FILTER (WHERE status = 'failed')
          FROM settled
         GROUP BY webhook_id, event_type ORDER BY webhook_id, event_type
        ON CONFLICT (webhook_id, event_type) DO UPDATE
            SET pending = webhook_statistics.pending + excluded.pending,
                success = webhook_statistics.success + excluded.success,
                failed = webhook_statistics.failed + excluded.failed
    ), marked AS (
        DELETE FROM events_to_fan_out
         USING unnest($14::uuid[]) AS completed (id)
         WHERE event_id BETWEEN completed.id AND completed.id
    )
    SELECT id FROM settled";

const WRITE_PENDING: &str = "
    WITH written AS (
        INSERT INTO deliveries (id, webhook_id, event_id, event_type, created_at, next_attempt_at)
        SELECT new.*
          FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::timestamptz[])
               AS new (id)
         ORDER BY new.id
        ON CONFLICT (id) DO NOTHING
        RETURNING id, webhook_id, event_type
    ), counted AS (
        INSERT INTO webhook_statistics (webhook_id, event_type, pending)
        SELECT webhook_id, event_type, count(*) FROM written
         GROUP BY webhook_id, event_type ORDER BY webhook_id, event_type
        ON CONFLICT (webhook_id, event_type) DO UPDATE
            SET pending = webhook_statistics.pending + excluded.pending
    ), marked AS (
        DELETE FROM events_to_fan_out
         USING unnest($7::uuid[]) AS completed (id)
         WHERE event_id BETWEEN completed.id AND completed.id
    )
    SELECT id FROM written";

const MARK: &str = "
    DELETE FROM events_to_fan_out
     USING unnest($1::uuid[]) AS completed (id)
     WHERE event_id BETWEEN completed.id AND completed.id";

impl Store {
    /// Marks events as fanned out: everything that is to be done for them is written, or a message stands for it. One
    /// statement; primary keys.
    pub async fn mark_fanned_out(&self, events: &[EventId]) -> Result<(), StoreError> {
        let mut ids: Vec<_> = events.iter().map(|event| event.uuid()).collect();
        ids.sort_unstable();
        let mut connection = self.connection().await?;
        Prepared(sql_query(MARK).bind::<Array<SqlUuid>, _>(ids)).execute(&mut connection).await?;
        Ok(())
    }

    /// Those of these webhooks that take events of the type beside them, each with its revision. One statement; primary
    /// keys.
    pub async fn wanted(
        &self,
        asked: &[(WebhookId, EventType)],
    ) -> Result<HashMap<(WebhookId, EventType), i64>, StoreError> {
        let ids: Vec<_> = asked.iter().map(|(webhook, _)| webhook.uuid()).collect();
        let types: Vec<_> = asked.iter().map(|(_, event_type)| event_type.as_str()).collect();
        let mut connection = self.connection().await?;
        let rows: Vec<WantedRow> =
            Prepared(sql_query(WANTED).bind::<Array<SqlUuid>, _>(ids).bind::<Array<Text>, _>(types))
                .load(&mut connection)
                .await?;
        let key = |row: &WantedRow| Some((WebhookId::from_uuid(row.id), row.event_type.parse().ok()?));
        Ok(rows.iter().filter_map(|row| Some((key(row)?, row.revision))).collect())
    }

    /// What is found now where these deliveries were not written. One statement; primary keys.
    pub async fn look_again(
        &self,
        asked: &[(DeliveryId, WebhookId)],
    ) -> Result<HashMap<DeliveryId, Unwritten>, StoreError> {
        let ids: Vec<_> = asked.iter().map(|(delivery, _)| delivery.uuid()).collect();
        let webhooks: Vec<_> = asked.iter().map(|(_, webhook)| webhook.uuid()).collect();
        let range = IdRange::of(ids.iter().copied());
        let mut connection = self.connection().await?;
        let rows: Vec<UnwrittenRow> = Prepared(
            sql_query(UNWRITTEN)
                .bind::<Array<SqlUuid>, _>(ids)
                .bind::<Array<SqlUuid>, _>(webhooks)
                .bind::<SqlUuid, _>(range.first)
                .bind::<SqlUuid, _>(range.last),
        )
        .load(&mut connection)
        .await?;
        let found = |row: &UnwrittenRow| match (row.is_written, row.revision) {
            (true, _) => Unwritten::Written,
            (false, Some(revision)) => Unwritten::Wanted { revision },
            (false, None) => Unwritten::Unwanted,
        };
        Ok(rows.iter().map(|row| (DeliveryId::from_uuid(row.id), found(row))).collect())
    }

    /// Writes deliveries with their first attempts; a delivery may stand once in `attempts`. Returns those written: of the
    /// others there is a row already, which nothing is changed of. One statement; primary keys.
    pub async fn settle(&self, attempts: &[FirstAttempt]) -> Result<HashSet<DeliveryId>, StoreError> {
        let mut attempts: Vec<_> = attempts.iter().collect();
        attempts.sort_unstable_by_key(|first| first.delivery.id);
        let columns = NewColumns::of(attempts.iter().map(|first| (&first.delivery, first.created_at)));
        let completed = completed(attempts.iter().map(|first| (&first.delivery, first.ends_event)));
        let made = AttemptColumns::of(attempts.iter().map(|first| &first.made));
        let mut connection = self.connection().await?;
        let rows: Vec<IdRow> = Prepared(
            sql_query(SETTLE)
                .bind::<Array<SqlUuid>, _>(columns.ids)
                .bind::<Array<SqlUuid>, _>(columns.webhooks)
                .bind::<Array<SqlUuid>, _>(columns.events)
                .bind::<Array<Text>, _>(columns.types)
                .bind::<Array<Timestamptz>, _>(columns.created)
                .bind::<Array<Integer>, _>(made.numbers)
                .bind::<Array<Timestamptz>, _>(made.started)
                .bind::<Array<Integer>, _>(made.durations)
                .bind::<Array<Nullable<Integer>>, _>(made.response_statuses)
                .bind::<Array<Nullable<Text>>, _>(made.response_bodies)
                .bind::<Array<Nullable<Text>>, _>(made.errors)
                .bind::<Array<Text>, _>(made.statuses)
                .bind::<Array<Nullable<Timestamptz>>, _>(made.next)
                .bind::<Array<SqlUuid>, _>(completed),
        )
        .load(&mut connection)
        .await?;
        Ok(rows.into_iter().map(IdRow::delivery).collect())
    }

    /// Writes deliveries that a message is about to stand for; a delivery may stand once in `pending`. Returns those
    /// written: of the others there is a row already, and somebody goes on with it. One statement; primary keys.
    pub async fn write_pending(
        &self,
        pending: &[PendingDelivery],
    ) -> Result<HashSet<DeliveryId>, StoreError> {
        let mut pending: Vec<_> = pending.iter().collect();
        pending.sort_unstable_by_key(|pending| pending.delivery.id);
        let columns = NewColumns::of(pending.iter().map(|pending| (&pending.delivery, pending.created_at)));
        let due: Vec<_> = pending.iter().map(|pending| pending.due).collect();
        let completed = completed(pending.iter().map(|pending| (&pending.delivery, pending.ends_event)));
        let mut connection = self.connection().await?;
        let rows: Vec<IdRow> = Prepared(
            sql_query(WRITE_PENDING)
                .bind::<Array<SqlUuid>, _>(columns.ids)
                .bind::<Array<SqlUuid>, _>(columns.webhooks)
                .bind::<Array<SqlUuid>, _>(columns.events)
                .bind::<Array<Text>, _>(columns.types)
                .bind::<Array<Timestamptz>, _>(columns.created)
                .bind::<Array<Timestamptz>, _>(due)
                .bind::<Array<SqlUuid>, _>(completed),
        )
        .load(&mut connection)
        .await?;
        Ok(rows.into_iter().map(IdRow::delivery).collect())
    }
}

/// The events that nothing else is left to do for.
fn completed<'a>(deliveries: impl Iterator<Item = (&'a NewDelivery, bool)>) -> Vec<Uuid> {
    let mut events: Vec<_> =
        deliveries.filter_map(|(delivery, ends_event)| ends_event.then_some(delivery.event.uuid())).collect();
    events.sort_unstable();
    events
}

/// Deliveries column by column.
struct NewColumns {
    ids: Vec<Uuid>,
    webhooks: Vec<Uuid>,
    events: Vec<Uuid>,
    types: Vec<&'static str>,
    created: Vec<Timestamp>,
}

impl NewColumns {
    fn of<'a>(deliveries: impl ExactSizeIterator<Item = (&'a NewDelivery, Timestamp)>) -> Self {
        let count = deliveries.len();
        let mut columns = Self {
            ids: Vec::with_capacity(count),
            webhooks: Vec::with_capacity(count),
            events: Vec::with_capacity(count),
            types: Vec::with_capacity(count),
            created: Vec::with_capacity(count),
        };
        for (delivery, created_at) in deliveries {
            columns.ids.push(delivery.id.uuid());
            columns.webhooks.push(delivery.webhook.uuid());
            columns.events.push(delivery.event.uuid());
            columns.types.push(delivery.event_type.as_str());
            columns.created.push(created_at.trunc_subsecs(3));
        }
        columns
    }
}

//! Recording attempts.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use chrono::SubsecRound as _;
use diesel::sql_query;
use diesel::sql_types::{Array, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use domain::protocol::{DeliveryStatus, Fence};
use domain::retry::AttemptNumber;
use domain::{DeliveryId, Timestamp};

use crate::error::StoreError;
use crate::pool::Store;
use crate::reissue::{FenceRow, fences};
use crate::statement::Prepared;

/// An attempt that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Which attempt.
    pub attempt: AttemptNumber,
    /// When it started.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// The response's status, if there was a response.
    pub response_status: Option<u16>,
    /// The response's body as text, as far as it is kept.
    pub response_body: Option<String>,
    /// Why there was no success, in words for the developer.
    pub error: Option<String>,
    /// What follows.
    pub result: AttemptResult,
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// The delivery is done.
    Success,
    /// Another attempt.
    Retry {
        /// When it is due.
        at: Timestamp,
    },
    /// No attempts are left.
    Failed,
}

impl AttemptResult {
    fn status(self) -> DeliveryStatus {
        match self {
            Self::Success => DeliveryStatus::Success,
            Self::Retry { .. } => DeliveryStatus::Pending,
            Self::Failed => DeliveryStatus::Failed,
        }
    }

    fn next_attempt_at(self) -> Option<Timestamp> {
        match self {
            Self::Retry { at } => Some(at),
            Self::Success | Self::Failed => None,
        }
    }
}

/// Every part sees the rows as they were before the statement, so `archived` copies the attempt that
/// `recorded` overwrites. A row changed meanwhile by another dispatcher fails `recorded`'s condition.
const RECORD: &str = "
    WITH made AS (
        SELECT * FROM unnest($1::uuid[], $2::integer[], $3::timestamptz[], $4::integer[], $5::integer[],
                             $6::text[], $7::text[], $8::text[], $9::timestamptz[])
            AS made (id, attempt, started_at, duration_ms, response_status,
                     response_body, error, status, next_attempt_at)
    ), recorded AS (
        UPDATE deliveries delivery
           SET status = made.status, attempts = made.attempt, last_attempt_at = made.started_at,
               next_attempt_at = made.next_attempt_at, duration_ms = made.duration_ms,
               response_status = made.response_status, response_body = made.response_body, error = made.error
          FROM made
         WHERE delivery.id BETWEEN made.id AND made.id
           AND delivery.status || '' = 'pending' AND delivery.attempts = made.attempt - 1
        RETURNING delivery.id, delivery.webhook_id, delivery.event_type, delivery.status, delivery.attempts,
                  delivery.fence
    ), archived AS (
        INSERT INTO delivery_attempts
               (delivery_id, attempt, started_at, duration_ms, response_status, response_body, error)
        SELECT delivery.id, delivery.attempts, delivery.last_attempt_at, delivery.duration_ms,
               delivery.response_status, delivery.response_body, delivery.error
          FROM recorded
          JOIN deliveries delivery ON delivery.id BETWEEN recorded.id AND recorded.id
         WHERE recorded.attempts > 1 AND delivery.last_attempt_at IS NOT NULL
        ON CONFLICT DO NOTHING
    ), counted AS (
        INSERT INTO webhook_statistics (webhook_id, event_type, pending, success, failed)
        SELECT webhook_id, event_type, -count(*),
               count(*) FILTER (WHERE status = 'success'), count(*) FILTER (WHERE status = 'failed')
          FROM recorded
         WHERE status <> 'pending'
         GROUP BY webhook_id, event_type ORDER BY webhook_id, event_type
        ON CONFLICT (webhook_id, event_type) DO UPDATE
            SET pending = webhook_statistics.pending + excluded.pending,
                success = webhook_statistics.success + excluded.success,
                failed = webhook_statistics.failed + excluded.failed
    )
    SELECT id, fence FROM recorded";

impl Store {
    /// Records attempts and what follows from them; a delivery may stand once in `attempts`. An attempt counts
    /// only on a pending delivery that has made exactly the attempts before it, so recording it twice, here
    /// or in another process, changes nothing. Returns the deliveries whose attempt was recorded, each with the
    /// fence of the job that follows. One statement; primary keys.
    pub async fn record_attempts(
        &self,
        attempts: &[AttemptRecord],
    ) -> Result<HashMap<DeliveryId, Fence>, StoreError> {
        let mut attempts: Vec<_> = attempts.iter().collect();
        attempts.sort_unstable_by_key(|made| made.delivery);
        let ids: Vec<_> = attempts.iter().map(|made| made.delivery.uuid()).collect();
        let made = AttemptColumns::of(attempts.into_iter());

        let mut connection = self.connection().await?;
        let rows: Vec<FenceRow> = Prepared(
            sql_query(RECORD)
                .bind::<Array<SqlUuid>, _>(ids)
                .bind::<Array<Integer>, _>(made.numbers)
                .bind::<Array<Timestamptz>, _>(made.started)
                .bind::<Array<Integer>, _>(made.durations)
                .bind::<Array<Nullable<Integer>>, _>(made.response_statuses)
                .bind::<Array<Nullable<Text>>, _>(made.response_bodies)
                .bind::<Array<Nullable<Text>>, _>(made.errors)
                .bind::<Array<Text>, _>(made.statuses)
                .bind::<Array<Nullable<Timestamptz>>, _>(made.next),
        )
        .load(&mut connection)
        .await?;
        Ok(fences(rows))
    }
}

/// Attempts column by column.
pub(crate) struct AttemptColumns<'a> {
    pub(crate) numbers: Vec<i32>,
    pub(crate) started: Vec<Timestamp>,
    pub(crate) durations: Vec<i32>,
    pub(crate) response_statuses: Vec<Option<i32>>,
    pub(crate) response_bodies: Vec<Option<Cow<'a, str>>>,
    pub(crate) errors: Vec<Option<Cow<'a, str>>>,
    pub(crate) statuses: Vec<&'static str>,
    pub(crate) next: Vec<Option<Timestamp>>,
}

impl<'a> AttemptColumns<'a> {
    pub(crate) fn of(attempts: impl ExactSizeIterator<Item = &'a AttemptRecord>) -> Self {
        let count = attempts.len();
        let mut columns = Self {
            numbers: Vec::with_capacity(count),
            started: Vec::with_capacity(count),
            durations: Vec::with_capacity(count),
            response_statuses: Vec::with_capacity(count),
            response_bodies: Vec::with_capacity(count),
            errors: Vec::with_capacity(count),
            statuses: Vec::with_capacity(count),
            next: Vec::with_capacity(count),
        };
        for made in attempts {
            columns.numbers.push(integer(made.attempt.get()));
            columns.started.push(made.started_at.trunc_subsecs(3));
            columns.durations.push(integer(made.duration.as_millis()));
            columns.response_statuses.push(made.response_status.map(i32::from));
            columns.response_bodies.push(made.response_body.as_deref().map(storable));
            columns.errors.push(made.error.as_deref().map(storable));
            columns.statuses.push(made.result.status().as_str());
            columns.next.push(made.result.next_attempt_at());
        }
        columns
    }
}

fn integer(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

/// PostgreSQL's text cannot hold NUL.
fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

//! What has lost its message: found in the database and given a new one.

use std::ops::Range;
use std::time::Duration;

use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use domain::id::first_uuid_at;
use domain::protocol::Fence;
use domain::{DeliveryId, EventId, EventType, PublicEventId, Timestamp, WebhookId};
use tracing::error;
use uuid::Uuid;

use crate::error::StoreError;
use crate::events::{EventRow, StoredEvent, read};
use crate::pool::Store;
use crate::reissue::fence;
use crate::statement::Prepared;

/// The advisory lock that lets one process reconcile at a time.
const RECOVERY_LOCK: i64 = 0x6c6f_6b72_6f6f_6d03;

/// A session that says nothing for so long is ended by the server: a process that is stopped but not dead must not
/// keep the lock. Longer than the longest `recovery.interval`.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// What counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Of events since then; `None`: of all that are kept.
    pub since: Option<Timestamp>,
    /// What should have been looked at before then.
    pub before: Timestamp,
}

/// The job of a delivery that was issued anew, without the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReissuedJob {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Its webhook.
    pub webhook: WebhookId,
    /// Its event.
    pub event: EventId,
    /// The id that receivers see.
    pub public_id: PublicEventId,
    /// What happened.
    pub event_type: EventType,
    /// The payload's timestamp, character for character.
    pub timestamp: String,
    /// Attempts recorded.
    pub attempts: u32,
    /// The row's fence now.
    pub fence: Fence,
    /// The size of the event's body.
    pub body_bytes: u32,
}

/// Which events are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostEvents {
    /// Those that should have been fanned out by then, oldest first.
    Overdue,
    /// Those that are left alone because their message was set aside ([`Store::leave_events`]).
    SetAside,
}

/// How much has lost its message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LostCounts {
    /// Events that were never fanned out.
    pub events: u64,
    /// Deliveries.
    pub deliveries: u64,
}

#[derive(QueryableByName)]
struct Led {
    #[diesel(sql_type = Bool)]
    led: bool,
}

#[derive(QueryableByName)]
struct NowRow {
    #[diesel(sql_type = Timestamptz)]
    now: Timestamp,
}

#[derive(QueryableByName)]
struct ProgressRow {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    put_at: Option<Timestamp>,
}

#[derive(QueryableByName)]
struct CountsRow {
    #[diesel(sql_type = BigInt)]
    events: i64,
    #[diesel(sql_type = BigInt)]
    deliveries: i64,
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(QueryableByName)]
struct JobRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    webhook_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    event_id: Uuid,
    #[diesel(sql_type = Text)]
    public_id: String,
    #[diesel(sql_type = Text)]
    event_type: String,
    #[diesel(sql_type = Text)]
    timestamp: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Integer)]
    fence: i32,
    #[diesel(sql_type = Integer)]
    body_bytes: i32,
}

/// Rows that someone is changing are left for the next time. Reads the small index of what is pending and overdue.
const REISSUE_OVERDUE: &str = "
    WITH lost AS (
        SELECT id FROM deliveries
         WHERE status = 'pending' AND next_attempt_at < $1 AND id >= $2
         ORDER BY next_attempt_at
         LIMIT $3
           FOR UPDATE SKIP LOCKED
    ), reissued AS (
        UPDATE deliveries delivery
           SET fence = delivery.fence + 1, next_attempt_at = $4
          FROM lost
         WHERE delivery.id BETWEEN lost.id AND lost.id
        RETURNING delivery.id, delivery.webhook_id, delivery.event_id, delivery.attempts, delivery.fence
    )
    SELECT reissued.*, event.public_id, event.type AS event_type, event.timestamp,
           length(event.body) AS body_bytes
      FROM reissued
      CROSS JOIN LATERAL (SELECT * FROM events WHERE id = reissued.event_id OFFSET 0) event";

/// Those overdue, or those set aside (`$5`).
const REQUEUE_EVENTS: &str = "
    WITH lost AS (
        SELECT event_id FROM events_to_fan_out waiting
         WHERE event_id >= $2
           AND CASE WHEN $5
                    THEN queued_at = 'infinity'
                         AND EXISTS (SELECT FROM events WHERE id = waiting.event_id AND received_at < $1)
                    ELSE queued_at < $1 END
         ORDER BY event_id
         LIMIT $3
           FOR UPDATE OF waiting SKIP LOCKED
    ), queued AS (
        UPDATE events_to_fan_out waiting
           SET queued_at = $4
          FROM lost
         WHERE waiting.event_id BETWEEN lost.event_id AND lost.event_id
        RETURNING waiting.event_id
    )
    SELECT event.id, event.public_id, event.type AS event_type, event.recipients, event.timestamp, event.body
      FROM queued
      CROSS JOIN LATERAL (SELECT * FROM events WHERE id = queued.event_id OFFSET 0) event";

const COUNT_LOST: &str = "
    SELECT (SELECT count(*) FROM events_to_fan_out
             WHERE (queued_at < $1 OR queued_at = 'infinity') AND event_id >= $2) AS events,
           (SELECT count(*) FROM deliveries
             WHERE status = 'pending' AND next_attempt_at < $1 AND id >= $2) AS deliveries";

/// No more than it takes to tell. The table is small, and has what is left for later, or for good, too.
const COUNT_WAITING: &str = "
    SELECT count(*) FROM (
        SELECT FROM events_to_fan_out WHERE queued_at >= $1 AND queued_at < $2 LIMIT $3
    ) waiting";

const LEAVE_EVENTS: &str = "
    UPDATE events_to_fan_out
       SET queued_at = COALESCE($2, 'infinity')
      FROM unnest($1::uuid[]) AS given (id)
     WHERE event_id BETWEEN given.id AND given.id";

const OUT: &str = "INSERT INTO queue_progress (queue, put_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";

/// The latest probe that came out long enough ago, on the database's clock alone. What came out before this session began
/// does not count: while the database was away, messages may have been held for as long.
const WORKED_OFF: &str = "
    SELECT max(put_at) AS put_at FROM queue_progress
     WHERE queue = $1 AND out_at < now() - $2 * interval '1 millisecond' AND out_at > $3";

const FORGET_PROGRESS: &str = "DELETE FROM queue_progress WHERE queue = $1 AND put_at < $2";

impl Store {
    /// Notes that everything that was put into `queue` before `put_at` has come out of it by now.
    pub async fn record_progress(&self, queue: &str, put_at: Timestamp) -> Result<(), StoreError> {
        let mut connection = self.connection().await?;
        Prepared(sql_query(OUT).bind::<Text, _>(queue).bind::<Timestamptz, _>(put_at))
            .execute(&mut connection)
            .await?;
        Ok(())
    }

    /// Events that were handed to the dispatchers in this time and are not fanned out yet; counted up to `most`.
    pub async fn count_waiting_events(&self, queued: Range<Timestamp>, most: u32) -> Result<u32, StoreError> {
        let mut connection = self.connection().await?;
        let counted: Counted = Prepared(
            sql_query(COUNT_WAITING)
                .bind::<Timestamptz, _>(queued.start)
                .bind::<Timestamptz, _>(queued.end)
                .bind::<BigInt, _>(i64::from(most)),
        )
        .get_result(&mut connection)
        .await?;
        Ok(u32::try_from(counted.count).unwrap_or(most))
    }

    /// Keeps the reconciler from events that are not fanned out, until then; `None`: until someone asks for them.
    pub async fn leave_events(&self, events: &[EventId], until: Option<Timestamp>) -> Result<(), StoreError> {
        let mut ids: Vec<_> = events.iter().map(|id| id.uuid()).collect();
        ids.sort_unstable();
        let mut connection = self.connection().await?;
        Prepared(
            sql_query(LEAVE_EVENTS).bind::<Array<SqlUuid>, _>(ids).bind::<Nullable<Timestamptz>, _>(until),
        )
        .execute(&mut connection)
        .await?;
        Ok(())
    }

    /// A session of recovery's own.
    pub fn recovery(&self) -> RecoverySession {
        RecoverySession { store: self.clone(), open: None }
    }
}

/// The connection on which what was lost is found. The lock that lets one process do it at a time belongs to the
/// connection, and so do the statements: a process that lost the lock cannot go on.
pub struct RecoverySession {
    store: Store,
    open: Option<Open>,
}

struct Open {
    connection: AsyncPgConnection,
    /// When the session began, on the database's clock.
    since: Timestamp,
}

impl std::fmt::Debug for RecoverySession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecoverySession")
    }
}

impl RecoverySession {
    /// Takes the lock, or keeps it; `false` while another process has it.
    pub async fn lead(&mut self) -> Result<bool, StoreError> {
        // Held already, the lock is held once more; what counts is that the session lives.
        let led: Led = self
            .run(async |connection, _| {
                sql_query("SELECT pg_try_advisory_lock($1) AS led")
                    .bind::<BigInt, _>(RECOVERY_LOCK)
                    .get_result(connection)
                    .await
            })
            .await?;
        Ok(led.led)
    }

    /// Everything that was put into `queue` before this moment came out of it, and that at least `ago`: who took it has
    /// done with it. `None` as long as nobody knows.
    pub async fn worked_off(&mut self, queue: &str, ago: Duration) -> Result<Option<Timestamp>, StoreError> {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        let row: ProgressRow = self
            .run(async |connection, since| {
                Prepared(
                    sql_query(WORKED_OFF)
                        .bind::<Text, _>(queue)
                        .bind::<BigInt, _>(ago)
                        .bind::<Timestamptz, _>(since),
                )
                .get_result(connection)
                .await
            })
            .await?;
        let Some(put_at) = row.put_at else { return Ok(None) };
        self.run(async |connection, _| {
            let older = sql_query(FORGET_PROGRESS).bind::<Text, _>(queue).bind::<Timestamptz, _>(put_at);
            Prepared(older).execute(connection).await
        })
        .await?;
        Ok(Some(put_at))
    }

    /// The time, by the database's clock.
    pub async fn now(&mut self) -> Result<Timestamp, StoreError> {
        let now: NowRow = self
            .run(async |connection, _| sql_query("SELECT now() AS now").get_result(connection).await)
            .await?;
        Ok(now.now)
    }

    /// How much there is to put back.
    pub async fn count(&mut self, lost: Lost) -> Result<LostCounts, StoreError> {
        let row: CountsRow = self
            .run(async |connection, _| {
                sql_query(COUNT_LOST)
                    .bind::<Timestamptz, _>(lost.before)
                    .bind::<SqlUuid, _>(first_of(lost))
                    .get_result(connection)
                    .await
            })
            .await?;
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        Ok(LostCounts { events: count(row.events), deliveries: count(row.deliveries) })
    }

    /// Voids the jobs of at most `limit` overdue deliveries, oldest first, and returns the jobs to publish in their
    /// place; from now on these deliveries are due `now`. Those that cannot be read are told, and left out.
    pub async fn reissue_overdue(
        &mut self,
        lost: Lost,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<ReissuedJob>, StoreError> {
        let rows: Vec<JobRow> = self
            .run(async |connection, _| {
                Prepared(
                    sql_query(REISSUE_OVERDUE)
                        .bind::<Timestamptz, _>(lost.before)
                        .bind::<SqlUuid, _>(first_of(lost))
                        .bind::<BigInt, _>(i64::from(limit))
                        .bind::<Timestamptz, _>(now),
                )
                .load(connection)
                .await
            })
            .await?;
        Ok(readable(rows, JobRow::into_job))
    }

    /// At most `limit` events of these to be published again; from now on they are on their way since `now`. Those that
    /// cannot be read are told, and left out.
    pub async fn requeue_events(
        &mut self,
        lost: Lost,
        which: LostEvents,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let rows: Vec<EventRow> = self
            .run(async |connection, _| {
                Prepared(
                    sql_query(REQUEUE_EVENTS)
                        .bind::<Timestamptz, _>(lost.before)
                        .bind::<SqlUuid, _>(first_of(lost))
                        .bind::<BigInt, _>(i64::from(limit))
                        .bind::<Timestamptz, _>(now)
                        .bind::<Bool, _>(which == LostEvents::SetAside),
                )
                .load(connection)
                .await
            })
            .await?;
        Ok(readable(rows, EventRow::into_event))
    }

    /// Runs a statement on the session, which is begun if there is none; it is told when that was. After an error there is
    /// none any more, and the lock is free.
    async fn run<T>(
        &mut self,
        statement: impl AsyncFnOnce(&mut AsyncPgConnection, Timestamp) -> diesel::QueryResult<T>,
    ) -> Result<T, StoreError> {
        // Dropped in the middle, the session ends.
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin().await?,
        };
        let answer = statement(&mut open.connection, open.since).await?;
        self.open = Some(open);
        Ok(answer)
    }

    async fn begin(&self) -> Result<Open, StoreError> {
        let unavailable =
            |error: diesel::ConnectionError| StoreError::Unavailable { reason: error.to_string() };
        let mut connection = self.store.connector.connect().await.map_err(unavailable)?;
        let limit = IDLE_LIMIT.as_millis();
        connection.batch_execute(&format!("SET idle_session_timeout = {limit}")).await?;
        let now: NowRow = sql_query("SELECT now() AS now").get_result(&mut connection).await?;
        Ok(Open { connection, since: now.now })
    }
}

/// One row that this version cannot read must not keep the others back.
fn readable<R, T>(rows: Vec<R>, read: impl Fn(R) -> Result<T, StoreError>) -> Vec<T> {
    let mut read_rows = Vec::with_capacity(rows.len());
    for row in rows {
        match read(row) {
            Ok(row) => read_rows.push(row),
            Err(error) => error!(%error, "a row that has lost its message cannot be read"),
        }
    }
    read_rows
}

/// The first id that belongs to it.
fn first_of(lost: Lost) -> Uuid {
    lost.since.map_or(Uuid::nil(), first_uuid_at)
}

impl JobRow {
    fn into_job(self) -> Result<ReissuedJob, StoreError> {
        Ok(ReissuedJob {
            delivery: DeliveryId::from_uuid(self.id),
            webhook: WebhookId::from_uuid(self.webhook_id),
            event: EventId::from_uuid(self.event_id),
            public_id: read(PublicEventId::parse(&self.public_id))?,
            event_type: read(self.event_type.parse())?,
            timestamp: self.timestamp,
            attempts: u32::try_from(self.attempts).unwrap_or(0),
            fence: fence(self.fence),
            body_bytes: u32::try_from(self.body_bytes).unwrap_or(0),
        })
    }
}

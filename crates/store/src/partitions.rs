//! Days: made ahead, dropped after the retention.

use std::collections::HashSet;

use chrono::{Days, NaiveDate, NaiveTime};
use diesel::sql_types::{BigInt, Bool, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use domain::Timestamp;
use domain::id::first_uuid_at;

use crate::error::StoreError;
use crate::manual::forget_manual_attempts;
use crate::migrations::DAYS_AHEAD;
use crate::pool::Store;
use crate::rotation::forget_previous_secrets;

const TABLES: [&str; 3] = ["events", "deliveries", "delivery_attempts"];

/// The advisory lock that lets one process maintain partitions at a time.
const PARTITION_LOCK: i64 = 0x6c6f_6b72_6f6f_6d02;

#[derive(QueryableByName)]
struct Day {
    #[diesel(sql_type = Text)]
    table: String,
    #[diesel(sql_type = Bool)]
    attached: bool,
    #[diesel(sql_type = Bool)]
    detaching: bool,
}

/// Every table that holds a day: in its parent, on its way out of it, or out of it.
const DAYS: &str = "
    SELECT relname::text AS table, inhrelid IS NOT NULL AS attached,
           COALESCE(inhdetachpending, false) AS detaching
      FROM pg_class
      LEFT JOIN pg_inherits ON inhrelid = pg_class.oid
     WHERE relkind = 'r' AND relnamespace = to_regnamespace(current_schema())
       AND relname ~ '^(events|deliveries|delivery_attempts)_[0-9]{8}$'
     ORDER BY relname";

impl Store {
    /// Makes the partitions of the next days, drops those wholly older than `retention_days` with their part of
    /// the statistics, and forgets ids, keys and regenerated secrets that have had their 24 hours. One process does it at
    /// a time; others wait. Returns the partitions dropped.
    ///
    /// Nobody who reads or writes is stopped: days come and go with locks that only other maintenance conflicts with.
    /// A transaction that has been reading for long makes this fail, retryable; what was begun is ended by the next run.
    pub async fn maintain(&self, now: Timestamp, retention_days: u32) -> Result<Vec<String>, StoreError> {
        let mut connection = self.maintenance_connection().await?;
        make_partitions(&mut connection, now, DAYS_AHEAD).await?;
        forget_previous_secrets(&mut connection, now).await?;
        let dropped = drop_partitions(&mut connection, now, retention_days).await?;
        forget_old_keys(&mut connection, now).await?;
        Ok(dropped)
    }

    /// Makes the partitions of yesterday to `days_ahead` days from now where they are missing. Yesterday's
    /// because clocks differ by a little.
    pub(crate) async fn make_partitions(&self, now: Timestamp, days_ahead: u32) -> Result<(), StoreError> {
        make_partitions(&mut self.maintenance_connection().await?, now, days_ahead).await
    }

    /// A connection that holds the lock of maintenance until it is dropped. Waits for whoever holds it, for at most
    /// the statement timeout.
    async fn maintenance_connection(&self) -> Result<AsyncPgConnection, StoreError> {
        let unavailable =
            |error: diesel::ConnectionError| StoreError::Unavailable { reason: error.to_string() };
        let mut connection = self.connector.connect().await.map_err(unavailable)?;
        sql_query("SELECT pg_advisory_lock($1)")
            .bind::<BigInt, _>(PARTITION_LOCK)
            .execute(&mut connection)
            .await?;
        // What is in use is not waited for long: the next run tries again. Whole days are read whole, which takes
        // longer than any statement of a service.
        connection
            .batch_execute(
                "SET lock_timeout = '2s'; SET statement_timeout = '10min';
                 SET enable_seqscan = on; SET enable_hashjoin = on",
            )
            .await?;
        Ok(connection)
    }
}

async fn days(connection: &mut AsyncPgConnection) -> Result<Vec<Day>, StoreError> {
    Ok(sql_query(DAYS).load(connection).await?)
}

async fn make_partitions(
    connection: &mut AsyncPgConnection,
    now: Timestamp,
    days_ahead: u32,
) -> Result<(), StoreError> {
    let existing: HashSet<String> = days(connection).await?.into_iter().map(|day| day.table).collect();
    let today = now.date_naive();
    let first = today.checked_sub_days(Days::new(1)).unwrap_or(today);
    for day in first.iter_days().take(days_ahead as usize + 2) {
        let (from, to) = (first_uuid_at(start_of(day)), first_uuid_at(start_of(next(day))));
        for table in TABLES {
            let partition = partition_name(table, day);
            if existing.contains(&partition) {
                continue;
            }
            // Not `PARTITION OF`, which locks the parent against everyone; attaching locks it against nobody who
            // reads or writes. One transaction, as every simple query of several statements.
            let sql = format!(
                "CREATE TABLE {partition} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
                 ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ('{from}') TO ('{to}')"
            );
            connection.batch_execute(&sql).await?;
        }
    }
    Ok(())
}

/// In two steps, because only the first can be done without stopping anyone: out of its parent, then away together
/// with its part of the statistics. What is found between the two was left by a run that was stopped there.
async fn drop_partitions(
    connection: &mut AsyncPgConnection,
    now: Timestamp,
    retention_days: u32,
) -> Result<Vec<String>, StoreError> {
    let today = now.date_naive();
    let Some(oldest_kept) = today.checked_sub_days(Days::new(retention_days.into())) else {
        return Ok(Vec::new());
    };
    let mut dropped = Vec::new();
    for Day { table, attached, detaching } in days(connection).await? {
        let Some((parent, day)) = parse_partition_name(&table) else { continue };
        if day >= oldest_kept {
            continue;
        }
        if attached {
            let how = if detaching { "FINALIZE" } else { "CONCURRENTLY" };
            connection.batch_execute(&format!("ALTER TABLE {parent} DETACH PARTITION {table} {how}")).await?;
        }
        let has_statistics = parent == "deliveries";
        let has_events = parent == "events";
        connection
            .transaction(async |connection| {
                if has_statistics {
                    subtract_statistics(connection, &table).await?;
                }
                if has_events {
                    forget_waiting_events(connection, day).await?;
                }
                connection.batch_execute(&format!("DROP TABLE {table}")).await?;
                Ok::<(), StoreError>(())
            })
            .await?;
        dropped.push(table);
    }
    Ok(dropped)
}

/// What was never fanned out of a day cannot be any more.
async fn forget_waiting_events(connection: &mut AsyncPgConnection, day: NaiveDate) -> Result<(), StoreError> {
    sql_query("DELETE FROM events_to_fan_out WHERE event_id < $1")
        .bind::<SqlUuid, _>(first_uuid_at(start_of(next(day))))
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes a day's deliveries out of the running counters before the day is dropped. Counters are locked in the order
/// that everyone locks them in, so that no writer and this can wait for each other.
async fn subtract_statistics(connection: &mut AsyncPgConnection, day: &str) -> Result<(), StoreError> {
    connection
        .batch_execute(&format!(
            "LOCK TABLE {day} IN ACCESS EXCLUSIVE MODE;
             CREATE TEMPORARY TABLE day_counts ON COMMIT DROP AS
             SELECT webhook_id, event_type,
                    count(*) FILTER (WHERE status = 'pending') AS pending,
                    count(*) FILTER (WHERE status = 'success') AS success,
                    count(*) FILTER (WHERE status = 'failed') AS failed
               FROM {day}
              GROUP BY webhook_id, event_type;
             SELECT count(*) FROM (
                SELECT 1
                  FROM webhook_statistics s
                  JOIN day_counts USING (webhook_id, event_type)
                 ORDER BY webhook_id, event_type
                   FOR UPDATE OF s
             ) locked;
             UPDATE webhook_statistics s
                SET pending = s.pending - day.pending,
                    success = s.success - day.success,
                    failed = s.failed - day.failed
               FROM day_counts day
              WHERE s.webhook_id = day.webhook_id AND s.event_type = day.event_type"
        ))
        .await?;
    Ok(())
}

/// Rows deleted with one statement.
const DELETED_AT_ONCE: usize = 10_000;

async fn forget_old_keys(connection: &mut AsyncPgConnection, now: Timestamp) -> Result<(), StoreError> {
    // Row by row in chunks: a day's keys at once would hold locks for long. A key that is being used again is locked,
    // and stays.
    let forget_some = format!(
        "DELETE FROM event_keys WHERE publisher_id IN (
            SELECT publisher_id FROM event_keys WHERE first_seen < $1 - interval '24 hours'
             ORDER BY first_seen LIMIT {DELETED_AT_ONCE} FOR UPDATE SKIP LOCKED)"
    );
    while sql_query(&forget_some).bind::<Timestamptz, _>(now).execute(connection).await? == DELETED_AT_ONCE {}
    sql_query("DELETE FROM idempotency_keys WHERE created_at < $1 - interval '24 hours'")
        .bind::<Timestamptz, _>(now)
        .execute(connection)
        .await?;
    forget_manual_attempts(connection, now).await?;
    sql_query(
        "DELETE FROM webhook_statistics WHERE NOT EXISTS (SELECT 1 FROM webhooks WHERE id = webhook_id)",
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn next(day: NaiveDate) -> NaiveDate {
    day.succ_opt().unwrap_or(day)
}

fn start_of(day: NaiveDate) -> Timestamp {
    day.and_time(NaiveTime::MIN).and_utc()
}

fn partition_name(table: &str, day: NaiveDate) -> String {
    format!("{table}_{}", day.format("%Y%m%d"))
}

fn parse_partition_name(name: &str) -> Option<(&str, NaiveDate)> {
    let (table, day) = name.rsplit_once('_')?;
    Some((table, NaiveDate::parse_from_str(day, "%Y%m%d").ok()?))
}

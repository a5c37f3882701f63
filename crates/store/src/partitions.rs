//! Days: made ahead, dropped after the retention.

use chrono::{Days, NaiveDate, NaiveTime};
use diesel::sql_types::{BigInt, Text, Timestamptz};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use domain::Timestamp;
use domain::id::first_uuid_at;

use crate::error::StoreError;
use crate::migrations::DAYS_AHEAD;
use crate::pool::Store;

const TABLES: [&str; 3] = ["events", "deliveries", "delivery_attempts"];

/// The advisory lock that lets one process maintain partitions at a time.
const PARTITION_LOCK: i64 = 0x6c6f_6b72_6f6f_6d02;

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

impl Store {
    /// Makes the partitions of the next days, drops those wholly older than `retention_days` with their part of
    /// the statistics, and forgets ids and keys that have had their 24 hours. One process does it at a time;
    /// others wait. Returns the partitions dropped.
    pub async fn maintain(&self, now: Timestamp, retention_days: u32) -> Result<Vec<String>, StoreError> {
        self.make_partitions(now, DAYS_AHEAD).await?;
        let dropped = self.drop_partitions(now, retention_days).await?;
        self.forget_old_keys(now).await?;
        Ok(dropped)
    }

    /// Makes the partitions of yesterday to `days_ahead` days from now where they are missing. Yesterday's
    /// because clocks differ by a little.
    pub(crate) async fn make_partitions(&self, now: Timestamp, days_ahead: u32) -> Result<(), StoreError> {
        let today = now.date_naive();
        let first = today.checked_sub_days(Days::new(1)).unwrap_or(today);
        let days: Vec<NaiveDate> = first.iter_days().take(days_ahead as usize + 2).collect();
        let mut connection = self.connection().await?;
        connection
            .transaction(async |connection| {
                lock(connection).await?;
                for day in days {
                    let (from, to) = (first_uuid_at(start_of(day)), first_uuid_at(start_of(next(day))));
                    for table in TABLES {
                        let partition = partition_name(table, day);
                        let sql = format!(
                            "CREATE TABLE IF NOT EXISTS {partition} PARTITION OF {table} \
                         FOR VALUES FROM ('{from}') TO ('{to}')"
                        );
                        connection.batch_execute(&sql).await?;
                    }
                }
                Ok(())
            })
            .await
    }

    async fn drop_partitions(&self, now: Timestamp, retention_days: u32) -> Result<Vec<String>, StoreError> {
        let today = now.date_naive();
        let Some(oldest_kept) = today.checked_sub_days(Days::new(retention_days.into())) else {
            return Ok(Vec::new());
        };
        let mut connection = self.connection().await?;
        connection
            .transaction(async |connection| {
                lock(connection).await?;
                let partitions: Vec<Name> = sql_query(
                    "SELECT child.relname::text AS name
                   FROM pg_inherits
                   JOIN pg_class child ON child.oid = inhrelid
                   JOIN pg_class parent ON parent.oid = inhparent
                  WHERE parent.relname IN ('events', 'deliveries', 'delivery_attempts')
                    AND parent.relnamespace = to_regnamespace(current_schema())
                  ORDER BY child.relname",
                )
                .load(connection)
                .await?;
                let mut dropped = Vec::new();
                for Name { name } in partitions {
                    let Some((table, day)) = parse_partition_name(&name) else { continue };
                    if day >= oldest_kept {
                        continue;
                    }
                    if table == "deliveries" {
                        subtract_statistics(connection, &name).await?;
                    }
                    connection.batch_execute(&format!("DROP TABLE {name}")).await?;
                    dropped.push(name);
                }
                Ok(dropped)
            })
            .await
    }

    async fn forget_old_keys(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut connection = self.connection().await?;
        for sql in [
            "DELETE FROM event_keys WHERE first_seen < $1 - interval '24 hours'",
            "DELETE FROM idempotency_keys WHERE created_at < $1 - interval '24 hours'",
        ] {
            sql_query(sql).bind::<Timestamptz, _>(now).execute(&mut connection).await?;
        }
        sql_query(
            "DELETE FROM webhook_statistics WHERE NOT EXISTS (SELECT 1 FROM webhooks WHERE id = webhook_id)",
        )
        .execute(&mut connection)
        .await?;
        Ok(())
    }
}

/// One process at a time. A partition that is in use is not waited for long, because inserts would queue behind the
/// wait: the next run tries again.
async fn lock(connection: &mut AsyncPgConnection) -> Result<(), StoreError> {
    connection
        .batch_execute("SET LOCAL lock_timeout = '2s'; SET LOCAL client_min_messages = warning")
        .await?;
    sql_query("SELECT pg_advisory_xact_lock($1)")
        .bind::<BigInt, _>(PARTITION_LOCK)
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes a day's deliveries out of the running counters before the day is dropped.
async fn subtract_statistics(connection: &mut AsyncPgConnection, partition: &str) -> Result<(), StoreError> {
    sql_query(format!(
        "UPDATE webhook_statistics s
            SET pending = s.pending - day.pending,
                success = s.success - day.success,
                failed = s.failed - day.failed
           FROM (SELECT webhook_id, event_type,
                        count(*) FILTER (WHERE status = 'pending') AS pending,
                        count(*) FILTER (WHERE status = 'success') AS success,
                        count(*) FILTER (WHERE status = 'failed') AS failed
                   FROM {partition}
                  GROUP BY webhook_id, event_type) day
          WHERE s.webhook_id = day.webhook_id AND s.event_type = day.event_type"
    ))
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

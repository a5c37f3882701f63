//! Telling a statement that is refused from a database that is in trouble.

use diesel::sql_types::Uuid as SqlUuid;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use uuid::Uuid;

use crate::error::StoreError;
use crate::pool::Store;

/// Every row that an event leaves in its life, under an id of now.
const LIFE_OF_AN_EVENT: &str = "
    WITH event AS (
        INSERT INTO events (id, public_id, type, recipients, timestamp, body, received_at)
        SELECT id, id::text, 'control', '{}', '', '', clock_timestamp()
          FROM (SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
                        || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid) control (id)
        RETURNING id, received_at
    ), key AS (
        INSERT INTO event_keys (publisher_id, event_id, first_seen) SELECT 'control ' || id, id, received_at FROM event
    ), waiting AS (
        INSERT INTO events_to_fan_out (event_id, queued_at) SELECT id, received_at FROM event
    ), delivery AS (
        INSERT INTO deliveries (id, webhook_id, event_id, event_type, created_at)
        SELECT id, id, id, 'control', received_at FROM event
    ), attempt AS (
        INSERT INTO delivery_attempts (delivery_id, attempt, started_at, duration_ms)
        SELECT id, 1, received_at, 0 FROM event
    ), statistics AS (
        INSERT INTO webhook_statistics (webhook_id, event_type, pending) SELECT id, 'control', 1 FROM event
    )
    SELECT id FROM event";

/// What happens to them.
const ITS_END: &str = "
    WITH waiting AS (
        DELETE FROM events_to_fan_out WHERE event_id = $1
    ), statistics AS (
        UPDATE webhook_statistics SET pending = 0, success = 1 WHERE webhook_id = $1
    )
    UPDATE deliveries SET attempts = 1, status = 'success' WHERE id = $1";

#[derive(QueryableByName)]
struct Control {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

impl Store {
    /// Whether the database would take an ordinary event now. Writes the rows that one leaves in its life and takes
    /// them back: what comes in the way of every event (no space, no writes, no table, no right, no partition, a lock)
    /// comes in the way of this one too, whatever language the server tells it in.
    ///
    /// # Errors
    /// It would not.
    pub async fn takes_events(&self) -> Result<(), StoreError> {
        let mut connection = self.connection().await?;
        let tried = connection
            .transaction::<(), _, _>(async |connection| {
                let Control { id } = sql_query(LIFE_OF_AN_EVENT).get_result(connection).await?;
                sql_query(ITS_END).bind::<SqlUuid, _>(id).execute(connection).await?;
                Err(diesel::result::Error::RollbackTransaction)
            })
            .await;
        match tried {
            Ok(()) | Err(diesel::result::Error::RollbackTransaction) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

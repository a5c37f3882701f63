//! The schema's versions.

use std::collections::BTreeSet;
use std::time::Duration;

use diesel::migration::{Migration, MigrationSource as _};
use diesel::pg::Pg;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::Text;
use diesel::{ConnectionError, QueryableByName, sql_query};
use diesel_async::{AsyncMigrationHarness, RunQueryDsl as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use domain::Timestamp;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tracing::info;

use crate::error::{SchemaMismatch, StoreError};
use crate::pool::Store;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// The advisory lock that lets one migration run at a time.
const MIGRATION_LOCK: i64 = 0x6c6f_6b72_6f6f_6d01;

/// How often a migration tries to get its locks, [`PAUSE`] after each that it does not get within 2 seconds.
const TRIES: u32 = 60;

/// Between two tries everybody who had to wait behind one gets through.
const PAUSE: Duration = Duration::from_secs(1);

/// Days of partitions that exist ahead of the present.
pub(crate) const DAYS_AHEAD: u32 = 7;

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Text)]
    version: String,
}

fn unavailable(error: &ConnectionError) -> StoreError {
    StoreError::Unavailable { reason: error.to_string() }
}

impl Store {
    /// Brings the schema to this program's version and makes the partitions of the next days. Returns what was
    /// applied. Runs at the same time wait for each other. A migration waits for its locks for at most 2
    /// seconds at a time, for whoever waits for a lock on a table holds up everybody who comes after; what it does with them, an
    /// index for example, takes as long as it takes.
    pub async fn migrate(&self, now: Timestamp) -> Result<Vec<String>, StoreError> {
        // A connection of its own: the lock is held by the session and ends with it.
        let mut connection = self.connector.connect().await.map_err(|error| unavailable(&error))?;
        // A migration takes as long as the tables are large; one that is waited for, too.
        sql_query("SET statement_timeout = 0").execute(&mut connection).await?;
        sql_query("SELECT pg_advisory_lock($1)")
            .bind::<diesel::sql_types::BigInt, _>(MIGRATION_LOCK)
            .execute(&mut connection)
            .await?;
        sql_query("SET lock_timeout = '2s'").execute(&mut connection).await?;
        let lock_timeout = self.words_for_a_lock_timeout().await?;
        let runtime = Handle::current();
        let migrating = tokio::task::spawn_blocking(move || {
            let mut harness = AsyncMigrationHarness::new(connection);
            let mut applied = Vec::new();
            for migration in harness.pending_migrations(MIGRATIONS)? {
                let mut tries = 1;
                while let Err(error) = harness.run_migration(&migration) {
                    if tries == TRIES || !error.to_string().contains(&lock_timeout) {
                        return Err(error);
                    }
                    info!(migration = %migration.name(), tries, "a table is in use; trying again");
                    tries += 1;
                    runtime.block_on(sleep(PAUSE));
                }
                applied.push(migration.name().version().to_string());
            }
            Ok(applied)
        });
        let applied =
            migrating.await.map_err(|error| StoreError::Unavailable { reason: error.to_string() })?;
        let applied = applied.map_err(|error: Box<dyn std::error::Error + Send + Sync>| {
            StoreError::Query(DieselError::QueryBuilderError(error))
        })?;
        self.make_partitions(now, DAYS_AHEAD).await?;
        Ok(applied)
    }

    /// What the server says of a lock that was not to be had in time, in its language: diesel does not pass on the
    /// SQLSTATE (55P03), and only superusers may choose the language. Asks for the lock that the migration holds.
    async fn words_for_a_lock_timeout(&self) -> Result<String, StoreError> {
        let mut connection = self.connector.connect().await.map_err(|error| unavailable(&error))?;
        sql_query("SET lock_timeout = '1ms'").execute(&mut connection).await?;
        let asked = sql_query("SELECT pg_advisory_lock($1)")
            .bind::<diesel::sql_types::BigInt, _>(MIGRATION_LOCK)
            .execute(&mut connection)
            .await;
        match asked {
            Err(DieselError::DatabaseError(DatabaseErrorKind::Unknown, info)) => {
                Ok(info.message().to_owned())
            }
            Err(error) => Err(error.into()),
            Ok(_) => Err(StoreError::Unavailable { reason: "the migration's lock was lost".to_owned() }),
        }
    }

    /// Checks that the schema is the one this program was built for.
    pub async fn check_schema(&self) -> Result<(), SchemaMismatch> {
        let known: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS
            .migrations()
            .map_err(|error| StoreError::Query(DieselError::QueryBuilderError(error)))?;
        let known: BTreeSet<String> = known.iter().map(|it| it.name().version().to_string()).collect();
        let applied = self.applied_migrations().await?;

        let missing: Vec<_> = known.difference(&applied).cloned().collect();
        let unknown: Vec<_> = applied.difference(&known).cloned().collect();
        match (missing.is_empty(), unknown.is_empty()) {
            (true, true) => Ok(()),
            (false, _) => Err(SchemaMismatch::TooOld(missing)),
            (true, false) => Err(SchemaMismatch::TooNew(unknown)),
        }
    }

    async fn applied_migrations(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut connection = self.connection().await?;
        let table = "SELECT 'x' AS version WHERE to_regclass('__diesel_schema_migrations') IS NOT NULL";
        let exists: Vec<Version> = sql_query(table).load(&mut connection).await?;
        if exists.is_empty() {
            return Ok(BTreeSet::new());
        }
        let versions: Vec<Version> =
            sql_query("SELECT version FROM __diesel_schema_migrations").load(&mut connection).await?;
        Ok(versions.into_iter().map(|row| row.version).collect())
    }
}

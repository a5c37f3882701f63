//! What can go wrong with the database, named for what it means to the caller.

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::pooled_connection::deadpool::PoolError;

/// A query failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be used now; the same call may succeed later.
    #[error("the database is not available: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// The settings do not lead to a database.
    #[error("{reason}")]
    Configuration {
        /// Which setting, and what is wrong with it.
        reason: String,
    },
    /// A stored secret cannot be read.
    #[error("a webhook's secret cannot be decrypted: {0}")]
    Secret(#[from] crate::encryption::DecryptError),
    /// No partition holds the id's day: a clock is wrong, or nobody made partitions for days.
    #[error("no partition for the day of this id; `lokctl migrate` makes partitions")]
    NoPartition,
    /// The system gave no randomness.
    #[error(transparent)]
    NoRandomness(#[from] domain::id::NoRandomness),
    /// The statement is wrong, or what it was given.
    #[error("a query failed")]
    Query(#[source] DieselError),
}

impl StoreError {
    /// Whether the same call may succeed later. What is wrong with the database itself is not the caller's fault, and
    /// someone will mend it: partitions that nobody made, a schema that is being changed, rights that were taken away.
    pub fn is_retryable(&self) -> bool {
        const OF_THE_DATABASE: [&str; 3] = ["does not exist", "permission denied", "must be owner"];
        match self {
            Self::Unavailable { .. } | Self::NoPartition => true,
            Self::Query(error) => {
                let message = error.to_string();
                OF_THE_DATABASE.iter().any(|text| message.contains(text))
            }
            Self::Configuration { .. } | Self::Secret(_) | Self::NoRandomness(_) => false,
        }
    }
}

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        match &error {
            DieselError::DatabaseError(DatabaseErrorKind::CheckViolation, info)
                if info.message().starts_with("no partition of relation") =>
            {
                Self::NoPartition
            }
            DieselError::DatabaseError(kind, info) if is_transient(*kind, info.message()) => {
                Self::Unavailable { reason: info.message().to_owned() }
            }
            DieselError::BrokenTransactionManager | DieselError::RollbackErrorOnCommit { .. } => {
                Self::Unavailable { reason: error.to_string() }
            }
            _ => Self::Query(error),
        }
    }
}

/// Whether the server, not the statement, is the trouble. PostgreSQL's message is looked at because diesel
/// passes on the SQLSTATE of a few errors only.
fn is_transient(kind: DatabaseErrorKind, message: &str) -> bool {
    const TRANSIENT: [&str; 15] = [
        "connection closed",
        "error communicating with the server",
        "terminating connection",
        "the database system is",
        "canceling statement due to",
        "deadlock detected",
        "could not serialize access",
        "read-only transaction",
        "No space left on device",
        "could not extend file",
        "out of memory",
        "too many clients",
        "remaining connection slots are reserved",
        "server closed the connection",
        "db error: FATAL",
    ];
    match kind {
        DatabaseErrorKind::ClosedConnection
        | DatabaseErrorKind::SerializationFailure
        | DatabaseErrorKind::ReadOnlyTransaction
        | DatabaseErrorKind::UnableToSendCommand => true,
        _ => TRANSIENT.iter().any(|text| message.contains(text)),
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        Self::Unavailable { reason: error.to_string() }
    }
}

/// The database's schema is not the one this program was built for.
#[derive(Debug, thiserror::Error)]
pub enum SchemaMismatch {
    /// Migrations are missing.
    #[error("the database schema is older than this program (missing: {}): run `lokctl migrate`", .0.join(", "))]
    TooOld(Vec<String>),
    /// The database has migrations that this program does not know.
    #[error("the database schema is newer than this program (unknown: {}): deploy the version that belongs to it", .0.join(", "))]
    TooNew(Vec<String>),
    /// It could not be found out.
    #[error("the database schema cannot be read")]
    Store(#[from] StoreError),
}

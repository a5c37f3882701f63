//! What can go wrong with the database, named for what it means to the caller.

mod control;

use deadpool::managed::PoolError;
use diesel::ConnectionError;
use diesel::result::{DatabaseErrorKind, Error as DieselError};

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
        match self {
            Self::Unavailable { .. } | Self::NoPartition => true,
            Self::Query(error) => is_known_to_be_of(&OF_THE_SCHEMA, error),
            Self::Configuration { .. } | Self::Secret(_) | Self::NoRandomness(_) => false,
        }
    }

    /// Whether only a try tells if the statement is refused or the database is in trouble:
    /// [`crate::Store::takes_events`]. diesel passes on the SQLSTATE of a few errors only, and the texts of the others
    /// are in the language of the server.
    pub fn is_in_doubt(&self) -> bool {
        match self {
            // Nobody made today's, or the statement is about a day that was dropped.
            Self::NoPartition => true,
            Self::Query(DieselError::DatabaseError(DatabaseErrorKind::Unknown, _)) => !self.is_retryable(),
            _ => false,
        }
    }
}

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        match &error {
            // What a row must not be has a name, save this.
            DieselError::DatabaseError(DatabaseErrorKind::CheckViolation, info)
                if info.constraint_name().is_none() =>
            {
                Self::NoPartition
            }
            DieselError::DatabaseError(
                DatabaseErrorKind::ClosedConnection
                | DatabaseErrorKind::SerializationFailure
                | DatabaseErrorKind::ReadOnlyTransaction
                | DatabaseErrorKind::UnableToSendCommand,
                info,
            ) => Self::Unavailable { reason: info.message().to_owned() },
            DieselError::BrokenTransactionManager | DieselError::RollbackErrorOnCommit { .. } => {
                Self::Unavailable { reason: error.to_string() }
            }
            _ if is_known_to_be_of(&OF_THE_SERVER, &error) => Self::Unavailable { reason: error.to_string() },
            _ => Self::Query(error),
        }
    }
}

/// English texts of what is wrong with the server, not with the statement. They spare a try, no more: see
/// [`StoreError::is_in_doubt`].
const OF_THE_SERVER: [&str; 12] = [
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
    "db error: FATAL",
];

/// English texts of what is wrong with the schema.
const OF_THE_SCHEMA: [&str; 3] = ["does not exist", "permission denied", "must be owner"];

/// Whether one of these texts is in a message of which diesel does not tell the kind.
fn is_known_to_be_of(texts: &[&str], error: &DieselError) -> bool {
    match error {
        DieselError::DatabaseError(DatabaseErrorKind::Unknown, info) => {
            texts.iter().any(|text| info.message().contains(text))
        }
        _ => false,
    }
}

impl From<PoolError<ConnectionError>> for StoreError {
    fn from(error: PoolError<ConnectionError>) -> Self {
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

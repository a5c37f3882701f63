//! Connections that answer, or end.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, Object, RecycleError, RecycleResult};
use diesel::ConnectionError;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl as _, TransactionManager as _};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::pool::Connector;
use crate::statement::Prepared;

/// How much longer than the server's own limit of a statement its answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);

/// A connection that was given back within this is handed out again as it is. Longer ago, it is asked for a sign of life first: to
/// ask each time would double what a statement costs and how long it takes. One whose end was noticed is never handed out.
const SURELY_ALIVE: Duration = Duration::from_secs(1);

/// Opens connections for the pool.
pub(crate) struct LiveManager {
    connector: Arc<Connector>,
    /// Longest use of a connection before it is given up.
    limit: Duration,
}

impl LiveManager {
    /// Connections of this connector, whose statements the server ends after `statement_timeout`. A server that is
    /// stopped (`SIGSTOP`, a virtual machine that is being moved, a disk that hangs) ends nothing, and its kernel goes on
    /// acknowledging what it is sent: only a time limit on this side tells.
    pub(crate) fn new(connector: Arc<Connector>, statement_timeout: Duration) -> Self {
        Self { connector, limit: statement_timeout.saturating_add(ANSWER) }
    }
}

impl Manager for LiveManager {
    type Type = Live;
    type Error = ConnectionError;

    async fn create(&self) -> Result<Live, ConnectionError> {
        let (in_use, ended) = (InUse::default(), CancellationToken::new());
        // Dropped with the task that serves the connection, however that ends.
        let guard = ended.clone().drop_guard();
        let too_long = in_use.clone().longer_than(self.limit);
        let end = async move {
            let _guard = guard;
            too_long.await;
        };
        // Boxed: connecting takes more room than anything else that a statement's future holds.
        let connection = Box::pin(self.connector.connect_until(end)).await?;
        Ok(Live { connection, in_use, ended, given_back: Instant::now() })
    }

    async fn recycle(&self, live: &mut Live, _: &Metrics) -> RecycleResult<ConnectionError> {
        type Transactions = <AsyncPgConnection as AsyncConnection>::TransactionManager;
        if Transactions::is_broken_transaction_manager(&mut live.connection) {
            return Err(RecycleError::message("left within a transaction"));
        }
        if live.ended.is_cancelled() {
            return Err(RecycleError::message("it has ended"));
        }
        if live.given_back.elapsed() < SURELY_ALIVE {
            return Ok(());
        }
        let answer = Prepared(diesel::sql_query("SELECT 1")).execute(&mut live.connection).await;
        answer.map(drop).map_err(|error| RecycleError::message(error.to_string()))
    }
}

/// A connection of the pool.
pub(crate) struct Live {
    connection: AsyncPgConnection,
    in_use: InUse,
    /// Cancelled when the connection has ended.
    ended: CancellationToken,
    given_back: Instant,
}

/// A connection of the pool, in use until dropped. After the limit it is closed, and whoever waits for an answer is told
/// that there is none.
pub(crate) struct Connection(Object<LiveManager>);

impl From<Object<LiveManager>> for Connection {
    fn from(object: Object<LiveManager>) -> Self {
        *object.in_use.lock() = Some(Instant::now());
        Self(object)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.given_back = Instant::now();
        *self.0.in_use.lock() = None;
    }
}

impl Deref for Connection {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.0.connection
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.0.connection
    }
}

/// Since when a connection is in use. Clones share it.
#[derive(Debug, Clone, Default)]
struct InUse(Arc<Mutex<Option<Instant>>>);

impl InUse {
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        // An instant is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when the connection has been in use for longer than `limit` without being given back. Wakes once a limit:
    /// whatever begins while it sleeps is due after it wakes.
    async fn longer_than(self, limit: Duration) {
        loop {
            let now = Instant::now();
            let since = *self.lock();
            let due = since.unwrap_or(now) + limit;
            if due <= now {
                return;
            }
            sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn a_connection_is_given_up_only_when_one_use_takes_too_long() {
        let in_use = InUse::default();
        let mut overdue = std::pin::pin!(in_use.clone().longer_than(LIMIT));
        let mut passes = async |time| tokio::time::timeout(time, &mut overdue).await.is_err();
        assert!(passes(LIMIT * 3).await, "idle");
        for _ in 0..5 {
            *in_use.lock() = Some(Instant::now());
            assert!(passes(LIMIT / 2).await, "in use, again and again");
            *in_use.lock() = None;
        }
        *in_use.lock() = Some(Instant::now());
        let begun = Instant::now();
        assert!(!passes(LIMIT * 2).await, "in use for too long");
        assert!(begun.elapsed() >= LIMIT, "{:?}", begun.elapsed());
    }
}

//! The chain's rows: what came while the last group was being committed is the next group.

use std::num::NonZeroUsize;

use anyhow::Context as _;
use group_commit::{Bounds, GroupCommit};
use testkit::TestDatabase;
use tokio_postgres::{Client, Statement};
use tokio_util::task::TaskTracker;

/// Rows of one statement, at most.
const GROUP: usize = 500;

/// Rows that wait, at most.
const WAITING: usize = 4096;

/// What the platform writes on an event's way, with the same indexes where they cost.
pub(super) const TABLES: &str = "
    CREATE TABLE floor_events (hop integer NOT NULL, id bigint NOT NULL, body text NOT NULL,
                               received_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (hop, id));
    CREATE TABLE floor_deliveries (id bigint PRIMARY KEY, webhook bigint NOT NULL, status text NOT NULL,
                                   response_status integer, created_at timestamptz NOT NULL DEFAULT now(),
                                   recorded_at timestamptz) WITH (fillfactor = 70);
    CREATE INDEX ON floor_deliveries (webhook, id DESC)";

/// An event that passes a queue.
const INSERT_EVENT: &str = "
    INSERT INTO floor_events (hop, id, body)
    SELECT hop, id, body FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS new (hop, id, body)
        ON CONFLICT DO NOTHING";

/// A delivery before its request.
const INSERT_DELIVERY: &str = "
    INSERT INTO floor_deliveries (id, webhook, status)
    SELECT id, webhook, 'pending' FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS new (id, webhook, body)
        ON CONFLICT DO NOTHING";

/// A delivery after its request.
const UPDATE_DELIVERY: &str = "
    UPDATE floor_deliveries AS delivery SET status = 'success', response_status = 200, recorded_at = now()
      FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS done (id, webhook, body)
     WHERE delivery.id = done.id AND delivery.status = 'pending'";

/// Two numbers and a text; what they are is the statement's affair.
pub(super) struct Row {
    pub(super) first: i64,
    pub(super) second: i64,
    pub(super) text: String,
}

type Writer = GroupCommit<Row, Result<(), String>>;

/// Writes rows with one statement over one connection, a group at a time.
#[derive(Clone)]
pub(super) struct Grouped(Writer);

impl Grouped {
    pub(super) async fn events(database: &TestDatabase, tasks: &TaskTracker) -> anyhow::Result<Self> {
        Self::start(database, INSERT_EVENT, tasks).await
    }

    pub(super) async fn deliveries(database: &TestDatabase, tasks: &TaskTracker) -> anyhow::Result<Self> {
        Self::start(database, INSERT_DELIVERY, tasks).await
    }

    pub(super) async fn outcomes(database: &TestDatabase, tasks: &TaskTracker) -> anyhow::Result<Self> {
        Self::start(database, UPDATE_DELIVERY, tasks).await
    }

    async fn start(database: &TestDatabase, sql: &str, tasks: &TaskTracker) -> anyhow::Result<Self> {
        let client = database.connect().await;
        let statement = client.prepare(sql).await?;
        let bound = |count| NonZeroUsize::new(count).context("a bound is not 0");
        let bounds = Bounds { waiting: bound(WAITING)?, group: bound(GROUP)?, concurrent_groups: bound(1)? };
        let connection = std::sync::Arc::new((client, statement));
        Ok(Self(GroupCommit::start(bounds, tasks, move |rows| {
            let connection = connection.clone();
            async move { write(&connection.0, &connection.1, rows).await }
        })))
    }

    /// Has a row written with the others that wait, durably.
    pub(super) async fn write(&self, first: i64, second: i64, text: String) -> anyhow::Result<()> {
        let written = self.0.submit(Row { first, second, text }).await?;
        written.map_err(anyhow::Error::msg)
    }
}

async fn write(client: &Client, statement: &Statement, rows: Vec<Row>) -> Vec<Result<(), String>> {
    let count = rows.len();
    let (mut first, mut second, mut text) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        first.push(row.first);
        second.push(row.second);
        text.push(row.text);
    }
    let written = client.execute(statement, &[&first, &second, &text]).await;
    let written = written.map(drop).map_err(|error| error.to_string());
    std::iter::repeat_n(written, count).collect()
}

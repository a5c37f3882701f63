//! A queue prefix of its own for every test.

use std::time::Duration;

use broker::{Backoff, Broker, BrokerConfig, Origin};
use domain::pace::ParkDelays;
use domain::shard::Shards;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use tokio_postgres::{Client, NoTls};
use wire::Names;

use crate::eventually::DEADLINE;
use crate::servers::Servers;
use crate::{cleanup, run_id, servers};

/// Where the names of all queues in use are written down: the broker's protocol has no listing. It is in the database
/// that [`servers::DATABASE_VARIABLE`] names. Private servers need none: they are not swept, they go.
const LEDGER: &str = "CREATE TABLE IF NOT EXISTS testkit_queues (
    run text PRIMARY KEY, exchange text NOT NULL, queues text[] NOT NULL)";

/// The advisory lock that lets one process create the ledger.
const LEDGER_LOCK: i64 = 0x6c6f_6b72_6f6f_6d03;

/// Queue names that no other test uses, and the topology behind them. Its queues and exchange are deleted at the end.
#[derive(Debug)]
pub struct TestQueues {
    servers: Servers,
    run: String,
    prefix: String,
    retry_delays: Vec<Duration>,
    park_delays: ParkDelays,
    shards: Shards,
}

impl TestQueues {
    /// Reserves a prefix. Nothing is declared: services do that.
    pub async fn reserve(retry_delays: Vec<Duration>, park_delays: impl Into<ParkDelays>) -> Self {
        Self::reserve_on(&Servers::shared(), retry_delays, park_delays.into(), Shards::ONE).await
    }

    /// The same on these servers, with so many shards.
    pub async fn reserve_on(
        servers: &Servers,
        retry_delays: Vec<Duration>,
        park_delays: ParkDelays,
        shards: Shards,
    ) -> Self {
        let (servers, run) = (servers.clone(), run_id::new());
        let prefix = format!("t_{run}.");
        let queues = Self { servers: servers.clone(), prefix, run, retry_delays, park_delays, shards };
        if !servers.are_shared() {
            return queues;
        }
        let ledger = Ledger::open().await.unwrap_or_else(|reason| panic!("{reason}"));
        if let Err(reason) = ledger.sweep().await {
            panic!("queues of killed runs could not be swept: {reason}");
        }
        let written = ledger.write(&queues).await;
        written.unwrap_or_else(|reason| panic!("the test's queues could not be written down: {reason}"));
        queues
    }

    /// For `LOK__AMQP__PREFIX`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The names behind the prefix.
    pub fn names(&self) -> Names {
        Names::new(self.prefix.clone()).with_shards(self.shards)
    }

    /// The topology that services with the same settings declare.
    pub fn topology(&self) -> broker::Topology {
        wire::topology::topology(&self.names(), &self.retry_delays, &self.park_delays)
    }

    fn queue_names(&self) -> Vec<String> {
        self.topology().queue_names().map(str::to_owned).collect()
    }
}

impl Drop for TestQueues {
    fn drop(&mut self) {
        if !self.servers.are_shared() {
            return;
        }
        let (run, exchange, queues) = (self.run.clone(), self.names().events_exchange(), self.queue_names());
        cleanup::run("a test's queues", async move {
            delete(&exchange, &queues).await?;
            Ledger::open().await?.strike_out(&run).await
        });
    }
}

async fn delete(exchange: &str, queues: &[String]) -> Result<(), String> {
    let url = servers::amqp_url();
    let connection = Connection::connect(&url, ConnectionProperties::default())
        .await
        .map_err(|error| format!("RabbitMQ ({}): {error}", servers::AMQP_VARIABLE))?;
    let deleting = async {
        let channel = connection.create_channel().await?;
        // Deleting what is not there is fine with RabbitMQ. Work queues go last: what dead-letters into them would
        // be left without a target.
        for queue in queues.iter().rev() {
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        }
        channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?;
        connection.close(200, "OK".into()).await
    };
    deleting.await.map_err(|error: lapin::Error| error.to_string())
}

/// A connection to the broker that declares this topology.
pub fn connect(topology: broker::Topology) -> Broker {
    connect_to(&servers::amqp_url(), topology)
}

/// The same to the broker at this URL.
pub fn connect_to(url: &str, topology: broker::Topology) -> Broker {
    let config = BrokerConfig {
        url: url.to_owned(),
        name: "testkit".to_owned(),
        heartbeat: Duration::from_secs(30),
        connect_timeout: DEADLINE,
        publish_timeout: DEADLINE,
        backoff: Backoff::default(),
        ca_file: None,
        consumes: Origin::Anyone,
    };
    Broker::connect(config, topology).unwrap_or_else(|error| panic!("the broker's URL is of no use: {error}"))
}

/// The queues in use, by the run that uses them.
struct Ledger(Client);

impl Ledger {
    async fn open() -> Result<Self, String> {
        let url = servers::database_url();
        let (client, connection) =
            tokio_postgres::connect(url.as_str(), NoTls).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Self(client))
    }

    async fn write(&self, queues: &TestQueues) -> Result<(), String> {
        let insert = "INSERT INTO testkit_queues (run, exchange, queues) VALUES ($1, $2, $3)";
        let exchange = queues.names().events_exchange();
        let written = self.0.execute(insert, &[&queues.run, &exchange, &queues.queue_names()]).await;
        written.map(drop).map_err(|error| error.to_string())
    }

    async fn strike_out(&self, run: &str) -> Result<(), String> {
        let deleted = self.0.execute("DELETE FROM testkit_queues WHERE run = $1", &[&run]).await;
        deleted.map(drop).map_err(|error| error.to_string())
    }

    /// Deletes the queues that killed runs left.
    async fn sweep(&self) -> Result<(), String> {
        // `IF NOT EXISTS` alone fails when two processes come at the same time.
        let create = format!("BEGIN; SELECT pg_advisory_xact_lock({LEDGER_LOCK}); {LEDGER}; COMMIT");
        self.0.batch_execute(&create).await.map_err(|error| error.to_string())?;
        let rows = self.0.query("SELECT run, exchange, queues FROM testkit_queues", &[]).await;
        for row in rows.map_err(|error| error.to_string())? {
            let run: String = row.get(0);
            if run_id::is_leftover(&run) {
                delete(row.get(1), &row.get::<_, Vec<String>>(2)).await?;
                self.strike_out(&run).await?;
            }
        }
        Ok(())
    }
}

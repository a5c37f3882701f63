//! Connections.

mod live;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::Pool;
use diesel::{ConnectionError, ConnectionResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::encryption::SecretKeys;
use crate::error::StoreError;
use crate::pool::live::LiveManager;

pub(crate) use live::Connection;

/// Plans that do not depend on statistics. Every statement finds its rows by an index, a batch's rows one by one; the
/// planner would choose so too if its statistics were always true. But a day's partition is empty when it is planned
/// for first and holds millions of rows some hours later, and the plan that reads it whole takes a hundred times as
/// long. Planned once a connection (`force_generic_plan`): planning for a month of partitions takes longer than
/// running.
const PLANS: &str = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off \
                     -c max_parallel_workers_per_gather=0 -c jit=off -c plan_cache_mode=force_generic_plan";

/// After this long without a sign of the other side a connection is asked for one.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// How long the system waits for the other side to take what was sent before it gives the connection up.
const UNANSWERED: Duration = Duration::from_secs(30);

/// How to reach the database.
#[derive(Clone)]
pub struct StoreConfig {
    /// `postgres://user:password@host:port/database`; `sslmode=require` for TLS with a verified server.
    pub url: String,
    /// The name operators see next to the connections.
    pub name: String,
    /// Most connections.
    pub pool_size: usize,
    /// Longest wait for a new connection.
    pub connect_timeout: Duration,
    /// Longest wait for a connection from the pool.
    pub acquire_timeout: Duration,
    /// Longest run of one statement. The server ends it; a server that is stopped is given up some seconds later.
    pub statement_timeout: Duration,
    /// PEM certificates to trust instead of the platform's.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("url", &"[redacted]")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The database as a service holds it. Clones share the pool.
#[derive(Clone)]
pub struct Store {
    pool: Pool<LiveManager>,
    acquire_timeout: Duration,
    pub(crate) connector: Arc<Connector>,
    pub(crate) keys: SecretKeys,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Prepares a pool; connects when the first connection is needed.
    #[expect(clippy::needless_pass_by_value, reason = "the URL holds a password: nobody needs it afterwards")]
    pub fn new(config: StoreConfig, keys: SecretKeys) -> Result<Self, StoreError> {
        let (pool_size, acquire_timeout) = (config.pool_size, config.acquire_timeout);
        let connector = Arc::new(Connector::new(&config)?);
        let manager = LiveManager::new(connector.clone(), config.statement_timeout);
        let pool = Pool::builder(manager)
            .max_size(pool_size)
            .build()
            .map_err(|error| StoreError::Unavailable { reason: error.to_string() })?;
        Ok(Self { pool, acquire_timeout, connector, keys })
    }

    /// A connection that works. One limit for everything that takes time: waiting for one that is free, asking it for a
    /// sign of life, opening another instead.
    pub(crate) async fn connection(&self) -> Result<Connection, StoreError> {
        let limit = self.acquire_timeout;
        let late = |_| StoreError::Unavailable { reason: format!("no connection within {limit:?}") };
        let object = timeout(limit, self.pool.get()).await.map_err(late)??;
        Ok(Connection::from(object))
    }

    /// Asks the database for a sign of life.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sql_query("SELECT 1").execute(&mut self.connection().await?).await?;
        Ok(())
    }
}

/// Opens connections: plain or TLS, as the URL says.
pub(crate) struct Connector {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
    connect_timeout: Duration,
}

impl Connector {
    fn new(settings: &StoreConfig) -> Result<Self, StoreError> {
        let unusable = |reason: String| StoreError::Configuration { reason };
        let mut config: tokio_postgres::Config =
            settings.url.parse().map_err(|error: tokio_postgres::Error| {
                unusable(format!(
                    "database.url: expected postgres://user:password@host:port/database ({error})"
                ))
            })?;
        let millis = settings.statement_timeout.as_millis();
        let given = config.get_options().unwrap_or_default();
        let options = format!("-c statement_timeout={millis} {PLANS} {given}");
        config
            .application_name(&settings.name)
            .connect_timeout(settings.connect_timeout)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_IDLE)
            .keepalives_retries(2)
            .tcp_user_timeout(UNANSWERED)
            .options(options);
        let tls = (config.get_ssl_mode() == SslMode::Require)
            .then(|| tls(settings.ca_file.as_deref()))
            .transpose()
            .map_err(unusable)?;
        Ok(Self { config, tls, connect_timeout: settings.connect_timeout })
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> ConnectionResult<AsyncPgConnection> {
        let connecting = async {
            if let Some(tls) = &self.tls {
                let (client, connection) =
                    self.config.connect(tls.clone()).await.map_err(|error| bad(&error))?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            } else {
                let (client, connection) =
                    self.config.connect(tokio_postgres::NoTls).await.map_err(|error| bad(&error))?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
        };
        self.in_time(connecting).await
    }

    /// A connection that is closed when `end` does; statements that wait for an answer then fail.
    pub(crate) async fn connect_until(
        &self,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> ConnectionResult<AsyncPgConnection> {
        let connecting = async {
            let client = match &self.tls {
                Some(tls) => self.client_until(tls.clone(), end).await?,
                None => self.client_until(tokio_postgres::NoTls, end).await?,
            };
            AsyncPgConnection::try_from(client).await
        };
        self.in_time(connecting).await
    }

    async fn client_until<T>(
        &self,
        tls: T,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> ConnectionResult<Client>
    where
        T: MakeTlsConnect<tokio_postgres::Socket, Stream: Send + 'static>,
    {
        let (client, connection) = self.config.connect(tls).await.map_err(|error| bad(&error))?;
        tokio::spawn(async move {
            tokio::select! {
                // The client is told of errors too.
                _ = connection => {}
                () = end => {}
            }
        });
        Ok(client)
    }

    async fn in_time<T>(&self, connecting: impl Future<Output = ConnectionResult<T>>) -> ConnectionResult<T> {
        let limit = self.connect_timeout;
        let late = |_| ConnectionError::BadConnection(format!("no answer within {limit:?}"));
        timeout(limit, connecting).await.map_err(late)?
    }
}

fn bad(error: &tokio_postgres::Error) -> ConnectionError {
    // The error's own text leaves out what the server said.
    let reason = std::error::Error::source(error).map_or(error.to_string(), ToString::to_string);
    ConnectionError::BadConnection(reason)
}

fn tls(ca_file: Option<&std::path::Path>) -> Result<MakeRustlsConnect, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| format!("{}: {error}", path.display()))?;
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

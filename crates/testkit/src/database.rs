//! A database of its own for every test.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use ring::digest;
use service::Clock;
use store::{SecretKeys, Store, StoreConfig};
use tokio_postgres::{Client, NoTls};
use url::Url;

use crate::servers::Servers;
use crate::{cleanup, run_id, servers};

/// What every template's name starts with; a hash of the migrations and the day follow.
const TEMPLATE_PREFIX: &str = "lok_template_";

/// What every test database's name starts with; a [`run_id`] follows.
const DATABASE_PREFIX: &str = "lok_test_";

/// The advisory lock that lets one process make the template.
const TEMPLATE_LOCK: i64 = 0x6c6f_6b72_6f6f_6d02;

/// The key that encrypts webhook secrets in tests. Not a secret: it protects nothing.
pub const SECRET_KEYS: &str = "test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A migrated database that is dropped at the end.
pub struct TestDatabase {
    servers: Servers,
    url: Url,
    name: String,
}

impl fmt::Debug for TestDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TestDatabase").field(&self.name).finish()
    }
}

impl TestDatabase {
    /// Clones a database from the migrated template, which is made when it does not exist yet.
    pub async fn create() -> Self {
        Self::create_on(&Servers::shared()).await
    }

    /// The same on these servers.
    pub async fn create_on(servers: &Servers) -> Self {
        let admin = connect(servers.database_url()).await;
        sweep(&admin).await;
        let template = template(servers.database_url(), &admin).await;
        Self::create_with(servers, &admin, &format!("TEMPLATE {template}")).await
    }

    /// Creates a database without any table.
    pub async fn create_empty() -> Self {
        let servers = Servers::shared();
        let admin = connect(servers.database_url()).await;
        Self::create_with(&servers, &admin, "").await
    }

    async fn create_with(servers: &Servers, admin: &Client, options: &str) -> Self {
        let name = format!("{DATABASE_PREFIX}{}", run_id::new());
        execute(admin, &format!("CREATE DATABASE {name} {options}")).await;
        Self { url: with_database(servers.database_url(), &name), name, servers: servers.clone() }
    }

    /// The URL, for a service's `LOK__DATABASE__URL`.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Has events whose ids start with `burst` take 2 ms each to store, as if there were more of them.
    ///
    /// # Panics
    /// The database is away, or it was done before.
    pub async fn store_bursts_slowly(&self) {
        let slowly = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF NEW.public_id LIKE 'burst%' THEN PERFORM pg_sleep(0.002); END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER wait BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION wait()";
        self.connect().await.batch_execute(slowly).await.expect("the table is the test's own");
    }

    /// A connection, to look at what is stored.
    pub async fn connect(&self) -> Client {
        connect(&self.url).await
    }

    /// A [`Store`] on this database with the tests' keys.
    pub fn store(&self) -> Store {
        open_store(&self.url)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if !self.servers.are_shared() {
            return;
        }
        let (server, name) = (self.servers.database_url().clone(), self.name.clone());
        cleanup::run("a test database", async move {
            let admin = try_connect(&server).await.map_err(|error| error.to_string())?;
            let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            admin.batch_execute(&statement).await.map_err(|error| explain(&error))
        });
    }
}

fn open_store(url: &Url) -> Store {
    let seconds = Duration::from_secs(20);
    let config = StoreConfig {
        url: url.to_string(),
        name: "testkit".to_owned(),
        pool_size: 4,
        connect_timeout: seconds,
        acquire_timeout: seconds,
        statement_timeout: seconds,
        ca_file: None,
    };
    let keys = SecretKeys::parse(SECRET_KEYS).expect("the tests' keys are valid");
    Store::new(config, keys).expect("the test database's URL is valid")
}

fn with_database(server: &Url, name: &str) -> Url {
    let mut url = server.clone();
    url.set_path(name);
    url
}

async fn try_connect(url: &Url) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url.as_str(), NoTls).await?;
    // Ends when the client is dropped.
    tokio::spawn(connection);
    Ok(client)
}

async fn connect(url: &Url) -> Client {
    try_connect(url).await.unwrap_or_else(|error| {
        panic!(
            "PostgreSQL at {}:{} ({}) does not take a connection: {}; `make test` starts one",
            url.host_str().unwrap_or("?"),
            url.port().unwrap_or(5432),
            servers::DATABASE_VARIABLE,
            explain(&error),
        )
    })
}

/// The error with what the server said.
fn explain(error: &tokio_postgres::Error) -> String {
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    format!("{error}{source}")
}

async fn execute(client: &Client, statement: &str) {
    if let Err(error) = client.batch_execute(statement).await {
        panic!("{statement}: {}", explain(&error));
    }
}

/// The name of the template for this version of the schema, which exists when this returns.
async fn template(server: &Url, admin: &Client) -> String {
    let today = Clock::system().now().format("%Y%m%d");
    // The day is in the name because a migrated database has partitions for the days ahead of its making.
    let name = format!("{TEMPLATE_PREFIX}{}_{today}", migrations_hash());
    if exists(admin, &name).await {
        return name;
    }
    execute(admin, &format!("SELECT pg_advisory_lock({TEMPLATE_LOCK})")).await;
    if !exists(admin, &name).await {
        make_template(server, admin, &name).await;
    }
    execute(admin, &format!("SELECT pg_advisory_unlock({TEMPLATE_LOCK})")).await;
    name
}

/// Makes the template under another name and renames it when it is whole, so that nobody clones half of it. Nobody
/// can connect to it afterwards: a session there would keep others from cloning.
async fn make_template(server: &Url, admin: &Client, name: &str) {
    let unfinished = format!("{name}_unfinished");
    execute(admin, &format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await;
    execute(admin, &format!("CREATE DATABASE {unfinished}")).await;
    let store = open_store(&with_database(server, &unfinished));
    store.migrate(Clock::system().now()).await.expect("the migrations run on an empty database");
    drop(store);
    execute(admin, &format!("ALTER DATABASE {unfinished} ALLOW_CONNECTIONS false")).await;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    crate::eventually("the template has no sessions", crate::DEADLINE, async || {
        admin.query(terminate, &[&unfinished]).await.expect("sessions can be ended");
        let row = admin.query_one(sessions, &[&unfinished]).await.expect("sessions can be counted");
        (row.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    execute(admin, &format!("ALTER DATABASE {unfinished} RENAME TO {name}")).await;
}

async fn exists(admin: &Client, name: &str) -> bool {
    let found = admin.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).await;
    found.expect("pg_database can be read").is_some()
}

/// Drops what killed runs left, and templates of other days.
async fn sweep(admin: &Client) {
    let names = admin
        .query(
            "SELECT datname::text FROM pg_database WHERE datname LIKE $1 OR datname LIKE $2",
            &[&format!("{DATABASE_PREFIX}%"), &format!("{TEMPLATE_PREFIX}%")],
        )
        .await
        .expect("pg_database can be read");
    for row in names {
        let name: String = row.get(0);
        let is_leftover = match name.strip_prefix(DATABASE_PREFIX) {
            Some(run) => run_id::is_leftover(run),
            None => is_of_a_day_before_yesterday(&name),
        };
        if is_leftover {
            // Someone else may be sweeping too.
            let _ = admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        }
    }
}

fn is_of_a_day_before_yesterday(template: &str) -> bool {
    let day = template.split('_').find(|part| part.len() == 8 && part.bytes().all(|b| b.is_ascii_digit()));
    let kept = Clock::system().now() - Duration::from_hours(48);
    day.is_some_and(|day| day < kept.format("%Y%m%d").to_string().as_str())
}

/// A short hash of the migrations as they are on disk now.
fn migrations_hash() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../store/migrations");
    let directories = std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut files: Vec<_> = directories
        .filter_map(|entry| Some(entry.ok()?.path().join("up.sql")))
        .filter(|file| file.exists())
        .collect();
    files.sort();
    let mut context = digest::Context::new(&digest::SHA256);
    for file in files {
        context.update(file.to_string_lossy().as_bytes());
        context.update(&std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
    }
    // 40 bits; as hex of 10 characters it cannot be taken for a day's 8 digits.
    run_id::hex(&context.finish().as_ref()[..5])
}

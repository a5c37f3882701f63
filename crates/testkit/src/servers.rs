//! Which PostgreSQL and RabbitMQ the tests use.

use std::fmt;

use url::Url;

/// The URL of a PostgreSQL database whose user may create databases.
pub const DATABASE_VARIABLE: &str = "LOK_TEST_DATABASE_URL";

/// The URL of a RabbitMQ virtual host.
pub const AMQP_VARIABLE: &str = "LOK_TEST_AMQP_URL";

/// A PostgreSQL and a RabbitMQ.
#[derive(Clone)]
pub struct Servers {
    database: Url,
    amqp: String,
    shared: bool,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the passwords.
        f.debug_struct("Servers").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Servers {
    /// Those of all tests, which the environment names.
    pub fn shared() -> Self {
        Self { database: database_url(), amqp: amqp_url(), shared: true }
    }

    /// Servers that go away with the test, and everything on them.
    pub(crate) fn private(database: Url, amqp: String) -> Self {
        Self { database, amqp, shared: false }
    }

    /// The database to create others from.
    pub fn database_url(&self) -> &Url {
        &self.database
    }

    /// The broker.
    pub fn amqp_url(&self) -> &str {
        &self.amqp
    }

    /// Whether other tests use them too: then what one test made has to be removed.
    pub(crate) fn are_shared(&self) -> bool {
        self.shared
    }
}

/// The database to create others from, of the shared server.
pub fn database_url() -> Url {
    let text = variable(DATABASE_VARIABLE);
    // The URL itself is not shown: it may hold a password.
    Url::parse(&text).unwrap_or_else(|error| panic!("{DATABASE_VARIABLE} is not a URL: {error}"))
}

/// The shared broker.
pub fn amqp_url() -> String {
    variable(AMQP_VARIABLE)
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run the tests with `make test`, which starts private servers, or set \
             {DATABASE_VARIABLE} and {AMQP_VARIABLE} to servers of your own"
        )
    })
}

//! Which PostgreSQL and RabbitMQ the tests use.

use url::Url;

/// The URL of a PostgreSQL database whose user may create databases.
pub const DATABASE_VARIABLE: &str = "LOK_TEST_DATABASE_URL";

/// The URL of a RabbitMQ virtual host.
pub const AMQP_VARIABLE: &str = "LOK_TEST_AMQP_URL";

/// The database to create others from.
pub fn database_url() -> Url {
    let text = variable(DATABASE_VARIABLE);
    // The URL itself is not shown: it may hold a password.
    Url::parse(&text).unwrap_or_else(|error| panic!("{DATABASE_VARIABLE} is not a URL: {error}"))
}

/// The broker.
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

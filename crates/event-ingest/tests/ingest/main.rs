//! event-ingest as publishers and operators see it: the real binary, PostgreSQL and RabbitMQ.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bursts;
mod connections;
mod crashes;
mod duplicates;
mod http;
mod outages;
mod rejected;
mod seen;

//! Every query against a real PostgreSQL, each test with a database of its own.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod attempts;
mod deliveries;
mod events;
mod first_attempts;
mod history;
mod listener;
mod manual;
mod migrations;
mod owners;
mod partitions;
mod plans;
mod recovery;
mod reissue;
mod rotation;
mod support;
mod trouble;
mod webhooks;

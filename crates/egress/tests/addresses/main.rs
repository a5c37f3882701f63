//! Where requests go, and where they never do.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod hosts;
mod listener;
mod name_server;
mod names;
mod spellings;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use domain::network::AddressPolicy;
use egress::{Client, DnsConfig, EgressConfig};

/// More than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that asks a test's name server.
fn client(name_server: SocketAddr, addresses: AddressPolicy, change: impl FnOnce(&mut DnsConfig)) -> Client {
    let mut dns = DnsConfig { name_servers: vec![name_server], timeout: PATIENCE, ..support::dns() };
    change(&mut dns);
    let config = support::config(addresses);
    Client::new(EgressConfig { timeout: 2 * PATIENCE, connect_timeout: 2 * PATIENCE, dns, ..config }).unwrap()
}

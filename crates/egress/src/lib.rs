#![doc = include_str!("../README.md")]

mod attempt;
mod client;
mod connect;
mod connection;
mod proxy;
mod resolve;
mod tls;

pub use attempt::{Attempt, AttemptError, Outcome, Response};
pub use client::{Client, EgressConfig, EgressError};
pub use proxy::{InvalidProxy, Proxy};
pub use resolve::{DnsConfig, RESOLV_CONF};

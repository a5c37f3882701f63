#![doc = include_str!("../README.md")]

pub mod binary;
pub mod database;
pub mod event;
pub mod eventually;
pub mod fault_proxy;
pub mod http_client;
pub mod memory;
pub mod private_servers;
pub mod queues;
pub mod receiver;
pub mod servers;
pub mod stack;
pub mod token;

mod cleanup;
mod log;
mod run_id;

pub use binary::{Binary, Output, Service};
pub use database::TestDatabase;
pub use event::Event;
pub use eventually::{DEADLINE, eventually, eventually_ok};
pub use fault_proxy::FaultProxy;
pub use http_client::{Answer, ApiClient, HttpClient};
pub use memory::Memory;
pub use private_servers::{PrivateServer, PrivateServers, ServerKind};
pub use queues::TestQueues;
pub use receiver::{Receiver, Reply, Request};
pub use stack::{Stack, StackBuilder, Webhook};

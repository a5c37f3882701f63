#![doc = include_str!("../README.md")]

mod availability;
mod configure;
mod watch;

pub use availability::{Availability, Chain};
pub use configure::{ConfigureError, broker, broker_to_look_at, check, names, store, topology};
pub use watch::{schema_known, watch_broker, watch_store};

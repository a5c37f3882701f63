#![doc = include_str!("../README.md")]

mod configure;
mod watch;

pub use configure::{ConfigureError, broker, names, store, topology};
pub use watch::{schema_known, watch_broker, watch_store};

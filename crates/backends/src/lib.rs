#![doc = include_str!("../README.md")]

mod availability;
mod configure;
mod judge;
mod put_back;
mod stuck;
mod watch;

pub use availability::{Availability, Chain};
pub use configure::{
    ConfigureError, broker, broker_to_look_at, check, late, names, park_delays, store, topology,
};
pub use judge::{Judge, Judgement};
pub use put_back::{PutBack, PutBackError};
pub use stuck::{StuckCall, StuckCalls};
pub use watch::{schema_known, watch_broker, watch_store};

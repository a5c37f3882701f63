#![doc = include_str!("../README.md")]

pub mod admin;
pub mod clock;
pub mod open_files;
pub mod readiness;
pub mod run;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod values;

pub use clock::Clock;
pub use readiness::{Check, Readiness};
pub use run::{Context, ServiceInfo, run};
pub use settings::Settings;
pub use shutdown::Shutdown;

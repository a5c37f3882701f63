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

/// Small things that live shortly, made on one thread and freed on another, are most of what the services do: `malloc` of
/// glibc took a fifth of a dispatcher's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub use clock::Clock;
pub use readiness::{Check, Readiness};
pub use run::{Context, ServiceInfo, run};
pub use settings::Settings;
pub use shutdown::Shutdown;

#![doc = include_str!("../README.md")]

pub mod delivery;
pub mod fan_out;
pub mod moved;
pub mod names;
pub mod platform_event;
pub mod probe;
pub mod published;
pub mod rejected;
pub mod topology;

pub use delivery::DeliveryJob;
pub use fan_out::{FanOut, FanOutEvent};
pub use names::Names;
pub use probe::{probe, read_probe};

/// The messages as `prost` generates them.
mod proto {
    #![expect(unreachable_pub, reason = "generated from proto-schemas/, documented there")]
    include!(concat!(env!("OUT_DIR"), "/lokroom.webhooks.v1.rs"));
}

/// The content type of our protobuf messages.
pub const PROTOBUF: &str = "application/x-protobuf";

/// The content type of JSON messages.
pub const JSON: &str = "application/json";

/// A message between our own services that does not say what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not the expected protobuf message.
    #[error("not a {message}: {reason}")]
    Malformed {
        /// The message that was expected.
        message: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// A field's value is impossible.
    #[error("{message}.{field} is not valid: {reason}")]
    Field {
        /// The message.
        message: &'static str,
        /// Its field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

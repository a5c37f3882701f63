#![doc = include_str!("../README.md")]

pub mod body;
pub mod catalogue;
pub mod event;
pub mod id;
pub mod js;
pub mod limits;
pub mod network;
pub mod pace;
pub mod protocol;
pub mod redaction;
pub mod retry;
pub mod shard;
pub mod signature;
pub mod timestamp;
pub mod webhook_url;

pub use catalogue::EventType;
pub use id::{DeliveryId, EventId, PublicEventId, UserId, WebhookId};
pub use timestamp::Timestamp;

#![doc = include_str!("../README.md")]

mod backoff;
mod broker;
mod consumer;
mod error;
mod inspect;
mod link;
mod message;
mod publisher;
mod topology;

pub use backoff::Backoff;
pub use broker::{Broker, BrokerConfig, Health, Origin, check_url};
pub use consumer::{Acker, Batch, Consumer, ConsumerConfig, Delivery, Held, Received};
pub use error::{BrokerError, PublishError};
pub use inspect::{Inspector, Pulled};
pub use message::{COPY_HEADER, Headers, Message, REDELIVERED_HEADER};
pub use publisher::{Confirmed, Publisher, PublisherConfig};
pub use topology::{Queue, Topology};

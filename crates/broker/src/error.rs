//! What can go wrong with the broker, named for what it means to the caller.

use std::time::Duration;

/// The broker could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL is not an AMQP URL.
    #[error("not a URL such as amqp://user:password@host:port/vhost: {reason}")]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// The trusted certificates could not be read.
    #[error("the CA file {path} cannot be read")]
    CaFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A queue is there that this version declares otherwise. An operator has to delete it, which loses what is in it.
    #[error(
        "the queue `{queue}` was declared otherwise, by another version: let it run empty, then delete it"
    )]
    DeclaredOtherwise {
        /// The queue.
        queue: String,
        /// The broker's answer, which names the argument that differs.
        #[source]
        source: lapin::Error,
    },
    /// The channel ended while nobody used it.
    #[error("the channel has ended")]
    ChannelEnded,
    /// No answer in time.
    #[error("no answer from the broker within {0:?}")]
    Timeout(Duration),
    /// lapin's own error.
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
}

/// A message was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No queue is bound for it, even after the topology was declared again.
    #[error("no queue takes messages for exchange `{exchange}` and routing key `{routing_key}`")]
    Unroutable {
        /// The exchange.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
    /// The broker refused it: the queue is full.
    #[error("the broker refused the message for routing key `{routing_key}`: the queue is full")]
    Refused {
        /// The routing key.
        routing_key: String,
    },
    /// Not confirmed in time; it may still arrive.
    #[error("not confirmed within {0:?}")]
    Timeout(Duration),
    /// The broker connection was closed for good.
    #[error("the connection to the broker is closed")]
    Closed,
}

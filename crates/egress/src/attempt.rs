//! What an attempt gave.

use std::time::Duration;

use bytes::Bytes;
use domain::network::BlockedAddress;

/// A request that was made, or tried.
#[derive(Debug)]
pub struct Attempt {
    /// From the start to the end of the attempt.
    pub duration: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Debug)]
pub enum Outcome {
    /// A status line arrived in time.
    Responded(Response),
    /// None did.
    Failed(AttemptError),
}

/// A response, as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The body's first bytes.
    pub body: Bytes,
}

/// Why there was no response, in words for the developer whose server it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttemptError {
    /// No status line in time.
    #[error("timeout: no response within {0:?}")]
    Timeout(Duration),
    /// The connection took too long.
    #[error("timeout: no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The host name does not lead anywhere.
    #[error("DNS: {0}")]
    Dns(String),
    /// The host leads to addresses that requests may not go to.
    ///
    /// Which one is not said: the name may be one that only our own network's name servers know.
    #[error("blocked: the host leads to an address that is not public ({})", .0.range)]
    Blocked(BlockedAddress),
    /// The URL may not be requested: the rules changed since it was given.
    #[error("blocked: {0}")]
    Url(String),
    /// Nobody accepts connections.
    #[error("connection failed: {0}")]
    Connect(String),
    /// The operator's proxy did not let the request out.
    #[error("egress proxy: {0}; the request did not get to the receiver")]
    Proxy(String),
    /// The server's certificate or TLS is wrong.
    #[error("TLS: {0}")]
    Tls(String),
    /// The connection ended, or what came was not HTTP.
    #[error("no valid HTTP response: {0}")]
    Protocol(String),
}

//! What an attempt gave.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use domain::network::BlockedAddress;
use rustix::io::Errno;

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

/// Why there was no response, in words for the developer whose server it is. See [`AttemptError::is_ours`].
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
    /// The URL may not be requested: the rules changed since it was given, or the operator's proxy has rules of its own.
    #[error("blocked: {0}")]
    Url(String),
    /// Nobody accepts connections.
    #[error("connection failed: {0}")]
    Connect(String),
    /// The operator's proxy did not let the request out.
    #[error("egress proxy: {0}; the request did not get to the receiver")]
    Proxy(String),
    /// Others' names took all the time in which this one could have been looked up.
    #[error("too many names are being looked up at the moment")]
    NoTurn,
    /// The name servers that we ask cannot be asked, or there are none.
    #[error("our name servers cannot be asked: {0}")]
    NameServers(String),
    /// The process may open no more files or connections, or has no memory for them.
    #[error("no more connections can be opened: {0}")]
    Exhausted(String),
    /// The server's certificate or TLS is wrong.
    #[error("TLS: {0}")]
    Tls(String),
    /// The connection ended, or what came was not HTTP.
    #[error("no valid HTTP response: {0}")]
    Protocol(String),
}

impl AttemptError {
    /// Whether the failure is the platform's own. It tells nothing about the receiver, which was sent nothing.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Proxy(_) | Self::NoTurn | Self::NameServers(_) | Self::Exhausted(_))
    }

    /// What connecting failed for: `destination` does not take connections, or we cannot make any.
    pub(crate) fn of_connecting(error: &io::Error, destination: SocketAddr) -> Self {
        if is_exhausted(error) {
            Self::Exhausted(error.to_string())
        } else {
            Self::Connect(format!("{destination}: {error}"))
        }
    }
}

/// Whether the system refuses us another file, or memory for it.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    let number = Errno::from_io_error(error);
    number.is_some_and(|number| [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&number))
}

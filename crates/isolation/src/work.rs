//! What a stage is to the isolation of its messages.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use broker::{Confirmed, Received};
use bytes::Bytes;
use futures_util::FutureExt as _;

/// The process goes down: what was not worked off is left where it is, to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process is stopping")]
pub struct Stopping;

/// What a stage does with its messages.
pub trait Work: Send + Sync + 'static {
    /// Works messages off that were there together. When it returns a proof, everything they caused is durable. If it
    /// panics, they come again, marked as redelivered: nobody knows how far it came.
    ///
    /// # Errors
    /// The process is stopping.
    fn work_off(&self, messages: &[Received]) -> impl Future<Output = Result<Confirmed, Stopping>> + Send;

    /// Notes in the database that a message, which is about to be isolated, may be late: nobody is to miss it. May
    /// panic.
    ///
    /// # Errors
    /// The process is stopping.
    fn isolating(&self, _message: &Received) -> impl Future<Output = Result<(), Stopping>> + Send {
        std::future::ready(Ok(()))
    }

    /// The bodies of the smaller messages that a message can be replaced by; none if it is as small as it gets.
    fn parts(&self, _message: &Received) -> Vec<Bytes> {
        Vec::new()
    }

    /// Ends in the database what the message stood for: it is about to be set aside for `reason`. May panic.
    ///
    /// # Errors
    /// The process is stopping.
    fn give_up(
        &self,
        _message: &Received,
        _reason: &str,
    ) -> impl Future<Output = Result<(), Stopping>> + Send {
        std::future::ready(Ok(()))
    }
}

/// What a panic said.
#[derive(Debug)]
pub(crate) struct Panicked(pub(crate) String);

/// Runs work that may panic. What it shares with other work has to be whole after any panic: channels, and locks that
/// ignore poisoning.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|payload| Panicked(message(&*payload)))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

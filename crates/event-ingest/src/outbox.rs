//! Publishing until it is confirmed.

use broker::{Confirmed, Message, Publisher};

use crate::retry::{Retry, Stopping};

/// Publishes, again and again while the broker does not confirm. Clones share the publisher.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    publisher: Publisher,
    retry: Retry,
}

impl Outbox {
    /// An outbox in front of this publisher.
    pub(crate) fn new(publisher: Publisher, retry: Retry) -> Self {
        Self { publisher, retry }
    }

    /// Publishes a message.
    ///
    /// Cancellation: a message already sent may still arrive.
    ///
    /// # Errors
    /// The service is stopping and the broker does not confirm.
    pub(crate) async fn publish(&self, message: Message) -> Result<Confirmed, Stopping> {
        self.retry.until_answered(|| self.publisher.publish(message.clone())).await?.map_err(|_| Stopping)
    }
}

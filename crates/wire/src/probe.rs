//! A message that tells how far a queue has been worked off.
//!
//! It goes into a queue like any other and does nothing but come out: then everything that was put in before it has come
//! out too. Whoever looks for lost messages learns from it that what should have come out by now and did not is lost, and
//! not merely waiting behind others.

use bytes::Bytes;
use domain::Timestamp;

use broker::{Message, Received};

/// When the probe was put into the queue: milliseconds since 1970.
const HEADER: &str = "x-lok-probe";

/// A probe for `queue`.
pub fn probe(queue: impl Into<String>, now: Timestamp) -> Message {
    Message::to_queue(queue, Bytes::new()).header(HEADER, &now.timestamp_millis().to_string())
}

/// When a message was put into its queue, if it is a probe.
pub fn read_probe(received: &Received) -> Option<Timestamp> {
    Timestamp::from_timestamp_millis(received.headers.text(HEADER)?.parse().ok()?)
}

//! Checking messages as event-ingest will.

use std::fmt::Write as _;

use domain::event::{Circumstances, NotAccepted, Rejection, accept_json};
use ring::rand::SystemRandom;
use service::Clock;

/// Checks a message in JSON.
///
/// # Errors
/// Every place to be mended, one a line.
pub(crate) fn accepted_as_json(message: &[u8], routing_key: &str, clock: &Clock) -> anyhow::Result<()> {
    let random = SystemRandom::new();
    let circumstances =
        Circumstances { now: clock.now(), random: &random, routing_key: Some(routing_key), message_id: None };
    match accept_json(message, circumstances) {
        Ok(_) => Ok(()),
        Err(NotAccepted::Rejected(rejection)) => Err(explain(&rejection)),
        Err(error @ NotAccepted::NoRandomness(_)) => Err(error.into()),
    }
}

/// A rejection as people read it.
pub(crate) fn explain(rejection: &Rejection) -> anyhow::Error {
    let mut text = "event-ingest would reject this:".to_owned();
    for error in rejection.errors() {
        let place = if error.field.is_empty() { "the message" } else { &error.field };
        let _ = write!(text, "\n  {place}: {} ({})", error.message, error.code);
    }
    anyhow::Error::msg(text)
}

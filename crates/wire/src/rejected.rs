//! Messages as they are kept in `lokroom.events.rejected`.

use broker::Message;

use crate::Names;
use crate::names::{ERROR_CODE_HEADER, ERROR_HEADER};

/// The code of messages between our own services that nothing can be done with.
pub const UNUSABLE: &str = "unusable_message";

/// The code of messages that made the service fail that worked on them.
pub const POISON: &str = "poison";

/// Most bytes of the reason.
const MAX_REASON_BYTES: usize = 2048;

/// Sends a message there instead, with what is wrong with it: the code for programs, the reason for people.
#[must_use]
pub fn rejected(mut message: Message, names: &Names, code: &str, reason: &str) -> Message {
    message.exchange.clear();
    message.routing_key = names.rejected_queue();
    message.header(ERROR_CODE_HEADER, code).header(ERROR_HEADER, &bounded(reason))
}

fn bounded(reason: &str) -> String {
    const ELLIPSIS: char = '…';
    if reason.len() <= MAX_REASON_BYTES {
        return reason.to_owned();
    }
    let kept = &reason[..reason.floor_char_boundary(MAX_REASON_BYTES - ELLIPSIS.len_utf8())];
    format!("{kept}{ELLIPSIS}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_stays_whole_and_the_reason_is_bounded() {
        let message = Message::to_exchange("x", "booking.created", "{".into()).header("trace", "abc");
        let message = rejected(message, &Names::new("t."), POISON, &"é".repeat(5000));
        assert_eq!(
            (message.exchange.as_str(), message.routing_key.as_str()),
            ("", "t.lokroom.events.rejected")
        );
        assert_eq!((&message.body[..], message.headers.text("trace").as_deref()), (&b"{"[..], Some("abc")));
        assert_eq!(message.headers.text(ERROR_CODE_HEADER).as_deref(), Some("poison"));
        let reason = message.headers.text(ERROR_HEADER).unwrap();
        assert!(reason.len() <= MAX_REASON_BYTES && reason.ends_with('…'), "{}", reason.len());
    }
}

//! What a job means once the delivery's row is known.

use domain::retry::AttemptNumber;
use store::{DeliveryState, DeliveryStatus, WebhookState};

/// The reason recorded for a delivery whose webhook was deleted.
const DELETED: &str = "the webhook was deleted before this delivery was made";

/// The reason recorded for a delivery whose webhook was disabled.
const DISABLED: &str = "the webhook was disabled before this delivery was made";

/// What to do with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Make this attempt, to the webhook as it is at this revision.
    Attempt {
        /// The attempt's number.
        number: AttemptNumber,
        /// The webhook's revision.
        revision: i64,
    },
    /// This attempt is recorded, but what follows from it may not have been handed over: do that.
    HandOver {
        /// The attempt that was recorded last.
        recorded: AttemptNumber,
    },
    /// The webhook takes no events any more: end the delivery with this reason.
    Abandon(&'static str),
    /// Nothing: it is done, or another message stands for it.
    Nothing,
}

/// Whether the job's message was taken from its queue before and not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// For the first time.
    First,
    /// An earlier holder may have done part of the work.
    Again,
}

/// Decides what a job for attempt `wanted` means. `state` is `None` when the delivery's day was dropped.
pub(crate) fn decide(wanted: AttemptNumber, taken: Taken, state: Option<&DeliveryState>) -> Decision {
    let Some(state) = state else { return Decision::Nothing };
    if state.status != DeliveryStatus::Pending {
        return Decision::Nothing;
    }
    let revision = match state.webhook {
        WebhookState::Gone => return Decision::Abandon(DELETED),
        WebhookState::Disabled => return Decision::Abandon(DISABLED),
        WebhookState::Active { revision } => revision,
    };
    match (AttemptNumber::new(state.attempts), taken) {
        // Recorded, and the message is new: it is a copy, and the message that led to the record goes on.
        (Some(recorded), Taken::First) if recorded >= wanted => Decision::Nothing,
        (Some(recorded), Taken::Again) if recorded >= wanted => Decision::HandOver { recorded },
        // The row is the truth about how many attempts there were, also if it lost some in a fail-over.
        (Some(recorded), _) => Decision::Attempt { number: recorded.next(), revision },
        (None, _) => Decision::Attempt { number: AttemptNumber::FIRST, revision },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACTIVE: WebhookState = WebhookState::Active { revision: 7 };

    fn state(status: DeliveryStatus, attempts: u32, webhook: WebhookState) -> DeliveryState {
        DeliveryState { status, attempts, webhook, body: None }
    }

    fn number(n: u32) -> AttemptNumber {
        AttemptNumber::new(n).unwrap()
    }

    fn pending(wanted: u32, taken: Taken, attempts: u32) -> Decision {
        decide(number(wanted), taken, Some(&state(DeliveryStatus::Pending, attempts, ACTIVE)))
    }

    #[test]
    fn the_next_attempt_is_made() {
        for n in 1..4 {
            assert_eq!(pending(n, Taken::First, n - 1), Decision::Attempt { number: number(n), revision: 7 });
            assert_eq!(pending(n, Taken::Again, n - 1), Decision::Attempt { number: number(n), revision: 7 });
        }
    }

    #[test]
    fn a_copy_of_a_recorded_attempt_does_nothing_but_a_message_that_came_back_hands_over() {
        assert_eq!(pending(1, Taken::First, 1), Decision::Nothing);
        assert_eq!(pending(1, Taken::Again, 1), Decision::HandOver { recorded: number(1) });
        assert_eq!(pending(1, Taken::Again, 2), Decision::HandOver { recorded: number(2) });
    }

    #[test]
    fn a_webhook_that_takes_no_events_any_more_ends_the_delivery() {
        for (webhook, reason) in [(WebhookState::Gone, DELETED), (WebhookState::Disabled, DISABLED)] {
            let state = state(DeliveryStatus::Pending, 0, webhook);
            assert_eq!(decide(number(1), Taken::First, Some(&state)), Decision::Abandon(reason));
        }
    }

    proptest! {
        #[test]
        fn a_final_delivery_is_never_sent(
            wanted in 1_u32..10, attempts in 0_u32..10, failed: bool, again: bool, gone: bool,
        ) {
            let status = if failed { DeliveryStatus::Failed } else { DeliveryStatus::Success };
            let webhook = if gone { WebhookState::Gone } else { ACTIVE };
            let taken = if again { Taken::Again } else { Taken::First };
            let state = state(status, attempts, webhook);
            prop_assert_eq!(decide(number(wanted), taken, Some(&state)), Decision::Nothing);
        }

        #[test]
        fn an_attempt_always_has_the_number_after_the_recorded_ones(
            wanted in 1_u32..10, attempts in 0_u32..10, again: bool,
        ) {
            let taken = if again { Taken::Again } else { Taken::First };
            if let Decision::Attempt { number, .. } = pending(wanted, taken, attempts) {
                prop_assert_eq!(number.get(), attempts + 1);
                prop_assert!(attempts < wanted);
            }
        }
    }
}

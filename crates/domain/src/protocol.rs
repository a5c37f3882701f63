//! The delivery protocol's one decision: what a job means once its delivery's row is known.
//!
//! A message is a hint to look at a delivery, never the truth about it. It may be a copy, it may have been left halfway
//! by someone who crashed, and another message may have been sent in its place. The row tells.

use std::time::Duration;

use crate::retry::AttemptNumber;

/// The reason recorded for a delivery whose webhook was deleted.
pub const DELETED: &str = "the webhook was deleted before this delivery was made";

/// The reason recorded for a delivery whose webhook was disabled.
pub const DISABLED: &str = "the webhook was disabled before this delivery was made";

/// How long a look at a webhook holds: requests that start within it may still follow what was seen. Who answers that a
/// webhook was changed lets that time pass first.
pub const LOOK_HOLDS: Duration = Duration::from_millis(100);

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryStatus {
    /// Attempts are yet to be made.
    Pending,
    /// An attempt succeeded.
    Success,
    /// It will not be attempted again.
    Failed,
}

impl DeliveryStatus {
    /// The text form, as in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Success, Self::Failed].into_iter().find(|status| status.as_str() == text)
    }
}

/// A fencing token: how often a delivery's job was issued anew. Whoever has to publish a job that may exist already
/// raises the row's fence first; jobs with a lower one are void from then on, wherever they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(u32);

impl Fence {
    /// Of a delivery's first job.
    pub const FIRST: Self = Self(0);

    /// The fence after so many reissues.
    pub fn new(reissues: u32) -> Self {
        Self(reissues)
    }

    /// The number of reissues.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The fence of the next reissue.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What a job says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The attempt to be made.
    pub attempt: AttemptNumber,
    /// The row's fence when the job was issued.
    pub fence: Fence,
}

/// Whether a job's message was taken from its queue before and not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Taken {
    /// For the first time.
    First,
    /// An earlier holder may have done part of the work.
    Again,
}

/// What a webhook is at the moment of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WebhookState {
    /// It was deleted.
    Gone,
    /// It takes no events now.
    Disabled,
    /// It takes events; what is remembered of another revision is out of date.
    Active {
        /// The revision now.
        revision: i64,
    },
}

/// A delivery's row, as far as the decision needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// The delivery's status.
    pub status: DeliveryStatus,
    /// Attempts recorded.
    pub attempts: u32,
    /// How often its job was issued anew.
    pub fence: Fence,
    /// Its webhook.
    pub webhook: WebhookState,
}

/// What to do with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Make this attempt, to the webhook as it is at this revision.
    Attempt {
        /// The attempt's number.
        number: AttemptNumber,
        /// The webhook's revision.
        revision: i64,
    },
    /// This attempt is recorded, but what follows from it may not have been handed over: issue that anew.
    HandOver {
        /// The attempt that was recorded last.
        recorded: AttemptNumber,
    },
    /// The webhook takes no events any more: end the delivery with this reason.
    Abandon(&'static str),
    /// Nothing: it is done, or another message stands for it.
    Nothing,
}

/// Decides what a job means. `row` is `None` when the delivery's day was dropped.
pub fn decide(ticket: Ticket, taken: Taken, row: Option<&Row>) -> Decision {
    let Some(row) = row else { return Decision::Nothing };
    // A fence ahead of the row's: the row lost some reissues in a fail-over, and is the truth all the same.
    let is_void = ticket.fence < row.fence;
    if is_void || row.status != DeliveryStatus::Pending {
        return Decision::Nothing;
    }
    let recorded = AttemptNumber::new(row.attempts);
    // Recorded, and the message is new: it is a copy, or stood in for the request. The message that led to the record goes on.
    if taken == Taken::First && recorded.is_some_and(|recorded| recorded >= ticket.attempt) {
        return Decision::Nothing;
    }
    let revision = match row.webhook {
        WebhookState::Gone => return Decision::Abandon(DELETED),
        WebhookState::Disabled => return Decision::Abandon(DISABLED),
        WebhookState::Active { revision } => revision,
    };
    match (recorded, taken) {
        (Some(recorded), Taken::Again) if recorded >= ticket.attempt => Decision::HandOver { recorded },
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

    fn row(status: DeliveryStatus, attempts: u32, fence: u32, webhook: WebhookState) -> Row {
        Row { status, attempts, fence: Fence::new(fence), webhook }
    }

    fn ticket(attempt: u32, fence: u32) -> Ticket {
        Ticket { attempt: number(attempt), fence: Fence::new(fence) }
    }

    fn number(n: u32) -> AttemptNumber {
        AttemptNumber::new(n).unwrap()
    }

    fn pending(ticket: Ticket, taken: Taken, attempts: u32) -> Decision {
        decide(ticket, taken, Some(&row(DeliveryStatus::Pending, attempts, 0, ACTIVE)))
    }

    #[test]
    fn the_next_attempt_is_made() {
        for n in 1..4 {
            let attempt = Decision::Attempt { number: number(n), revision: 7 };
            assert_eq!(pending(ticket(n, 0), Taken::First, n - 1), attempt);
            assert_eq!(pending(ticket(n, 0), Taken::Again, n - 1), attempt);
        }
    }

    #[test]
    fn a_copy_of_a_recorded_attempt_does_nothing_but_a_message_that_came_back_hands_over() {
        assert_eq!(pending(ticket(1, 0), Taken::First, 1), Decision::Nothing);
        assert_eq!(pending(ticket(1, 0), Taken::Again, 1), Decision::HandOver { recorded: number(1) });
        assert_eq!(pending(ticket(1, 0), Taken::Again, 2), Decision::HandOver { recorded: number(2) });
    }

    #[test]
    fn what_stood_in_for_a_recorded_attempt_ends_no_delivery_whose_webhook_is_disabled_for_a_while() {
        for webhook in [WebhookState::Gone, WebhookState::Disabled] {
            let row = row(DeliveryStatus::Pending, 1, 0, webhook);
            assert_eq!(decide(ticket(1, 0), Taken::First, Some(&row)), Decision::Nothing);
        }
    }

    #[test]
    fn a_webhook_that_takes_no_events_any_more_ends_the_delivery() {
        for (webhook, reason) in [(WebhookState::Gone, DELETED), (WebhookState::Disabled, DISABLED)] {
            let row = row(DeliveryStatus::Pending, 0, 0, webhook);
            assert_eq!(decide(ticket(1, 0), Taken::First, Some(&row)), Decision::Abandon(reason));
        }
    }

    fn taken() -> impl Strategy<Value = Taken> {
        prop_oneof![Just(Taken::First), Just(Taken::Again)]
    }

    proptest! {
        #[test]
        fn a_final_delivery_is_never_sent(
            wanted in 1_u32..10, attempts in 0_u32..10, fence in 0_u32..3, of_ticket in 0_u32..3,
            failed: bool, taken in taken(), gone: bool,
        ) {
            let status = if failed { DeliveryStatus::Failed } else { DeliveryStatus::Success };
            let webhook = if gone { WebhookState::Gone } else { ACTIVE };
            let row = row(status, attempts, fence, webhook);
            prop_assert_eq!(decide(ticket(wanted, of_ticket), taken, Some(&row)), Decision::Nothing);
        }

        #[test]
        fn a_job_that_was_issued_anew_is_void(
            wanted in 1_u32..10, attempts in 0_u32..10, fence in 1_u32..9, taken in taken(), gone: bool,
        ) {
            let webhook = if gone { WebhookState::Gone } else { ACTIVE };
            let row = row(DeliveryStatus::Pending, attempts, fence, webhook);
            prop_assert_eq!(decide(ticket(wanted, fence - 1), taken, Some(&row)), Decision::Nothing);
            prop_assert_ne!(decide(ticket(attempts + 1, fence), taken, Some(&row)), Decision::Nothing);
        }

        #[test]
        fn an_attempt_always_has_the_number_after_the_recorded_ones(
            wanted in 1_u32..10, attempts in 0_u32..10, taken in taken(),
        ) {
            if let Decision::Attempt { number, .. } = pending(ticket(wanted, 0), taken, attempts) {
                prop_assert_eq!(number.get(), attempts + 1);
                prop_assert!(attempts < wanted);
            }
        }
    }
}

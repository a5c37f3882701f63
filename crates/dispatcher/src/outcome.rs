//! What a request's outcome means.

use std::time::Duration;

use domain::retry::Verdict;
use egress::{AttemptError, Outcome};

use crate::lanes::Ended;

/// What a request that took so long tells of its receiver.
pub(crate) fn ended(outcome: &Outcome, took: Duration) -> Ended {
    match outcome {
        Outcome::Responded(_) => Ended::Answered(took),
        Outcome::Failed(
            AttemptError::Blocked(_)
            | AttemptError::Url(_)
            | AttemptError::NoTurn
            | AttemptError::NameServers(_)
            | AttemptError::Exhausted(_),
        ) => Ended::NotSent,
        Outcome::Failed(error) if error.is_ours() => Ended::NotSent,
        Outcome::Failed(_) => Ended::NotAnswered(took),
    }
}

/// Whether it was delivered.
pub(crate) fn verdict(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Responded(response) => Verdict::of_status(response.status),
        Outcome::Failed(_) => Verdict::NotDelivered,
    }
}

/// Why there was no success, in words for the developer.
pub(crate) fn describe_failure(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Responded(response) => match (Verdict::of_status(response.status), response.status) {
            (Verdict::Delivered, _) => None,
            (_, 300..400) => {
                Some(format!("redirect: status {} is not followed; 2xx is expected", response.status))
            }
            (_, status) => Some(format!("status {status}: 2xx is expected")),
        },
        Outcome::Failed(error) => Some(error.to_string()),
    }
}

/// Its name in metrics.
pub(crate) fn outcome_label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Responded(response) if Verdict::of_status(response.status) == Verdict::Delivered => {
            "success"
        }
        Outcome::Responded(_) => "status",
        Outcome::Failed(error) => failure_label(error),
    }
}

/// A failure's name in metrics and logs.
pub(crate) fn failure_label(error: &AttemptError) -> &'static str {
    match error {
        AttemptError::Timeout(_) | AttemptError::ConnectTimeout(_) => "timeout",
        AttemptError::Dns(_) => "dns",
        AttemptError::Blocked(_) | AttemptError::Url(_) => "blocked",
        AttemptError::Connect(_) => "connect",
        AttemptError::Tls(_) => "tls",
        AttemptError::Protocol(_) => "protocol",
        AttemptError::Proxy(_) => "proxy",
        AttemptError::NoTurn => "no_turn",
        AttemptError::NameServers(_) => "name_servers",
        AttemptError::Exhausted(_) => "exhausted",
    }
}

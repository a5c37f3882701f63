//! What must not be.

use std::fmt;

use domain::Timestamp;

use crate::history::{Row, Statistics};
use crate::receivers::Arrival;

/// One thing that must not be, with what one needs to look for its cause in the logs.
#[derive(Debug, Clone)]
pub(crate) enum Finding {
    /// An accepted event never came to a webhook that wants it.
    Lost { webhook: usize, event: String },
    /// A delivery is pending though nothing disturbs it any more.
    StillPending { webhook: usize, event: String, row: Row },
    /// A webhook got what it does not want.
    NotWanted { arrival: Arrival },
    /// An event came to a webhook under several delivery ids.
    SeveralDeliveries { webhook: usize, event: String },
    /// What came is not in the history.
    NotInHistory { arrival: Arrival },
    /// The history says what was not so.
    Lying { webhook: usize, row: Row, what: String },
    /// The counts are not those of the rows.
    Statistics { webhook: usize, statistics: Statistics, of_rows: Statistics },
    /// A request came after a success that must have been recorded by then.
    AfterSuccess { arrival: Arrival, answered_at: Timestamp, recorded_by: Timestamp },
    /// The same attempt came again, and no fault explains it.
    UnexplainedDuplicate { arrival: Arrival, first: Timestamp },
    /// The same attempt came again, as a fault may cause it.
    Duplicate { arrival: Arrival, first: Timestamp, by: String },
    /// A request came after a success that a fault may have kept from being recorded.
    AfterUnrecordedSuccess { arrival: Arrival, answered_at: Timestamp, recorded_by: Timestamp },
    /// More repetitions than may be, explained or not.
    TooManyDuplicates { duplicates: usize, deliveries: usize },
    /// More attempts than may be were given up before they came or were answered.
    TooManyGivenUp { attempts: usize, deliveries: usize },
    /// Headers, body or signatures are not what they have to be.
    WrongRequest { arrival: Arrival, reason: String },
}

impl Finding {
    /// What it is called in counts.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost",
            Self::StillPending { .. } => "still pending",
            Self::NotWanted { .. } => "not wanted",
            Self::SeveralDeliveries { .. } => "several deliveries of one event",
            Self::NotInHistory { .. } => "not in the history",
            Self::Lying { .. } => "untrue history",
            Self::Statistics { .. } => "wrong statistics",
            Self::AfterSuccess { .. } => "request after a recorded success",
            Self::UnexplainedDuplicate { .. } => "unexplained duplicate",
            Self::Duplicate { .. } => "duplicate",
            Self::AfterUnrecordedSuccess { .. } => "request after an unrecorded success",
            Self::TooManyDuplicates { .. } => "too many duplicates",
            Self::TooManyGivenUp { .. } => "too many attempts given up",
            Self::WrongRequest { .. } => "wrong request",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name())?;
        match self {
            Self::Lost { webhook, event } | Self::SeveralDeliveries { webhook, event } => {
                write!(f, "event {event}, webhook {webhook}")
            }
            Self::StillPending { webhook, event, row } => {
                write!(f, "event {event}, webhook {webhook}, {}", Shown(row))
            }
            Self::NotWanted { arrival } | Self::NotInHistory { arrival } => write!(f, "{}", Shown(arrival)),
            Self::Lying { webhook, row, what } => write!(f, "{what}: webhook {webhook}, {}", Shown(row)),
            Self::Statistics { webhook, statistics, of_rows } => {
                write!(f, "webhook {webhook}: {statistics:?}, but the rows are {of_rows:?}")
            }
            Self::AfterSuccess { arrival, answered_at, recorded_by }
            | Self::AfterUnrecordedSuccess { arrival, answered_at, recorded_by } => write!(
                f,
                "{}, the success was answered at {}, recorded by {}",
                Shown(arrival),
                time(*answered_at),
                time(*recorded_by)
            ),
            Self::UnexplainedDuplicate { arrival, first } => {
                write!(f, "{}, the first came at {}", Shown(arrival), time(*first))
            }
            Self::Duplicate { arrival, first, by } => {
                write!(f, "{}, the first came at {}, after {by}", Shown(arrival), time(*first))
            }
            Self::TooManyDuplicates { duplicates, deliveries } => {
                write!(f, "{duplicates} of {deliveries} deliveries")
            }
            Self::TooManyGivenUp { attempts, deliveries } => {
                write!(f, "{attempts} attempts of {deliveries} deliveries")
            }
            Self::WrongRequest { arrival, reason } => write!(f, "{reason}: {}", Shown(arrival)),
        }
    }
}

struct Shown<'a, T>(&'a T);

impl fmt::Display for Shown<'_, Row> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { id, status, attempts, last_attempt, duration_ms, response_status, error, response, .. } =
            self.0;
        let last = last_attempt.map(time).unwrap_or_default();
        write!(
            f,
            "delivery {id}, {status:?} after {attempts}, last at {last} for {duration_ms:?} ms, \
             {response_status:?} {error:?} {response:?}"
        )
    }
}

impl fmt::Display for Shown<'_, Arrival> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Arrival { number, webhook, at, event, delivery, attempt, answer, .. } = self.0;
        let at = time(*at);
        write!(
            f,
            "event {event}, webhook {webhook}, delivery {delivery}, attempt {attempt}, arrival {number} at {at}, \
             answered {answer:?}"
        )
    }
}

fn time(at: Timestamp) -> String {
    at.format("%H:%M:%S%.3f").to_string()
}

//! What is counted of the events that come.

use domain::event::RejectionCode;
use metrics::counter;

/// Where an event came from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    Amqp,
    Http,
}

/// What became of one that was not rejected.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Accepted,
    Duplicate,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Http => "http",
        }
    }

    /// Counts an event that is durable.
    pub(crate) fn count(self, outcome: Outcome) {
        self.add(match outcome {
            Outcome::Accepted => "accepted",
            Outcome::Duplicate => "duplicate",
        });
    }

    /// Counts an event that is not acceptable.
    pub(crate) fn count_rejected(self, code: RejectionCode) {
        self.add("rejected");
        counter!("ingest_rejected_total", "code" => code.as_str()).increment(1);
    }

    fn add(self, outcome: &'static str) {
        counter!("ingest_events_total", "source" => self.as_str(), "outcome" => outcome).increment(1);
    }
}

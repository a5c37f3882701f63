//! What a receiver answers.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

/// One answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) gate: Option<Gate>,
    pub(super) delay: Duration,
    pub(super) action: Action,
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    Answer { status: u16, headers: Vec<(String, String)>, body: Bytes },
    Raw(Bytes),
    Hang,
    Close,
    Reset,
}

impl Reply {
    /// This status and no body.
    pub fn status(status: u16) -> Self {
        Self::of(Action::Answer { status, headers: Vec::new(), body: Bytes::new() })
    }

    /// A redirect to another URL.
    pub fn redirect(location: &str) -> Self {
        Self::status(302).header("location", location)
    }

    /// 200 with a JSON document.
    pub fn json(body: &serde_json::Value) -> Self {
        Self::status(200).header("content-type", "application/json").body(body.to_string())
    }

    /// No answer at all; the connection stays open.
    pub fn hang() -> Self {
        Self::of(Action::Hang)
    }

    /// No answer; the connection is closed.
    pub fn close() -> Self {
        Self::of(Action::Close)
    }

    /// No answer; the connection is reset (RST), as by a process that crashed.
    pub fn reset() -> Self {
        Self::of(Action::Reset)
    }

    /// Exactly these bytes, then the connection is closed.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::of(Action::Raw(bytes.into()))
    }

    fn of(action: Action) -> Self {
        Self { gate: None, delay: Duration::ZERO, action }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Action::Answer { headers, .. } = &mut self.action {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        if let Action::Answer { body, .. } = &mut self.action {
            *body = bytes.into();
        }
        self
    }

    /// This long after the request came: a receiver that takes its time.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Not before the gate is opened.
    #[must_use]
    pub fn when_open(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }
}

/// Holds answers back until the test lets them go. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Gate {
    /// Lets all answers go, those that wait and those that come.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn opened(&self) {
        // The sender is in `self`: this ends only with an open gate.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

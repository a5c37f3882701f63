//! How far it is: a bar on a terminal, a line a second elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

/// The least time between two lines where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(1);

/// The progress of a run over all webhooks, on standard error.
pub(super) struct Progress {
    bar: ProgressBar,
    total: u64,
    told: Instant,
}

impl Progress {
    /// Nothing is done yet of `total`.
    pub(super) fn new(total: u64) -> Self {
        // Draws nothing where standard error is not a terminal.
        let bar = ProgressBar::new(total);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos} of {len} webhooks, {msg} [{elapsed}, {eta} left]")
        {
            bar.set_style(style);
        }
        bar.set_message("0 secrets encrypted anew");
        Self { bar, total, told: Instant::now() }
    }

    /// So many webhooks were looked at, so many secrets encrypted anew.
    pub(super) fn advance(&mut self, webhooks: u64, secrets: u64) {
        let message = format!("{secrets} secrets encrypted anew");
        // Webhooks that were created meanwhile are looked at too.
        self.total = self.total.max(webhooks);
        self.bar.set_length(self.total);
        self.bar.set_position(webhooks);
        if self.bar.is_hidden() && self.told.elapsed() >= INTERVAL {
            self.told = Instant::now();
            self.tell(&format!("{webhooks} of {} webhooks, {message}", self.total));
        }
        self.bar.set_message(message);
    }

    /// A line of its own.
    #[expect(clippy::print_stderr, reason = "a person may be waiting")]
    pub(super) fn tell(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// No more is drawn.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

//! A stage's troublesome messages, through real queues.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod deaths;
mod outsiders;
mod panics;
mod support;

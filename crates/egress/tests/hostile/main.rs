//! Receivers that mean harm. Whatever one does, the attempt at it ends in time with a true reason, reads a bounded number
//! of bytes, and costs its connection; a request to another receiver that is under way meanwhile is not touched.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

#[path = "../support/mod.rs"]
mod support;

mod http1;
mod http2;
mod siege;
mod tls;

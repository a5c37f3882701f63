//! Where requests go, and where they never do.

mod hosts;
mod listener;
mod name_server;
mod names;
mod spellings;
#[path = "../support/mod.rs"]
mod support;

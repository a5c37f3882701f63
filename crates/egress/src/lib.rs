#![doc = include_str!("../README.md")]

mod attempt;
mod client;
mod connect;
mod resolve;

pub use attempt::{Attempt, AttemptError, Outcome, Response};
pub use client::{Client, EgressConfig, EgressError};

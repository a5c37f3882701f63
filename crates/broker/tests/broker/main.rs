//! The broker's clients against a real RabbitMQ.
#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

mod consume;
mod inspect;
mod places;
mod proxy;
mod publish;
mod recover;
mod support;

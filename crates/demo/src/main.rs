#![doc = include_str!("../README.md")]

mod account;
mod endpoint;
mod expectations;
mod platform;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use domain::EventType;
use testkit::{Receiver, Reply};

use crate::account::Account;
use crate::endpoint::{Endpoint, Language};
use crate::expectations::Expectations;
use crate::platform::Platform;

/// Whom the events concern.
const HOST: &str = "user_abc123";

/// Who has a webhook for everything, and whom nothing concerns.
const STRANGER: &str = "user_stranger";

/// A secret that was copied wrongly.
const WRONG_SECRET: &str = "whsec_d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmc=";

#[expect(clippy::print_stderr, reason = "a command line speaks to its user")]
fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("demo: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(demo()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was as it has to be.
async fn demo() -> anyhow::Result<bool> {
    let platform = Platform::from_environment().await?;

    say("\n== Webhooks, created over the API ==");
    let mut account = Account::new(&platform);
    let mut endpoints = Vec::new();
    for language in Language::ALL {
        let port = endpoint::free_port()?;
        let webhook = account.webhook(language.name(), HOST, &endpoint::url(port), EventType::ALL).await?;
        endpoints.push(Endpoint::start(language.name(), language, port, &webhook.secret).await?);
    }
    let port = endpoint::free_port()?;
    account.webhook("wrong-secret", HOST, &endpoint::url(port), &[EventType::ReviewCreated]).await?;
    let mistaken = Endpoint::start("wrong-secret", Language::Node, port, WRONG_SECRET).await?;

    let flaky = Receiver::start().await;
    flaky.answer_next(Reply::status(500).body("Internal error"));
    flaky.answer_next(Reply::status(500).body("Internal error"));
    account.webhook("flaky", HOST, &flaky.url("/hook"), &[EventType::BookingCreated]).await?;

    let broken = Receiver::start().await;
    broken.answer(Reply::status(503).body("Service unavailable"));
    account.webhook("broken", HOST, &broken.url("/hook"), &[EventType::PaymentFailed]).await?;

    let stranger = Receiver::start().await;
    account.webhook("stranger", STRANGER, &stranger.url("/hook"), EventType::ALL).await?;

    say("\n== One event of each type, published over AMQP ==");
    for event_type in EventType::ALL {
        account.publish(*event_type, HOST).await?;
    }

    say("\n== Every attempt, as the delivery history tells it ==");
    say(&platform.schedule());
    account.follow(Duration::from_secs(45)).await?;

    say("\n== Deliveries ==");
    say(&account.table());

    say("== What has to be so ==");
    let mut expectations = Expectations::default();
    for endpoint in &endpoints {
        expectations.took_everything(endpoint, &account);
    }
    expectations.refused_every_signature(&mistaken, &account);
    expectations.succeeded_at_the_third_attempt(&flaky, &account, &platform.retry_delays());
    expectations.failed_for_good(&broken, &account);
    expectations.heard_nothing(&stranger, &account);
    let nothing_rejected = platform.rejected().await.context("the rejected queue cannot be looked at")?;
    expectations.check("no event was rejected", nothing_rejected == 0, || format!("{nothing_rejected} were"));
    Ok(expectations.all_held())
}

#[expect(clippy::print_stdout, reason = "the account is the program's output")]
fn say(text: &str) {
    println!("{text}");
}

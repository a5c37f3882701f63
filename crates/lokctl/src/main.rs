//! `lokctl`: operations and development from a terminal.

mod check;
mod cli;
mod connect;
mod environment;
mod input;
mod keys;
mod migrate;
mod publish;
mod recover;
mod rejected;
mod token;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use service::Clock;

use crate::cli::{Cli, Command};
use crate::environment::NotConfigured;

/// Exit code for wrong configuration or arguments, as of the services.
const WRONG_CONFIGURATION: u8 = 2;

#[expect(clippy::print_stderr, reason = "a command line speaks to its user")]
fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lokctl: {error:#}");
            match error.downcast_ref::<NotConfigured>() {
                Some(_) => ExitCode::from(WRONG_CONFIGURATION),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let environment = environment::read()?;
    let settings = |required: &[&str]| environment.settings(required);
    let clock = Clock::system();
    // Fails only where a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("the runtime does not start")?;
    match cli.command {
        Command::Token(arguments) => token::run(&arguments, &settings(&["auth.hs256_secret"])?, &clock),
        Command::Migrate(arguments) => {
            runtime.block_on(migrate::run(&arguments, &settings(&["database.url"])?, &clock))
        }
        Command::Publish(arguments) => {
            runtime.block_on(publish::run(arguments, &settings(&["amqp.url"])?, &clock))
        }
        Command::Recover(arguments) => {
            let settings = settings(&["database.url", "amqp.url"])?;
            runtime.block_on(recover::run(&arguments, &settings, &clock))
        }
        Command::Keys(command) => runtime.block_on(keys::run(command, &environment, &clock)),
        Command::Rejected(command) => {
            runtime.block_on(rejected::run(command, &settings(&["amqp.url"])?, &clock))
        }
    }
}

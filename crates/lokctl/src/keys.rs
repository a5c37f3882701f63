//! `lokctl keys`: what encrypts webhooks' secrets.

mod progress;
mod rotate;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context as _;
use ring::rand::SystemRandom;
use service::{Clock, Settings};
use store::{KeyUse, SecretKeys};

use crate::cli::{GenerateKey, Keys};
use crate::environment::{Environment, NotConfigured};

/// Runs one of the commands.
pub(crate) async fn run(command: Keys, environment: &Environment, clock: &Clock) -> anyhow::Result<()> {
    match command {
        Keys::Generate(arguments) => generate(&arguments, clock),
        Keys::List => list(&environment.settings(&["database.url"])?).await,
        Keys::Rotate(arguments) => {
            let settings = environment.settings(&["database.url", "secrets.keys"])?;
            rotate::run(&arguments, &settings).await
        }
    }
}

/// Prints a new entry of `secrets.keys`.
#[expect(clippy::print_stdout, reason = "the key is the command's output")]
fn generate(arguments: &GenerateKey, clock: &Clock) -> anyhow::Result<()> {
    let id = match &arguments.id {
        Some(id) => id.clone(),
        None => format!("k{}", clock.now().format("%Y%m%d")),
    };
    let entry = SecretKeys::generate_entry(&id, &SystemRandom::new())?;
    let entry = entry.context("--id: expected 1 to 32 letters, digits, `.`, `_` or `-`")?;
    println!("{}", entry.as_str());
    Ok(())
}

/// Tells how many secrets each key encrypts.
#[expect(clippy::print_stdout, reason = "the table is the command's output")]
async fn list(settings: &Settings) -> anyhow::Result<()> {
    let store = backends::store(settings, "lokctl").map_err(NotConfigured::from)?;
    let uses = store.key_uses().await.context("the database of database.url was not asked")?;
    print!("{}", table(&configured(settings)?, &uses));
    Ok(())
}

/// The ids of the configured keys; the first encrypts.
fn configured(settings: &Settings) -> Result<Vec<String>, NotConfigured> {
    let Some(keys) = &settings.secrets.keys else { return Ok(Vec::new()) };
    let keys = SecretKeys::parse(keys.expose()).map_err(backends::ConfigureError::from)?;
    Ok(keys.ids().map(str::to_owned).collect())
}

/// One line a key: those that are configured, in their order, then those that are only used.
fn table(configured: &[String], uses: &[KeyUse]) -> String {
    let mut by_id: BTreeMap<&str, &KeyUse> = uses.iter().map(|used| (used.key_id.as_str(), used)).collect();
    let mut lines = Vec::new();
    for (index, id) in configured.iter().enumerate() {
        let found = by_id.remove(id.as_str());
        let state = match (index, found) {
            (0, _) => "encrypts",
            (_, Some(_)) => "still needed",
            (_, None) => "not used",
        };
        lines.push((id.as_str(), found, state));
    }
    lines.extend(by_id.into_iter().map(|(id, found)| (id, Some(found), "not in secrets.keys")));

    let width = lines.iter().map(|(id, ..)| id.len()).max().unwrap_or(0).max("KEY".len());
    let mut text = format!("{:width$}  {:>9}  {:>9}  STATE\n", "KEY", "CURRENT", "PREVIOUS");
    for (id, found, state) in lines {
        let (current, previous) = found.map_or((0, 0), |used| (used.current(), used.previous()));
        let _ = writeln!(text, "{id:width$}  {current:>9}  {previous:>9}  {state}");
    }
    text
}

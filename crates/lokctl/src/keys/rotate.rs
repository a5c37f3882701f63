//! `lokctl keys rotate`.

use std::time::Duration;

use anyhow::{Context as _, bail};
use service::Settings;
use store::{KeyUse, Store, StoreError, Unreadable};
use tokio::time::{Instant, sleep};

use crate::cli::Rotate;
use crate::environment::NotConfigured;
use crate::keys::configured;
use crate::keys::progress::Progress;

/// Most secrets that are named one by one.
const NAMED: usize = 100;

/// The longest pause between two batches.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a run did.
#[derive(Default)]
struct Done {
    webhooks: u64,
    secrets: u64,
    unreadable: usize,
}

/// Encrypts every secret anew that is not under the first key.
#[expect(clippy::print_stdout, reason = "what was done is the command's output")]
pub(crate) async fn run(arguments: &Rotate, settings: &Settings) -> anyhow::Result<()> {
    let store = backends::store(settings, "lokctl").map_err(NotConfigured::from)?;
    let first = configured(settings)?.into_iter().next().context("secrets.keys has no key")?;
    let uses = store.key_uses().await.context("the database of database.url was not asked")?;
    let mut progress = Progress::new(uses.iter().map(KeyUse::current).sum());
    let done = all(&store, arguments.batch, &mut progress).await;
    progress.end();
    let done = done.context("not everything was encrypted anew; run it again for the rest")?;

    println!(
        "encrypted anew under `{first}`: {} secrets of {} webhooks looked at",
        done.secrets, done.webhooks
    );
    if done.unreadable > NAMED {
        progress.tell(&format!("… and {} more", done.unreadable - NAMED));
    }
    if done.unreadable > 0 {
        bail!("{} secrets cannot be decrypted and were left as they are", done.unreadable);
    }
    let others = under_other_keys(&store, &first).await?;
    if others > 0 {
        bail!(
            "{others} secrets are under another key still, because they were written meanwhile: roll out `{first}` as the \
             first key everywhere, then run it again"
        );
    }
    Ok(())
}

/// One batch after the other. Each is followed by a pause as long as it took: whatever the load, at most half of one
/// connection's time is asked of the database.
async fn all(store: &Store, batch: u32, progress: &mut Progress) -> Result<Done, StoreError> {
    let (mut done, mut last) = (Done::default(), None);
    loop {
        let began = Instant::now();
        let step = store.encrypt_anew(last, batch).await?;
        if step.last.is_none() {
            return Ok(done);
        }
        last = step.last;
        for unreadable in step.unreadable.iter().take(NAMED.saturating_sub(done.unreadable)) {
            progress.tell(&named(unreadable));
        }
        done.webhooks += step.webhooks;
        done.secrets += step.secrets;
        done.unreadable += step.unreadable.len();
        progress.advance(done.webhooks, done.secrets);
        sleep(began.elapsed().min(LONGEST_PAUSE)).await;
    }
}

fn named(Unreadable { webhook, which, reason }: &Unreadable) -> String {
    format!("{webhook}: its {which} secret cannot be decrypted: {reason}")
}

async fn under_other_keys(store: &Store, first: &str) -> anyhow::Result<u64> {
    let uses = store.key_uses().await.context("what is left was not counted")?;
    let others = uses.iter().filter(|used| used.key_id != first);
    Ok(others.map(|used| used.current() + used.previous()).sum())
}

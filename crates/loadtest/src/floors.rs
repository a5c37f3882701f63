//! What this machine can do with the platform's parts and nothing else: what every scenario is compared with.

mod bare;
mod chain;
mod grouped;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use domain::signature::WebhookSecret;
use ring::rand::SystemRandom;

use crate::outcome::{Outcome, Unit};
use crate::poster::Poster;
use crate::processes;
use crate::receiver::{Answer, Receiver, Speaks};
use crate::size::Size;
use crate::stats::{Latency, per_second};
use crate::tally::Tally;
use crate::tls::Protocol;

pub(crate) use chain::Chain;

/// Webhooks that the floors send to.
const WEBHOOKS: usize = 20;

/// Connections to the receiver: what the dispatcher has for so many webhooks.
const CONNECTIONS: usize = 640;

/// Events a second whose latency is measured.
const RATE: u32 = 200;

/// A floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Floor {
    /// Signed POSTs, nothing else.
    Bare,
    /// A naive chain with so many quorum queues.
    Chain(u32),
}

impl Floor {
    /// Its name among the scenarios.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Bare => "floor-bare".to_owned(),
            Self::Chain(1) => "floor-1-hop".to_owned(),
            Self::Chain(hops) => format!("floor-{hops}-hops"),
        }
    }

    /// What it does.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Bare => "signed POSTs over kept connections, nothing else",
            Self::Chain(_) => {
                "a naive chain of quorum queues: a row for each, confirmed publishes, a signed POST at the end"
            }
        }
    }

    /// Measures it: a burst, and the latency at a steady rate.
    pub(crate) async fn measure(self, size: Size) -> anyhow::Result<Outcome> {
        let (burst, warm_up) = match self {
            Self::Bare => (size.events(200_000), 2000),
            Self::Chain(_) => (size.events(60_000), 2000),
        };
        let seconds = size.seconds(15);
        let steady = (RATE * seconds) as usize;
        let tally = Arc::new(Tally::new(warm_up + burst + steady, 1, WEBHOOKS));
        let speaks = Speaks { tls: None, protocol: Protocol::Http1 };
        let receiver = Receiver::start(tally.clone(), speaks).await?;
        let random = SystemRandom::new();
        let secrets = (0..WEBHOOKS).map(|_| Ok(WebhookSecret::generate(&random)?.expose().to_owned()));
        let secrets = secrets.collect::<anyhow::Result<Vec<_>>>()?;
        receiver.set_hooks(&secrets, |_| Answer::Well)?;
        let poster = Arc::new(Poster::connect(CONNECTIONS, &receiver, &secrets).await?);

        let (burst, steady) = (warm_up..warm_up + burst, warm_up + burst..warm_up + burst + steady);
        let interval = Duration::from_secs(1) / RATE;
        let mut outcome = Outcome::default();
        let usage = || {
            let own = processes::usage(std::process::id()).context("/proc cannot be read")?;
            anyhow::Ok(BTreeMap::from([("loadtest".to_owned(), own)]))
        };
        let (before, after) = match self {
            Self::Bare => {
                bare::burst(&poster, &tally, 0..warm_up, CONNECTIONS).await?;
                let before = usage()?;
                bare::burst(&poster, &tally, burst.clone(), CONNECTIONS).await?;
                let after = usage()?;
                bare::steady(&poster, &tally, steady.clone(), interval).await?;
                (before, after)
            }
            Self::Chain(hops) => {
                let chain = Chain::start(hops, poster, tally.clone()).await?;
                chain.burst(0..warm_up).await?;
                let before = usage()?;
                chain.burst(burst.clone()).await?;
                let after = usage()?;
                chain.steady(steady.clone(), interval).await?;
                chain.end().await?;
                (before, after)
            }
        };
        let counts = tally.counts(burst.clone());
        outcome.set_usage(&before, &after, counts.received);
        outcome.set(
            "deliveries_per_second",
            per_second(counts.received, tally.span(burst)?),
            Unit::PerSecond,
        );
        outcome.count("burst", counts);
        outcome.count("steady", tally.counts(steady.clone()));
        let latency =
            Latency::of(tally.latencies(steady)).context("nothing was received at a steady rate")?;
        outcome.set_latency("at_200_", latency);
        outcome.invalid_requests = tally.invalid();
        Ok(outcome)
    }
}

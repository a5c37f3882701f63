//! What this machine can do with the platform's parts and nothing else: what every scenario is compared with.

mod bare;
mod chain;
mod grouped;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use domain::signature::WebhookSecret;
use ring::rand::SystemRandom;

use crate::load::padding;
use crate::outcome::{Outcome, Unit};
use crate::platform::PHASE_LIMIT;
use crate::poster::Poster;
use crate::processes;
use crate::receiver::{Answer, Receiver, Speaks};
use crate::size::Size;
use crate::stats::{Latency, per_second};
use crate::tally::Tally;
use crate::tls::Protocol;

use bare::Bare;
use chain::Chain;

/// Webhooks that the floors send to.
const WEBHOOKS: usize = 20;

/// Connections to the receiver: what the dispatcher has for so many webhooks.
const CONNECTIONS: usize = 640;

/// Events before anything is measured.
const WARM_UP: usize = 2000;

/// The rate whose latency every run measures, in events a second.
const USUAL_RATE: u32 = 200;

/// A naive chain of so many quorum queues with rows written on the way; without any, signed POSTs and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Floor {
    hops: u32,
    /// Bytes of an event's data; 0 is about 350.
    data_bytes: usize,
    /// Events of a burst.
    events: usize,
    /// Events a second whose latencies are measured too.
    rates: &'static [u32],
}

impl Floor {
    pub(crate) const BARE: Self = Self { hops: 0, data_bytes: 0, events: 200_000, rates: &[USUAL_RATE] };
    pub(crate) const ONE_HOP: Self = Self { hops: 1, rates: &[USUAL_RATE], ..Self::TWO_HOPS };
    pub(crate) const TWO_HOPS: Self =
        Self { hops: 2, data_bytes: 0, events: 60_000, rates: &[50, USUAL_RATE, 1000] };

    /// The same with larger events, throughput only.
    pub(crate) const fn data(self, data_bytes: usize, events: usize) -> Self {
        Self { data_bytes, events, rates: &[], ..self }
    }

    /// Its name among the scenarios.
    pub(crate) fn name(self) -> String {
        let hops = match self.hops {
            0 => "bare".to_owned(),
            1 => "1-hop".to_owned(),
            hops => format!("{hops}-hops"),
        };
        match self.data_bytes {
            0 => format!("floor-{hops}"),
            bytes => format!("floor-{hops}-{}k", bytes / 1024),
        }
    }

    /// What a figure is called that is compared with it.
    pub(crate) fn over(self) -> &'static str {
        match self.hops {
            0 => "over_bare",
            1 => "over_1_hop",
            _ => "over_2_hops",
        }
    }

    /// What it does.
    pub(crate) fn what(self) -> &'static str {
        match self.hops {
            0 => "signed POSTs over kept connections, nothing else",
            _ => {
                "a naive chain of quorum queues: a row for each, confirmed publishes, a signed POST at the end"
            }
        }
    }

    /// Measures it: a burst, and the latency at steady rates.
    pub(crate) async fn measure(self, size: Size) -> anyhow::Result<Outcome> {
        let burst = size.events(self.events);
        let is_measured = |rate: &&u32| size != Size::Short || **rate == USUAL_RATE;
        let rates: Vec<u32> = self.rates.iter().filter(is_measured).copied().collect();
        let seconds = size.seconds(10);
        let warm_up = WARM_UP.min(burst);
        let steady: u32 = rates.iter().map(|rate| rate * seconds).sum();
        let tally = Arc::new(Tally::new(warm_up + burst + steady as usize, 1, WEBHOOKS));
        let speaks = Speaks { tls: None, protocol: Protocol::Http1 };
        let receiver = Receiver::start(tally.clone(), speaks).await?;
        let random = SystemRandom::new();
        let secrets = (0..WEBHOOKS).map(|_| Ok(WebhookSecret::generate(&random)?.expose().to_owned()));
        let secrets = secrets.collect::<anyhow::Result<Vec<_>>>()?;
        receiver.set_hooks(&secrets, |_| Answer::Well)?;
        let poster = Arc::new(Poster::connect(CONNECTIONS, &receiver, &secrets).await?);
        let running = Running::start(self, poster, tally.clone()).await?;

        let mut outcome = Outcome::default();
        let usages = || processes::usages(BTreeMap::new());
        running.burst(0..warm_up).await?;
        let (before, events) = (usages(), warm_up..warm_up + burst);
        running.burst(events.clone()).await?;
        let counts = tally.counts(events.clone());
        outcome.set_usage(&before, &usages(), counts.received);
        let rate = per_second(counts.received, tally.span(events.clone())?);
        outcome.set("deliveries_per_second", rate, Unit::PerSecond);
        outcome.count("burst", counts);
        let mut next = events.end;
        for rate in rates {
            let events = next..next + (rate * seconds) as usize;
            next = events.end;
            let before = usages();
            running.steady(events.clone(), Duration::from_secs(1) / rate).await?;
            let mut used = Outcome::default();
            used.set_usage(&before, &usages(), events.len());
            for (name, figure) in used.figures.iter().filter(|(name, _)| name.starts_with("cpu_")) {
                outcome.set(&format!("at_{rate}_{name}"), figure.value, figure.unit);
            }
            outcome.count(&format!("at {rate}/s"), tally.counts(events.clone()));
            let latency = Latency::of(tally.latencies(events)).context("nothing was received")?;
            outcome.set_latency(&format!("at_{rate}_"), latency);
        }
        running.end().await?;
        outcome.invalid_requests = tally.invalid();
        Ok(outcome)
    }
}

/// A floor that runs.
enum Running {
    Bare(Bare),
    Chain(Box<Chain>, Arc<Tally>),
}

impl Running {
    async fn start(floor: Floor, poster: Arc<Poster>, tally: Arc<Tally>) -> anyhow::Result<Self> {
        let padding = padding(floor.data_bytes);
        Ok(match floor.hops {
            0 => Self::Bare(Bare::new(poster, tally, &padding)),
            hops => {
                let chain = Chain::start(hops, poster, tally.clone(), padding).await?;
                Self::Chain(Box::new(chain), tally)
            }
        })
    }

    /// As fast as it goes, to the last receipt.
    async fn burst(&self, events: Range<usize>) -> anyhow::Result<()> {
        match self {
            Self::Bare(bare) => bare.burst(events, CONNECTIONS).await,
            Self::Chain(chain, tally) => {
                chain.burst(events.clone()).await?;
                received(tally, events).await
            }
        }
    }

    /// One event every `interval`, however long the earlier ones take, to the last receipt.
    async fn steady(&self, events: Range<usize>, interval: Duration) -> anyhow::Result<()> {
        match self {
            Self::Bare(bare) => bare.steady(events, interval).await,
            Self::Chain(chain, tally) => {
                chain.steady(events.clone(), interval).await?;
                received(tally, events).await
            }
        }
    }

    async fn end(self) -> anyhow::Result<()> {
        match self {
            Self::Bare(_) => Ok(()),
            Self::Chain(chain, _) => chain.end().await,
        }
    }
}

async fn received(tally: &Tally, events: Range<usize>) -> anyhow::Result<()> {
    let counts = tally.wait(events, PHASE_LIMIT).await;
    ensure!(counts.missing == 0, "the chain lost {} of {}", counts.missing, counts.expected);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_floor_has_a_name_of_its_own() {
        let large = Floor::TWO_HOPS.data(4096, 1);
        let names = [Floor::BARE, Floor::ONE_HOP, Floor::TWO_HOPS, large].map(Floor::name);
        assert_eq!(names, ["floor-bare", "floor-1-hop", "floor-2-hops", "floor-2-hops-4k"]);
    }
}

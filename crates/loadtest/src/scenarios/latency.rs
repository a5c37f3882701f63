//! From publish to receipt at a steady rate.

use std::time::Duration;

use anyhow::Context as _;

use crate::floors::Floor;
use crate::outcome::{Outcome, Unit};
use crate::platform::{Needs, PHASE_LIMIT, Platform};
use crate::results::Measured;
use crate::series;
use crate::size::Size;
use crate::stats::{Latency, millis};

/// Users, with a webhook each.
const USERS: usize = 20;

/// Events before anything is measured.
const WARM_UP: usize = 1000;

/// One event every so often, however long the others take.
pub(crate) async fn measure(size: Size, rate: u32, measured: &Measured) -> anyhow::Result<Outcome> {
    let events = (rate * size.seconds(15)) as usize;
    let platform = Platform::start(&Needs::new(WARM_UP + events, 1, USERS)).await?;
    platform.warm_up(0..WARM_UP).await?;
    let events = WARM_UP..WARM_UP + events;
    let mut outcome = Outcome::default();
    let (before, sampler) = (platform.usages(), platform.sampler());
    let interval = Duration::from_secs(1) / rate;
    let lag = platform.load.steady(events.clone(), interval, platform.in_turn()).await?;
    let counts = platform.tally.wait(events.clone(), PHASE_LIMIT).await;
    if counts.missing == 0 {
        platform.recorded(WARM_UP + counts.expected).await;
    }
    outcome.set_usage(&before, &platform.usages(), counts.received);
    outcome.series.extend(sampler.stop().await?);
    outcome.series.extend(series::of_receipts(&platform.tally, events.clone(), ""));
    let latency = Latency::of(platform.tally.latencies(events)).context("nothing was received")?;
    outcome.set_latency("", latency);
    outcome.set("generator_lag_ms", millis(lag), Unit::Milliseconds);
    outcome.count("steady", counts);
    for (name, ours) in [("p50", latency.p50), ("p99", latency.p99)] {
        if let Some(floor) = measured.get(&Floor::TWO_HOPS.name(), &format!("at_{rate}_{name}_ms")) {
            outcome.set(&format!("{name}_over_2_hops"), ours / floor, Unit::TimesAsMuch);
        }
    }
    platform.end(&mut outcome).await;
    Ok(outcome)
}

//! Deliveries a second.

use std::time::Duration;

use anyhow::ensure;

use crate::cpus::Dispatchers;
use crate::floors::Floor;
use crate::outcome::{Outcome, Unit};
use crate::platform::{Needs, PHASE_LIMIT, Platform};
use crate::results::Measured;
use crate::size::Size;
use crate::stats::per_second;
use crate::tls::Protocol;

/// Events before anything is measured.
const WARM_UP: usize = 1000;

/// Events published as fast as it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Burst {
    events: usize,
    fan_out: usize,
    users: usize,
    dispatchers: Dispatchers,
    data_bytes: usize,
    tls: Option<Protocol>,
}

impl Burst {
    /// Events to users with `fan_out` webhooks each, in turn.
    pub(crate) const fn new(events: usize, fan_out: usize, users: usize) -> Self {
        Self { events, fan_out, users, dispatchers: Dispatchers::Anywhere(1), data_bytes: 0, tls: None }
    }

    pub(crate) const fn dispatchers(self, dispatchers: Dispatchers) -> Self {
        Self { dispatchers, ..self }
    }

    pub(crate) const fn data(self, data_bytes: usize) -> Self {
        Self { data_bytes, ..self }
    }

    pub(crate) const fn tls(self, protocol: Protocol) -> Self {
        Self { tls: Some(protocol), ..self }
    }

    pub(crate) async fn measure(
        self,
        size: Size,
        floors: &[Floor],
        measured: &Measured,
    ) -> anyhow::Result<Outcome> {
        let events = size.events(self.events);
        let warm_up = WARM_UP.min(events / 2);
        let needs = Needs {
            dispatchers: self.dispatchers,
            data_bytes: self.data_bytes,
            tls: self.tls,
            ..Needs::new(warm_up + events, self.fan_out, self.users)
        };
        let platform = Platform::start(&needs).await?;
        platform.warm_up(0..warm_up).await?;
        let mut outcome = Outcome::default();
        let burst = warm_up..warm_up + events;
        let in_turn = platform.in_turn();
        let warmed = warm_up * self.fan_out;
        let counts = platform.measure_burst(&mut outcome, burst.clone(), in_turn, warmed).await?;
        let rate = per_second(counts.received, platform.tally.span(burst)?);
        outcome.set("deliveries_per_second", rate, Unit::PerSecond);
        outcome.count("burst", counts);
        for floor in floors {
            if let Some(of_floor) = measured.get(&floor.name(), "deliveries_per_second") {
                outcome.set(floor.over(), rate / of_floor, Unit::TimesAsFast);
            }
        }
        if let Some(plain) = measured.get("fan-out-1", "deliveries_per_second") {
            outcome.set("over_fan_out_1", rate / plain, Unit::TimesAsFast);
        }
        if self.dispatchers == Dispatchers::OnHalves(2)
            && let Some(of_one) = measured.get("pinned-1", "deliveries_per_second")
        {
            outcome.set("over_pinned_1", rate / of_one, Unit::TimesAsFast);
        }
        platform.end(&mut outcome).await;
        Ok(outcome)
    }
}

/// Most events concern nobody who listens.
pub(crate) async fn many_users(size: Size) -> anyhow::Result<Outcome> {
    /// Users with a webhook, of so many more without.
    const SUBSCRIBED: usize = 20;
    /// One event in so many concerns one of them.
    const ONE_IN: usize = 20;

    let events = size.events(100_000);
    let platform = Platform::start(&Needs::new(WARM_UP + events, 1, SUBSCRIBED)).await?;
    platform.warm_up(0..WARM_UP).await?;
    let measured = WARM_UP..WARM_UP + events;
    let user_of = |event: usize| match event % ONE_IN {
        0 => event / ONE_IN % SUBSCRIBED,
        _ => SUBSCRIBED + event % 10_000,
    };
    let mut outcome = Outcome::default();
    let (before, sampler) = (platform.usages(), platform.sampler());
    let start = tokio::time::Instant::now();
    platform.load.burst(measured.clone(), user_of).await?;
    let counts = platform.tally.wait(measured.clone(), PHASE_LIMIT).await;
    fanned_out(&platform, WARM_UP + events).await?;
    let took = start.elapsed();
    outcome.set_usage(&before, &platform.usages(), events);
    outcome.series.extend(sampler.stop().await?);
    outcome.set("events_per_second", per_second(events, took), Unit::PerSecond);
    outcome.count("burst", counts);
    platform.end(&mut outcome).await;
    Ok(outcome)
}

/// Waits until all events are fanned out.
async fn fanned_out(platform: &Platform, events: usize) -> anyhow::Result<()> {
    // The small table answers first: most of the time nothing is counted.
    let statement = "SELECT count(*) FROM events WHERE NOT EXISTS (SELECT FROM events_to_fan_out)";
    let begun = tokio::time::Instant::now();
    loop {
        let row = platform.database.query_one(statement, &[]).await?;
        if usize::try_from(row.get::<_, i64>(0)) == Ok(events) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PHASE_LIMIT, "not every event was fanned out");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// More users than are remembered at the start: an event to each, twice.
pub(crate) async fn many_webhooks(size: Size) -> anyhow::Result<Outcome> {
    let users = size.events(50_000);
    let platform = Platform::start(&Needs::new(2 * users, 2, users)).await?;
    let mut outcome = Outcome::default();
    let mut recorded = 0;
    for (phase, events) in [("cold", 0..users), ("warm", users..2 * users)] {
        let mut of_phase = Outcome::default();
        let in_turn = platform.in_turn();
        let counts = platform.measure_burst(&mut of_phase, events.clone(), in_turn, recorded).await?;
        recorded += counts.expected;
        let rate = per_second(counts.received, platform.tally.span(events)?);
        outcome.set(&format!("{phase}_deliveries_per_second"), rate, Unit::PerSecond);
        let told = ["cpu_own", "cpu_postgresql", "rss_peak_dispatcher"];
        for (name, figure) in of_phase.figures.iter().filter(|(name, _)| told.contains(&name.as_str())) {
            outcome.set(&format!("{phase}_{name}"), figure.value, figure.unit);
        }
        outcome.series.extend(of_phase.series);
        outcome.count(phase, counts);
    }
    platform.end(&mut outcome).await;
    Ok(outcome)
}

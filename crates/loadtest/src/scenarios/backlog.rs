//! What waits while no dispatcher runs, and how it is drained.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use testkit::{DEADLINE, Memory, eventually};

use crate::outcome::{Outcome, Unit};
use crate::platform::{Needs, PHASE_LIMIT, Platform};
use crate::series;
use crate::size::Size;
use crate::stats::{mebibytes, per_second};

/// Events before anything is measured.
const WARM_UP: usize = 1000;

/// Events published without a dispatcher, then delivered by one.
pub(crate) async fn measure(size: Size) -> anyhow::Result<Outcome> {
    let events = size.events(200_000);
    let mut platform = Platform::start(&Needs::new(WARM_UP + events, 1, 20)).await?;
    let mut outcome = Outcome::default();
    // What they take when nothing ever happened.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (name, pid) in platform.services() {
        let memory = Memory::of(pid);
        ensure!(memory.is_some(), "{name} ended");
        let resident = memory.map_or(0, |memory| memory.resident);
        outcome.set(&format!("rss_idle_{name}"), mebibytes(resident), Unit::Mebibytes);
    }
    platform.warm_up(0..WARM_UP).await?;

    let events = WARM_UP..WARM_UP + events;
    for dispatcher in &mut platform.stack.dispatchers {
        dispatcher.terminate(DEADLINE).await;
    }
    platform.load.burst(events.clone(), platform.in_turn()).await?;
    let names = platform.stack.queues().names();
    let waiting = i64::try_from(WARM_UP + events.len())?;
    eventually("every event is stored and waits for a dispatcher", PHASE_LIMIT, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if platform.stack.depth(&names.ingest_queue()).await > 0 {
            return None;
        }
        let row = platform.database.query_one("SELECT count(*) FROM events", &[]).await;
        (row.expect("events can be counted").get::<_, i64>(0) == waiting).then_some(())
    })
    .await;

    let start = platform.tally.elapsed();
    for dispatcher in &mut platform.stack.dispatchers {
        dispatcher.restart().await;
    }
    let (before, sampler) = (platform.usages(), platform.sampler());
    let counts = platform.tally.wait(events.clone(), PHASE_LIMIT).await;
    if counts.missing == 0 {
        platform.recorded(WARM_UP + counts.expected).await;
    }
    outcome.set_usage(&before, &platform.usages(), counts.received);
    outcome.series.extend(sampler.stop().await?);
    outcome.series.extend(series::of_receipts(&platform.tally, events.clone(), ""));
    // From the first receipt: what the dispatcher needs to start is not its speed.
    let receipts = || platform.tally.received_of(events.clone()).map(|delivery| delivery.received);
    let (first, last) = receipts().min().zip(receipts().max()).context("nothing was received")?;
    let rate = per_second(counts.received, last.saturating_sub(first));
    outcome.set("deliveries_per_second", rate, Unit::PerSecond);
    outcome.set("drained_after_s", last.saturating_sub(start).as_secs_f64(), Unit::Seconds);
    outcome.count("backlog", counts);
    platform.end(&mut outcome).await;
    Ok(outcome)
}

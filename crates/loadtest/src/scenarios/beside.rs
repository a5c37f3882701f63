//! What one receiver, or one user, costs another.

use std::ops::Range;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::outcome::{Outcome, Unit};
use crate::platform::{Needs, PHASE_LIMIT, Platform};
use crate::receiver::Answer;
use crate::series;
use crate::size::Size;
use crate::stats::{Latency, per_second};

/// Events before anything is measured.
const WARM_UP: usize = 500;

/// The one whose latency is measured, and the one beside it.
const HEALTHY: usize = 0;
const OTHER: usize = 1;
/// A user without a webhook: what events cost of which nothing has to be delivered.
const NOBODY: usize = 2;

/// Events a second to each receiver.
const RATE: u32 = 200;

/// What the receiver beside the healthy one does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Other {
    Hanging,
    Slow,
    Failing,
}

impl Other {
    fn answers(self) -> fn(usize) -> Answer {
        let answers: [fn(usize) -> Answer; 3] = [
            |webhook| if webhook == OTHER { Answer::Never } else { Answer::Well },
            |webhook| if webhook == OTHER { Answer::After(Duration::from_secs(2)) } else { Answer::Well },
            |webhook| if webhook == OTHER { Answer::Failing } else { Answer::Well },
        ];
        match self {
            Self::Hanging => answers[0],
            Self::Slow => answers[1],
            Self::Failing => answers[2],
        }
    }
}

/// A healthy receiver alone, then beside as many events that concern nobody, then beside a receiver that is not well. Whatever is
/// done for that one, the second is the least that its events cost.
pub(crate) async fn other_receiver(size: Size, other: Other) -> anyhow::Result<Outcome> {
    let (alone, beside) = match (size, other) {
        (Size::Short, _) => (3, 10),
        (Size::Normal, Other::Slow | Other::Failing) => (10, 20),
        _ => (15, 60),
    };
    let [alone, beside] = [alone, beside].map(|seconds| (RATE * seconds) as usize);
    let after = |earlier: &Range<usize>, events| earlier.end..earlier.end + events;
    let alone = after(&(0..WARM_UP), alone);
    let beside_nobody = after(&alone, alone.len());
    let nobodys = after(&beside_nobody, alone.len());
    let healthy = after(&nobodys, beside);
    let others = after(&healthy, beside);
    let needs = Needs { answers: other.answers(), ..Needs::new(others.end, 1, 2) };
    let mut platform = Platform::start(&needs).await?;
    let interval = Duration::from_secs(1) / RATE;
    let to_healthy = |_: usize| HEALTHY;
    platform.load.steady(0..WARM_UP, Duration::from_millis(2), to_healthy).await?;
    platform.tally.wait(0..WARM_UP, PHASE_LIMIT).await;

    let mut outcome = Outcome::default();
    platform.load.steady(alone.clone(), interval, to_healthy).await?;
    outcome.count("alone", platform.tally.wait(alone.clone(), PHASE_LIMIT).await);

    let second = platform.another_publisher();
    tokio::try_join!(
        platform.load.steady(beside_nobody.clone(), interval, to_healthy),
        second.steady(nobodys, interval, |_| NOBODY),
    )?;
    outcome.count("beside_nobody", platform.tally.wait(beside_nobody.clone(), PHASE_LIMIT).await);

    let (before, sampler) = (platform.usages(), platform.sampler());
    tokio::try_join!(
        platform.load.steady(healthy.clone(), interval, to_healthy),
        second.steady(others.clone(), interval, |_| OTHER),
    )?;
    let counts = platform.tally.wait(healthy.clone(), PHASE_LIMIT).await;
    outcome.set_usage(&before, &platform.usages(), counts.received);
    outcome.series.extend(sampler.stop().await?);
    outcome.series.extend(series::of_receipts(&platform.tally, healthy.clone(), "healthy"));
    outcome.count("beside", counts);
    rows_are_there(&platform, beside, &mut outcome).await;

    let latency = |events| Latency::of(platform.tally.latencies(events)).context("nothing was received");
    let (nobody, beside) = (latency(beside_nobody)?, latency(healthy)?);
    let alone = latency(alone)?;
    outcome.set_latency("beside_nobody_", nobody);
    outcome.set("p99_beside_nobody_over_alone", nobody.p99 / alone.p99, Unit::TimesAsMuch);
    compare(&mut outcome, alone, beside);
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    let requests = platform.receiver.requests(OTHER) as f64;
    outcome.set("requests_to_the_other", requests, Unit::Count);
    platform.end(&mut outcome).await;
    Ok(outcome)
}

/// Whatever its receiver does, no delivery of the other webhook is forgotten: each is recorded or to be made.
async fn rows_are_there(platform: &Platform, deliveries: usize, outcome: &mut Outcome) {
    let statement = "SELECT count(*) FROM deliveries WHERE webhook_id = $1";
    let webhook = platform.webhooks[OTHER].id;
    let mut rows = 0;
    for _ in 0..60 {
        let row =
            platform.database.query_one(statement, &[&webhook]).await.expect("deliveries can be counted");
        rows = usize::try_from(row.get::<_, i64>(0)).unwrap_or(0);
        if rows == deliveries {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    outcome.faults.push(format!("the other webhook has {rows} deliveries of {deliveries}"));
}

fn compare(outcome: &mut Outcome, alone: Latency, beside: Latency) {
    outcome.set_latency("alone_", alone);
    outcome.set_latency("beside_", beside);
    outcome.set("p50_beside_over_alone", beside.p50 / alone.p50, Unit::TimesAsMuch);
    outcome.set("p99_beside_over_alone", beside.p99 / alone.p99, Unit::TimesAsMuch);
    outcome.set("p99_added_ms", (beside.p99 - alone.p99).max(0.0), Unit::Milliseconds);
}

/// Single events of one user, alone and beside another user's burst.
pub(crate) async fn burst(size: Size) -> anyhow::Result<Outcome> {
    /// The time between two of the single events.
    const INTERVAL: Duration = Duration::from_millis(100);
    /// More of them than the burst takes: those that are sent are counted.
    const MOST: usize = 6000;

    let (alone, burst) = ((10 * size.seconds(20)) as usize, size.events(100_000));
    let alone = WARM_UP..WARM_UP + alone;
    let burst = alone.end..alone.end + burst;
    let singles = burst.end..burst.end + MOST;
    let mut platform = Platform::start(&Needs::new(singles.end, 1, 2)).await?;
    platform.warm_up(0..WARM_UP).await?;

    let mut outcome = Outcome::default();
    let single = platform.another_publisher();
    single.steady(alone.clone(), INTERVAL, |_| HEALTHY).await?;
    outcome.count("alone", platform.tally.wait(alone.clone(), PHASE_LIMIT).await);

    let (before, sampler) = (platform.usages(), platform.sampler());
    let (load, tally, events) = (platform.load.clone(), platform.tally.clone(), burst.clone());
    let mut publishing = tokio::spawn(async move {
        load.burst(events.clone(), |_| OTHER).await?;
        anyhow::Ok(tally.wait(events, PHASE_LIMIT).await)
    });
    let (mut sent, mut publishing_singles) = (0, JoinSet::new());
    let mut ticks = interval(INTERVAL);
    ticks.tick().await;
    let counts = loop {
        let next = singles.start + sent;
        if sent == MOST {
            break publishing.await??;
        }
        sent += 1;
        // The next is sent when its time has come, whatever became of this one's confirm.
        let single = single.clone();
        publishing_singles
            .spawn(async move { single.steady(next..next + 1, Duration::ZERO, |_| HEALTHY).await.map(drop) });
        tokio::select! {
            counts = &mut publishing => break counts??,
            _ = ticks.tick() => {}
        }
    };
    while let Some(published) = publishing_singles.join_next().await {
        published??;
    }
    let singles = singles.start..singles.start + sent;
    outcome.count("single", platform.tally.wait(singles.clone(), PHASE_LIMIT).await);
    outcome.set_usage(&before, &platform.usages(), counts.received);
    outcome.count("burst", counts);
    outcome.series.extend(sampler.stop().await?);
    outcome.series.extend(series::of_receipts(&platform.tally, burst.clone(), "burst"));
    outcome.series.extend(series::of_receipts(&platform.tally, singles.clone(), "single"));
    let rate = per_second(counts.received, platform.tally.span(burst)?);
    outcome.set("burst_deliveries_per_second", rate, Unit::PerSecond);
    let latency = |events| Latency::of(platform.tally.latencies(events)).context("nothing was received");
    compare(&mut outcome, latency(alone)?, latency(singles)?);
    platform.end(&mut outcome).await;
    Ok(outcome)
}

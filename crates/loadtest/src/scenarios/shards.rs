//! What several shards of the queues carry, beside one.

use crate::outcome::{Outcome, Unit};
use crate::platform::{Needs, Platform};
use crate::size::Size;
use crate::stats::per_second;

/// Events before anything is measured.
const WARM_UP: usize = 200;

/// Webhooks of each user.
const FAN_OUT: usize = 10;

/// Enough webhooks that each shard has its part of them.
const USERS: usize = 20;

/// One shard and four, each first once, so that a machine that gets slower or faster favours neither.
const ROUNDS: [u16; 4] = [1, 4, 4, 1];

/// Every delivery goes over `webhooks.deliver`.
pub(crate) async fn measure(size: Size) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let events = size.events(5000);
    for (round, shards) in ROUNDS.into_iter().enumerate() {
        let needs = Needs {
            environment: vec![
                ("LOK__AMQP__SHARDS", shards.to_string()),
                // An event for more webhooks is spread over all dispatchers.
                ("LOK__DELIVERY__INLINE_FAN_OUT", "1".to_owned()),
            ],
            ..Needs::new(WARM_UP + events, FAN_OUT, USERS)
        };
        let platform = Platform::start(&needs).await?;
        platform.warm_up(0..WARM_UP).await?;
        let burst = WARM_UP..WARM_UP + events;
        let (in_turn, warmed) = (platform.in_turn(), WARM_UP * FAN_OUT);
        let mut of_round = Outcome::default();
        let counts = platform.measure_burst(&mut of_round, burst.clone(), in_turn, warmed).await?;
        let rate = per_second(counts.received, platform.tally.span(burst)?);
        outcome.set(&format!("round_{}_deliveries_per_second", round + 1), rate, Unit::PerSecond);
        add_half(&mut outcome, &format!("shards_{shards}_deliveries_per_second"), rate, Unit::PerSecond);
        for name in ["cpu_own", "cpu_rabbitmq", "cpu_postgresql"] {
            if let Some(cpu) = of_round.get(name) {
                add_half(&mut outcome, &format!("shards_{shards}_{name}"), cpu, Unit::CpuSeconds);
            }
        }
        outcome.count(&format!("round {}: {shards}", round + 1), counts);
        platform.end(&mut outcome).await;
    }
    let rate = |shards: u16| outcome.get(&format!("shards_{shards}_deliveries_per_second"));
    if let (Some(one), Some(four)) = (rate(1), rate(4)) {
        outcome.set("four_over_one", four / one, Unit::TimesAsFast);
    }
    Ok(outcome)
}

/// Adds to the mean of two rounds.
fn add_half(outcome: &mut Outcome, name: &str, value: f64, unit: Unit) {
    let other = outcome.get(name).unwrap_or(0.0);
    outcome.set(name, other + value / 2.0, unit);
}

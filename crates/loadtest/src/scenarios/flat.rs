//! What a delivery costs as the database grows.

use crate::outcome::{Outcome, Unit};
use crate::platform::{Needs, Platform};
use crate::seed;
use crate::size::Size;
use crate::stats::per_second;

/// Events before anything is measured.
const WARM_UP: usize = 1000;

/// Users that get events, with a webhook each.
const USERS: usize = 10;

/// Ten webhooks, ten of very many, ten with very many deliveries of earlier today.
pub(crate) async fn measure(size: Size) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let old = i64::try_from(size.events(5_000_000))?;
    let cases = [
        ("few_webhooks", USERS, 0),
        ("many_webhooks", size.events(100_000), 0),
        ("many_deliveries", USERS, old),
    ];
    for (case, users, old_deliveries) in cases {
        let events = size.events(60_000);
        let platform = Platform::start(&Needs::new(WARM_UP + events, 1, users)).await?;
        if old_deliveries > 0 {
            seed::old_deliveries(&platform.database, old_deliveries, &platform.webhooks).await?;
        }
        // The same users in all cases: remembering them is not what is measured.
        let user_of = |event: usize| event % USERS * (users / USERS);
        platform.load.burst(0..WARM_UP, user_of).await?;
        platform.tally.wait(0..WARM_UP, crate::platform::PHASE_LIMIT).await;
        platform.recorded(WARM_UP).await;
        let events = WARM_UP..WARM_UP + events;
        let mut of_case = Outcome::default();
        let counts = platform.measure_burst(&mut of_case, events.clone(), user_of, WARM_UP).await?;
        let rate = per_second(counts.received, platform.tally.span(events)?);
        outcome.set(&format!("{case}_deliveries_per_second"), rate, Unit::PerSecond);
        for name in ["cpu_own", "cpu_postgresql"] {
            if let Some(cpu) = of_case.get(name) {
                outcome.set(&format!("{case}_{name}"), cpu, Unit::CpuSeconds);
            }
        }
        outcome.count(case, counts);
        platform.end(&mut outcome).await;
    }
    for case in ["many_webhooks", "many_deliveries"] {
        let rate = |case: &str| outcome.get(&format!("{case}_deliveries_per_second"));
        if let (Some(few), Some(many)) = (rate("few_webhooks"), rate(case)) {
            outcome.set(&format!("{case}_over_few"), few / many, Unit::TimesAsMuch);
        }
    }
    Ok(outcome)
}

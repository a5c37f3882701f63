//! What a run measured, in tables for `docs/performance.md`.

use crate::markdown::{grouped, table};
use crate::outcome::{Figure, Unit};
use crate::results::{Results, ScenarioResults};

/// What stands where nothing was measured.
const NONE: &str = "–";

/// Before the names of floors.
const FLOOR: &str = "floor-";

/// Columns of processes: what they are called, and whose CPU time it is.
const PROCESSES: [(&str, &str); 5] = [
    ("event-ingest", "event-ingest"),
    ("dispatchers", "dispatcher"),
    ("RabbitMQ", "rabbitmq"),
    ("PostgreSQL", "postgresql"),
    ("publisher and receiver", "loadtest"),
];

/// Where and when, in a sentence.
pub(crate) fn about(results: &Results) -> String {
    let machine = &results.machine;
    let of_runs = if results.repeat > 1 {
        format!("the median of {} runs", results.repeat)
    } else {
        "of one run".to_owned()
    };
    format!(
        "Measured {} on {} cores ({}) with PostgreSQL {}, everything on the same machine; each figure is {of_runs}.",
        results.at, machine.cores, machine.cpu, machine.postgresql
    )
}

/// What the floors do, and what they take for it.
pub(crate) fn floors(results: &Results) -> String {
    let floors = results.scenarios.iter().filter(|scenario| is_floor(scenario));
    let rows: Vec<_> = floors
        .map(|floor| {
            let mut row = vec![code(&floor.name), show(floor, "deliveries_per_second")];
            row.extend(["at_200_p50_ms", "at_200_p99_ms"].map(|figure| show(floor, figure)));
            row.extend(PROCESSES[2..].iter().map(|(_, process)| show(floor, &format!("cpu_{process}"))));
            row
        })
        .collect();
    let head = [
        "floor",
        "deliveries/s",
        "p50 at 200/s, ms",
        "p99 at 200/s, ms",
        "CPU s/1,000, RabbitMQ",
        "PostgreSQL",
        "the program",
    ];
    table(&head, &rows)
}

/// Every rate, and what the floors make of it.
pub(crate) fn rates(results: &Results) -> String {
    let mut rows = Vec::new();
    for scenario in results.scenarios.iter().filter(|scenario| !is_floor(scenario)) {
        let rates = scenario.figures.iter().filter(|(_, figure)| figure.unit == Unit::PerSecond);
        for (name, figure) in rates {
            let mut row = vec![code(&scenario.name), name.replace('_', " ").replace(" per second", "/s")];
            row.push(grouped(figure.value));
            let is_all = name == "deliveries_per_second";
            row.extend(
                ["over_bare", "over_2_hops", "over_fan_out_1"]
                    .map(|ratio| if is_all { show(scenario, ratio) } else { NONE.to_owned() }),
            );
            rows.push(row);
        }
    }
    table(&["scenario", "", "a second", "÷ bare", "÷ two hops", "÷ fan-out 1"], &rows)
}

/// From publish to receipt, beside the two-hop floor's.
pub(crate) fn latencies(results: &Results) -> String {
    let floor = results.scenarios.iter().find(|scenario| scenario.name == "floor-2-hops");
    let mut rows = Vec::new();
    for scenario in &results.scenarios {
        let Some(rate) = scenario.name.strip_prefix("latency-") else { continue };
        let mut row = vec![format!("{rate}/s")];
        row.extend(["p50_ms", "p90_ms", "p99_ms", "max_ms"].map(|figure| show(scenario, figure)));
        row.extend(["p50", "p99"].map(|percentile| {
            let figure = format!("at_{rate}_{percentile}_ms");
            floor.map_or_else(|| NONE.to_owned(), |floor| show(floor, &figure))
        }));
        row.push(show(scenario, "generator_lag_ms"));
        rows.push(row);
    }
    let head = [
        "events",
        "p50, ms",
        "p90",
        "p99",
        "max",
        "two-hop floor's p50",
        "two-hop floor's p99",
        "generator late by",
    ];
    table(&head, &rows)
}

/// What others cost a receiver, or a user.
pub(crate) fn beside(results: &Results) -> String {
    let of_two = |scenario: &&ScenarioResults| scenario.figures.contains_key("p99_beside_over_alone");
    let rows: Vec<_> = results
        .scenarios
        .iter()
        .filter(of_two)
        .map(|scenario| {
            let figures = [
                "alone_p50_ms",
                "alone_p99_ms",
                "beside_nobody_p50_ms",
                "beside_nobody_p99_ms",
                "beside_p50_ms",
                "beside_p99_ms",
                "p99_beside_over_alone",
                "p99_added_ms",
            ];
            let mut row = vec![code(&scenario.name)];
            row.extend(figures.map(|figure| show(scenario, figure)));
            row
        })
        .collect();
    let head = [
        "beside",
        "alone: p50, ms",
        "p99",
        "beside events for nobody: p50, ms",
        "p99",
        "beside: p50, ms",
        "p99",
        "p99, beside ÷ alone",
        "p99 added, ms",
    ];
    table(&head, &rows)
}

/// CPU seconds for 1,000 deliveries, by process, and how many cores are busy with that.
pub(crate) fn cpu(results: &Results) -> String {
    let mut rows = Vec::new();
    for scenario in results.scenarios.iter().filter(|scenario| !is_floor(scenario)) {
        let Some(rate) = scenario.figures.get("deliveries_per_second") else { continue };
        let costs = PROCESSES.map(|(_, process)| cpu_of(scenario, process));
        let together: f64 = costs.iter().sum();
        let mut row = vec![code(&scenario.name)];
        row.extend(costs.into_iter().chain([together]).map(|cost| Unit::CpuSeconds.show(cost)));
        row.push(format!("{:.2}", together * rate.value / 1000.0));
        rows.push(row);
    }
    let names = PROCESSES.map(|(name, _)| name);
    let head = ["scenario", names[0], names[1], names[2], names[3], names[4], "together", "cores busy"];
    table(&head, &rows)
}

/// The largest resident sets of the services, of several dispatchers the largest.
pub(crate) fn memory(results: &Results) -> String {
    let services = ["event-ingest", "dispatcher"];
    let mut rows = Vec::new();
    for scenario in results.scenarios.iter().filter(|scenario| !is_floor(scenario)) {
        for (prefix, when) in [("rss_idle_", "idle"), ("rss_peak_", "at most")] {
            let of_services = services.map(|service| largest(scenario, &format!("{prefix}{service}")));
            if of_services.iter().any(Option::is_some) {
                let mut row = vec![code(&scenario.name), when.to_owned()];
                let shown =
                    |value: Option<f64>| value.map_or(NONE.to_owned(), |mib| Unit::Mebibytes.show(mib));
                row.extend(of_services.map(shown));
                rows.push(row);
            }
        }
    }
    table(&["scenario", "", "event-ingest, MiB", "dispatcher, MiB"], &rows)
}

/// What a delivery costs as the database grows.
pub(crate) fn flat(results: &Results) -> String {
    let flat = results.scenarios.iter().find(|scenario| scenario.name == "flat");
    let cases = [
        ("few_webhooks", "10 webhooks"),
        ("many_webhooks", "100,000 webhooks"),
        ("many_deliveries", "10 webhooks, 5,000,000 deliveries"),
    ];
    let figures = ["deliveries_per_second", "cpu_own", "cpu_postgresql"];
    let rows: Vec<_> = flat
        .iter()
        .flat_map(|flat| {
            cases.map(|(case, name)| {
                let mut row = vec![name.to_owned()];
                row.extend(figures.map(|figure| show(flat, &format!("{case}_{figure}"))));
                row.push(show(flat, &format!("{case}_over_few")));
                row
            })
        })
        .collect();
    let head =
        ["in the database", "deliveries/s", "own CPU s/1,000", "PostgreSQL", "few's rate ÷ this one's"];
    table(&head, &rows)
}

/// Dispatchers that have a half of the machine each.
pub(crate) fn pinned(results: &Results) -> String {
    let of_halves = results.scenarios.iter().filter(|scenario| scenario.name.starts_with("pinned-"));
    let rows: Vec<_> = of_halves
        .map(|scenario| {
            let rate = scenario.figures.get("deliveries_per_second").map_or(0.0, |figure| figure.value);
            let busy = cpu_of(scenario, "dispatcher") * rate / 1000.0;
            let mut row = vec![code(&scenario.name), grouped(rate), show(scenario, "over_pinned_1")];
            row.push(Unit::CpuSeconds.show(cpu_of(scenario, "dispatcher")));
            row.push(format!("{busy:.2}"));
            row
        })
        .collect();
    let head =
        ["scenario", "deliveries/s", "÷ one", "CPU s/1,000, dispatchers", "cores busy with dispatchers"];
    table(&head, &rows)
}

fn is_floor(scenario: &ScenarioResults) -> bool {
    scenario.name.starts_with(FLOOR)
}

fn code(name: &str) -> String {
    format!("`{name}`")
}

/// A figure without its unit.
fn show(scenario: &ScenarioResults, figure: &str) -> String {
    scenario.figures.get(figure).map_or_else(|| NONE.to_owned(), |figure| show_figure(*figure))
}

fn show_figure(figure: Figure) -> String {
    match figure.unit {
        Unit::PerSecond | Unit::Count => grouped(figure.value),
        unit => unit.show(figure.value),
    }
}

/// Of all processes that are called so, whatever their numbers.
fn cpu_of(scenario: &ScenarioResults, process: &str) -> f64 {
    let prefix = format!("cpu_{process}");
    let of_process = scenario.figures.iter().filter(|(name, _)| name.starts_with(&prefix));
    of_process.map(|(_, figure)| figure.value).sum()
}

fn largest(scenario: &ScenarioResults, prefix: &str) -> Option<f64> {
    let of_process = scenario.figures.iter().filter(|(name, _)| name.starts_with(prefix));
    of_process.map(|(_, figure)| figure.value).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{outcome, results};

    fn measured() -> Results {
        let mut results = results();
        let floor = [
            ("deliveries_per_second", 7000.0, Unit::PerSecond),
            ("at_200_p50_ms", 2.5, Unit::Milliseconds),
            ("at_200_p99_ms", 9.0, Unit::Milliseconds),
        ];
        results.add("floor-2-hops", "", &outcome(&floor));
        let burst = [
            ("deliveries_per_second", 10_000.0, Unit::PerSecond),
            ("over_2_hops", 1.43, Unit::TimesAsFast),
            ("cpu_event-ingest", 0.02, Unit::CpuSeconds),
            ("cpu_dispatcher-1", 0.025, Unit::CpuSeconds),
            ("cpu_dispatcher-2", 0.03, Unit::CpuSeconds),
            ("cpu_rabbitmq", 0.06, Unit::CpuSeconds),
            ("cpu_postgresql", 0.04, Unit::CpuSeconds),
            ("cpu_loadtest", 0.025, Unit::CpuSeconds),
            ("rss_peak_dispatcher-1", 50.0, Unit::Mebibytes),
            ("rss_peak_dispatcher-2", 60.0, Unit::Mebibytes),
        ];
        results.add("pinned-2", "", &outcome(&burst));
        let latency = [("p50_ms", 2.0, Unit::Milliseconds), ("p99_ms", 6.5, Unit::Milliseconds)];
        results.add("latency-200", "", &outcome(&latency));
        results
    }

    #[test]
    fn cpu_time_is_added_up_and_floors_are_no_scenarios() {
        let text = cpu(&measured());
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.contains("| `pinned-2` | 0.020 | 0.055 | 0.060 | 0.040 | 0.025 | 0.200 | 2.00 |"),
            "{text}"
        );
        assert!(pinned(&measured()).contains("| `pinned-2` | 10,000 | – | 0.055 | 0.55 |"));
        assert!(memory(&measured()).contains("| `pinned-2` | at most | – | 60.0 |"));
    }

    #[test]
    fn rates_and_latencies_stand_beside_the_floors() {
        let results = measured();
        assert!(floors(&results).contains("| `floor-2-hops` | 7,000 | 2.50 | 9.00 |"));
        assert!(rates(&results).contains("| `pinned-2` | deliveries/s | 10,000 | – | 1.43 | – |"));
        assert!(latencies(&results).contains("| 200/s | 2.00 | – | 6.50 | – | 2.50 | 9.00 | – |"));
    }

    #[test]
    fn what_was_not_measured_is_a_table_without_rows() {
        let empty = results();
        for text in [floors(&empty), rates(&empty), latencies(&empty), beside(&empty), flat(&empty)] {
            assert_eq!(text.lines().count(), 2, "{text}");
        }
        assert!(about(&empty).contains("2 cores (a CPU)"));
    }
}

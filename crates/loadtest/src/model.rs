//! What many dispatchers can do, by what few of them cost: a model fitted to measurements.
//!
//! On a machine with few cores that everything shares, rates stop growing because the cores are used up, and tell nothing of
//! more dispatchers. What they tell is what a delivery costs, and whether it costs more with more dispatchers. The rate that
//! N dispatchers could have with a core for each is N ÷ that cost; the law is fitted to these.

mod usl;

use anyhow::{Context as _, ensure};

use crate::markdown::{self, grouped};
use crate::outcome::{Outcome, Unit};
use crate::plot::{self, Along};
use crate::results::Results;
use crate::series::Series;
use crate::stats::median;

use usl::Usl;

/// The scenarios that differ by nothing but the number of dispatchers.
const MEASURED: [(&str, u32); 3] = [("fan-out-1", 1), ("dispatchers-2", 2), ("dispatchers-4", 4)];

/// What is predicted.
const PREDICTED: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Whose cores are told beside the dispatchers'.
const OTHERS: [(&str, &str); 3] =
    [("event-ingest", "event-ingest"), ("rabbitmq", "RabbitMQ"), ("postgresql", "PostgreSQL")];

/// What was measured, and the law that fits.
#[derive(Debug)]
pub(crate) struct Scaling {
    at: String,
    measured: Vec<Measured>,
    usl: Usl,
}

/// The medians with so many dispatchers.
#[derive(Debug, Clone, Copy)]
struct Measured {
    dispatchers: u32,
    /// Deliveries a second on this machine.
    rate: f64,
    /// CPU seconds of all dispatchers for 1,000 deliveries.
    cost: f64,
    /// The same of the others.
    others: [f64; OTHERS.len()],
}

impl Scaling {
    /// Of the first results that have what it takes: costs of different runs do not compare.
    pub(crate) fn of_first(all: &[Results]) -> anyhow::Result<Self> {
        let mut scalings = all.iter().map(Self::of);
        let first = scalings.next().context("no results")?;
        first.or_else(|error| scalings.find_map(Result::ok).ok_or(error))
    }

    /// Of the scenarios with one, two and four dispatchers.
    pub(crate) fn of(results: &Results) -> anyhow::Result<Self> {
        let (mut measured, mut rates) = (Vec::new(), Vec::new());
        for (name, dispatchers) in MEASURED {
            let Some(scenario) = results.scenarios.iter().find(|scenario| scenario.name == name) else {
                continue;
            };
            let costs: Vec<f64> = scenario.runs.iter().filter_map(cost_of_dispatchers).collect();
            rates
                .extend(costs.iter().map(|cost| (f64::from(dispatchers), possible_rate(dispatchers, *cost))));
            let figure = |figure: &str| {
                let found = results.figure(name, figure).map(|figure| figure.value);
                found.with_context(|| format!("{name} has no {figure}"))
            };
            let mut others = [0.0; OTHERS.len()];
            for (of_other, (process, _)) in others.iter_mut().zip(OTHERS) {
                *of_other = figure(&format!("cpu_{process}"))?;
            }
            measured.push(Measured {
                dispatchers,
                rate: figure("deliveries_per_second")?,
                cost: median(costs).with_context(|| format!("{name} has no CPU time of dispatchers"))?,
                others,
            });
        }
        ensure!(
            measured.len() >= 2,
            "the model needs two of the scenarios fan-out-1, dispatchers-2, dispatchers-4"
        );
        let usl = Usl::fit(&rates).context("no law fits: a dispatcher used no CPU time")?;
        Ok(Self { at: results.at.clone(), measured, usl })
    }

    /// For people: what was measured, the law, what it says.
    pub(crate) fn report(&self) -> String {
        let (measured, law, table) = (self.measured_table(), self.law(), self.table());
        format!("Measured {}.\n\n{measured}\n{law}\n{table}", self.at)
    }

    /// What was measured, and what one core for each dispatcher would make of it.
    fn measured_table(&self) -> String {
        let rows: Vec<_> = self
            .measured
            .iter()
            .map(|measured| {
                let seconds = |value| Unit::CpuSeconds.show(value);
                let possible = possible_rate(measured.dispatchers, measured.cost);
                let mut row =
                    vec![measured.dispatchers.to_string(), grouped(measured.rate), seconds(measured.cost)];
                row.extend(measured.others.map(seconds));
                row.push(grouped(possible));
                row.push(grouped(self.usl.rate(measured.dispatchers.into())));
                row
            })
            .collect();
        let head = [
            "dispatchers",
            "deliveries/s here",
            "CPU s/1,000, dispatchers",
            OTHERS[0].1,
            OTHERS[1].1,
            OTHERS[2].1,
            "deliveries/s, a core each",
            "the law's",
        ];
        markdown::table(&head, &rows)
    }

    /// What is predicted, and the cores for it.
    fn table(&self) -> String {
        let rows: Vec<_> = PREDICTED
            .iter()
            .map(|dispatchers| {
                let rate = self.usl.rate((*dispatchers).into());
                let times = rate / self.usl.rate(1.0);
                let mut row = vec![
                    dispatchers.to_string(),
                    grouped(rate),
                    format!("{times:.1}"),
                    format!("{:.0} %", times / f64::from(*dispatchers) * 100.0),
                ];
                row.extend(self.cores_of_others(rate).map(|cores| format!("{cores:.1}")));
                row
            })
            .collect();
        let cores = OTHERS.map(|(_, name)| format!("cores, {name}"));
        let head = ["dispatchers", "deliveries/s", "× one", "of linear", &cores[0], &cores[1], &cores[2]];
        markdown::table(&head, &rows)
    }

    /// The law, in words.
    fn law(&self) -> String {
        let Usl { lambda, sigma, kappa } = self.usl;
        let most = match self.usl.peak() {
            Some(peak) => format!("it is highest at {peak:.0} dispatchers"),
            None if sigma > 0.0 => format!("it never comes to {} deliveries/s", grouped(lambda / sigma)),
            None => "it grows as the number of dispatchers does".to_owned(),
        };
        format!("λ = {} deliveries/s, σ = {sigma:.4}, κ = {kappa:.6}: {most}.\n", grouped(lambda))
    }

    pub(crate) fn svg(&self) -> Option<String> {
        let (rates, cores) = ("deliveries/s, a core for each dispatcher", "cores needed");
        let last = PREDICTED.last().copied().unwrap_or_default();
        let line = |panel, name, last: u32, of: &dyn Fn(f64) -> f64| {
            Series::new(panel, name, (0..=last).map(|n| (f64::from(n), of(f64::from(n)))).collect())
        };
        let measured = self.measured.iter().map(|measured| {
            (f64::from(measured.dispatchers), possible_rate(measured.dispatchers, measured.cost))
        });
        let law = |n: f64| if n < 1.0 { 0.0 } else { self.usl.rate(n) };
        let mut series = vec![
            line(rates, "fitted law", last, &law),
            Series::new(rates, "measured", measured.collect()),
            // Farther, nothing else would be seen.
            line(rates, "linear", last / 4, &|n| n * self.usl.rate(1.0)),
            line(cores, "dispatchers", last, &|n| n),
        ];
        for (index, (_, name)) in OTHERS.iter().enumerate() {
            series.push(line(cores, name, last, &|n| self.cores_of_others(law(n))[index]));
        }
        plot::svg("What so many dispatchers can do, and what the others need for it", Along::Number, &series)
    }

    /// The cores that the others need for so many deliveries a second, at the highest cost that was measured.
    fn cores_of_others(&self, rate: f64) -> [f64; OTHERS.len()] {
        std::array::from_fn(|index| {
            let costs = self.measured.iter().map(|measured| measured.others[index]);
            costs.fold(0.0, f64::max) / 1000.0 * rate
        })
    }
}

/// CPU seconds of all dispatchers for 1,000 deliveries; `None` where they were not measured.
fn cost_of_dispatchers(run: &Outcome) -> Option<f64> {
    let of_dispatchers = run.figures.iter().filter(|(name, _)| name.starts_with("cpu_dispatcher"));
    let cost: f64 = of_dispatchers.map(|(_, figure)| figure.value).sum();
    (cost > 0.0).then_some(cost)
}

/// Deliveries a second of so many dispatchers that have a core each.
fn possible_rate(dispatchers: u32, cost: f64) -> f64 {
    f64::from(dispatchers) * 1000.0 / cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{outcome, results};

    fn run(dispatchers: &[f64], broker: f64) -> Outcome {
        let mut outcome = outcome(&[
            ("deliveries_per_second", 9000.0, Unit::PerSecond),
            ("cpu_event-ingest", 0.02, Unit::CpuSeconds),
            ("cpu_rabbitmq", broker, Unit::CpuSeconds),
            ("cpu_postgresql", 0.05, Unit::CpuSeconds),
        ]);
        for (index, cost) in dispatchers.iter().enumerate() {
            outcome.set(&format!("cpu_dispatcher-{index}"), *cost, Unit::CpuSeconds);
        }
        outcome
    }

    #[test]
    fn the_dearer_a_delivery_is_with_more_dispatchers_the_less_they_can_do() {
        let mut results = results();
        results.add("fan-out-1", "", &run(&[0.05], 0.06));
        results.add("dispatchers-2", "", &run(&[0.0275, 0.0275], 0.07));
        results.add("dispatchers-4", "", &run(&[0.01625; 4], 0.065));
        let scaling = Scaling::of(&results).unwrap();
        let Usl { lambda, sigma, kappa } = scaling.usl;
        assert!((lambda - 20_000.0).abs() < 1.0 && (sigma - 0.1).abs() < 1e-6 && kappa < 1e-6, "{scaling:?}");
        let table = scaling.table();
        let eight = table.lines().find(|line| line.starts_with("| 8 ")).unwrap();
        // 8 × 20,000 / 1.7, and 0.07 s of the broker for each thousand.
        assert_eq!(eight, "| 8 | 94,118 | 4.7 | 59 % | 1.9 | 6.6 | 4.7 |");
        assert!(
            scaling
                .measured_table()
                .contains("| 2 | 9,000 | 0.055 | 0.020 | 0.070 | 0.050 | 36,364 | 36,364 |")
        );
        assert!(scaling.svg().unwrap().len() < 60 * 1024);
    }

    #[test]
    fn one_number_of_dispatchers_makes_no_model() {
        let mut first = results();
        first.add("fan-out-1", "", &run(&[0.05], 0.06));
        assert!(Scaling::of(&first).unwrap_err().to_string().contains("dispatchers-2"));
        let mut others = results();
        others.at = "later".to_owned();
        others.add("fan-out-1", "", &run(&[0.05], 0.06));
        others.add("dispatchers-2", "", &run(&[0.025; 2], 0.06));
        assert!(Scaling::of_first(&[]).is_err());
        assert_eq!(Scaling::of_first(&[first, others]).unwrap().at, "later");
    }
}

//! Gunther's Universal Scalability Law, fitted to measurements.

/// How a rate grows with the number of those who share the work: λN / (1 + σ(N − 1) + κN(N − 1)).
///
/// N. J. Gunther, *Guerrilla Capacity Planning* (2007), chapter 4.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usl {
    /// The rate of one.
    pub(crate) lambda: f64,
    /// Contention: the share of the work that only one at a time can do.
    pub(crate) sigma: f64,
    /// Coherence: what each costs each other one.
    pub(crate) kappa: f64,
}

/// The parameters that a fit may use besides the first. Those that are left out are 0.
const SETS: [&[usize]; 4] = [&[0], &[0, 1], &[0, 2], &[0, 1, 2]];

/// A fit has to be better by this to use more parameters: rounding is no reason.
const BETTER: f64 = 1e-12;

impl Usl {
    /// The law with σ and κ not below 0 that is nearest to measurements, each how many shared the work, and the rate; `None` of
    /// none, or where a rate is not above 0.
    ///
    /// Nearest by least squares of the relative errors of N / rate, which is linear in 1/λ, σ/λ and κ/λ: what is best
    /// within the bounds is the best of the solutions with some of the parameters 0.
    pub(crate) fn fit(measured: &[(f64, f64)]) -> Option<Self> {
        if measured.is_empty() || measured.iter().any(|(n, rate)| *n < 1.0 || *rate <= 0.0) {
            return None;
        }
        // What one costs is about 1, whatever the unit.
        let scale = measured.iter().map(|(n, rate)| rate / n).fold(0.0, f64::max);
        let rows: Vec<[f64; 3]> = measured
            .iter()
            .map(|(n, rate)| {
                let weight = rate / (n * scale);
                [weight, weight * (n - 1.0), weight * n * (n - 1.0)]
            })
            .collect();
        let (mut best, mut least) = (None, f64::INFINITY);
        for set in SETS {
            let solution = solve(&rows, set);
            if solution[0] <= 0.0 || solution.iter().any(|parameter| *parameter < 0.0) {
                continue;
            }
            let error = |row: &[f64; 3]| (dot(row, &solution) - 1.0).powi(2);
            let errors: f64 = rows.iter().map(error).sum();
            if errors < least - BETTER {
                (best, least) = (Some(solution), errors);
            }
        }
        let [one, sigma, kappa] = best?;
        Some(Self { lambda: scale / one, sigma: sigma / one, kappa: kappa / one })
    }

    /// The rate of so many.
    pub(crate) fn rate(self, n: f64) -> f64 {
        self.lambda * n / (1.0 + self.sigma * (n - 1.0) + self.kappa * n * (n - 1.0))
    }

    /// How many give the highest rate; `None` if more always give more.
    pub(crate) fn peak(self) -> Option<f64> {
        (self.kappa > 0.0).then(|| ((1.0 - self.sigma).max(0.0) / self.kappa).sqrt().max(1.0))
    }
}

/// The least-squares solution of rows · x = 1 with those of `set` not 0. Where the rows cannot tell them apart, it is no better
/// than one with fewer, or no number at all.
fn solve(rows: &[[f64; 3]], set: &[usize]) -> [f64; 3] {
    // The normal equations, the right side last.
    let mut equations: Vec<Vec<f64>> = set
        .iter()
        .map(|i| {
            let sum = |of: &dyn Fn(&[f64; 3]) -> f64| rows.iter().map(|row| row[*i] * of(row)).sum::<f64>();
            set.iter().map(|j| sum(&|row| row[*j])).chain([sum(&|_| 1.0)]).collect()
        })
        .collect();
    let size = set.len();
    for column in 0..size {
        let height = |row: &usize| equations[*row][column].abs();
        let pivot = (column..size).max_by(|a, b| height(a).total_cmp(&height(b)));
        equations.swap(column, pivot.unwrap_or(column));
        let first = equations[column].clone();
        for row in (0..size).filter(|row| *row != column) {
            let factor = equations[row][column] / first[column];
            equations[row].iter_mut().zip(&first).for_each(|(value, of_first)| *value -= factor * of_first);
        }
    }
    let mut solution = [0.0; 3];
    for (place, parameter) in set.iter().enumerate() {
        solution[*parameter] = equations[place][size] / equations[place][place];
    }
    solution
}

fn dot(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(usl: Usl, numbers: &[f64]) -> Vec<(f64, f64)> {
        numbers.iter().map(|n| (*n, usl.rate(*n))).collect()
    }

    fn is(value: f64, expected: f64) -> bool {
        (value - expected).abs() <= 1e-6 * expected.abs().max(1e-3)
    }

    #[test]
    fn the_parameters_that_rates_were_made_of_are_found_again() {
        for (sigma, kappa) in [(0.0, 0.0), (0.05, 0.0), (0.0, 0.001), (0.03, 0.0005), (0.3, 0.02)] {
            for numbers in [&[1.0, 2.0, 4.0][..], &[1.0, 1.0, 2.0, 3.0, 8.0, 16.0, 32.0]] {
                let made = Usl { lambda: 21_000.0, sigma, kappa };
                let found = Usl::fit(&measured(made, numbers)).unwrap();
                assert!(
                    is(found.lambda, made.lambda) && is(found.sigma, sigma) && is(found.kappa, kappa),
                    "{made:?}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn what_grows_faster_than_linearly_is_taken_as_linear() {
        let found = Usl::fit(&[(1.0, 100.0), (2.0, 220.0), (4.0, 480.0)]).unwrap();
        assert!(is(found.sigma, 0.0) && is(found.kappa, 0.0), "{found:?}");
        assert!(found.lambda > 100.0 && found.lambda < 120.0, "{found:?}");
    }

    #[test]
    fn noise_of_a_percent_moves_what_is_predicted_for_four_by_little() {
        let made = Usl { lambda: 20_000.0, sigma: 0.04, kappa: 0.001 };
        let mut noisy = measured(made, &[1.0, 1.0, 2.0, 2.0, 4.0, 4.0]);
        noisy.iter_mut().enumerate().for_each(|(i, (_, rate))| *rate *= if i % 2 == 0 { 1.01 } else { 0.99 });
        let found = Usl::fit(&noisy).unwrap();
        assert!((found.rate(4.0) / made.rate(4.0) - 1.0).abs() < 0.01, "{found:?}");
    }

    #[test]
    fn two_numbers_of_dispatchers_tell_of_one_kind_of_loss_and_one_of_none() {
        let two = Usl::fit(&[(1.0, 100.0), (2.0, 160.0)]).unwrap();
        assert!(is(two.rate(2.0), 160.0) && is(two.kappa, 0.0), "{two:?}");
        let one = Usl::fit(&[(1.0, 100.0)]).unwrap();
        assert!(is(one.rate(64.0), 6400.0), "{one:?}");
        assert_eq!((Usl::fit(&[]), Usl::fit(&[(1.0, 0.0)])), (None, None));
    }

    #[test]
    fn what_each_costs_each_other_one_makes_a_peak() {
        let usl = Usl { lambda: 1.0, sigma: 0.0, kappa: 0.01 };
        let peak = usl.peak().unwrap();
        assert!(
            is(peak, 10.0) && usl.rate(peak) > usl.rate(peak - 1.0) && usl.rate(peak) > usl.rate(peak + 1.0)
        );
        assert_eq!(Usl { kappa: 0.0, ..usl }.peak(), None);
    }
}

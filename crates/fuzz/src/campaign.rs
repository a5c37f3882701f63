//! Trying a target with a corpus, and with what a generator makes of it.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::mutate::Mutator;
use crate::{Target, Verdict};

/// No input may take longer, whatever else the machine does: it takes microseconds.
const MAX_DURATION: Duration = Duration::from_secs(10);

/// Most inputs that are kept because of a new answer. Answers are few; this is for those that repeat their input.
const MAX_KEPT: usize = 2000;

/// One run of a target.
pub struct Campaign {
    target: Target,
    seed: u64,
    inputs: Vec<Vec<u8>>,
    tally: Tally,
}

/// What became of the inputs.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// How many inputs got each verdict.
    pub verdicts: BTreeMap<Verdict, u64>,
}

/// An input for which a rule does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What the rule says.
    pub reason: String,
    /// The seed of the campaign.
    pub seed: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, reason, seed } = self;
        write!(f, "{reason}\nwith the input \"{}\" (seed {seed})", input.escape_ascii())
    }
}

impl Tally {
    /// How many inputs there were.
    pub fn inputs(&self) -> u64 {
        self.verdicts.values().sum()
    }

    /// How many were accepted.
    pub fn accepted(&self) -> u64 {
        self.verdicts.get(&Verdict::Accepted).copied().unwrap_or_default()
    }
}

impl Campaign {
    /// A run over a target's corpus, in the order of the files' names.
    ///
    /// # Errors
    /// The corpus or the dictionary cannot be read.
    pub fn new(target: Target, seed: u64) -> std::io::Result<Self> {
        Ok(Self { target, seed, inputs: files(&target.corpus())?, tally: Tally::default() })
    }

    /// A run over these inputs.
    pub fn over(target: Target, seed: u64, inputs: Vec<Vec<u8>>) -> Self {
        Self { target, seed, inputs, tally: Tally::default() }
    }

    /// Tries the inputs themselves.
    pub fn try_corpus(&mut self) -> Result<(), Finding> {
        for input in self.inputs.clone() {
            self.try_input(&input)?;
        }
        Ok(())
    }

    /// Tries what is made of the inputs until `duration` is over, at least once. Inputs that lead to a new verdict are
    /// changed further.
    pub fn try_changes(&mut self, dictionary: &str, duration: Duration) -> Result<(), Finding> {
        let mutator = Mutator::new(dictionary, self.target.max_bytes);
        let mut random = StdRng::seed_from_u64(self.seed);
        let start = Instant::now();
        loop {
            let input = mutator.change(&self.inputs, &mut random);
            if self.try_input(&input)? && self.inputs.len() < MAX_KEPT {
                self.inputs.push(input);
            }
            if start.elapsed() >= duration {
                return Ok(());
            }
        }
    }

    /// What became of the inputs so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Tries an input. Says whether the verdict is a new one.
    fn try_input(&mut self, input: &[u8]) -> Result<bool, Finding> {
        let start = Instant::now();
        let tried = catch_unwind(AssertUnwindSafe(|| (self.target.check)(input)));
        let found = |reason| Finding { input: input.to_vec(), reason, seed: self.seed };
        let verdict = tried.map_err(|panic| found(text_of(&*panic)))?;
        let duration = start.elapsed();
        if duration > MAX_DURATION {
            return Err(found(format!("it took {duration:?}")));
        }
        let count = self.tally.verdicts.entry(verdict).or_default();
        *count += 1;
        Ok(*count == 1)
    }
}

fn files(folder: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut paths =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(std::fs::read).collect()
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds_a_bang(input: &[u8]) -> Verdict {
        assert!(!input.contains(&b'!'), "there is a bang");
        if input.is_empty() { Verdict::Refused("empty".to_owned()) } else { Verdict::Accepted }
    }

    #[test]
    fn an_input_that_breaks_a_rule_is_found_and_handed_out() {
        let target = Target { name: "bang", check: finds_a_bang, max_bytes: 100 };
        let mut campaign = Campaign::over(target, 1, vec![b"hello".to_vec()]);
        assert_eq!(campaign.try_corpus(), Ok(()));
        let finding = campaign.try_changes("\"!\"\n", Duration::from_secs(60)).unwrap_err();
        assert!(finding.input.contains(&b'!'), "{finding}");
        assert_eq!((finding.reason.as_str(), finding.seed), ("there is a bang", 1));
        assert_eq!((finds_a_bang(b"hello"), campaign.tally().accepted() > 0), (Verdict::Accepted, true));

        let mut campaign = Campaign::over(target, 1, vec![b"hello!".to_vec()]);
        assert!(campaign.try_corpus().is_err());
    }
}

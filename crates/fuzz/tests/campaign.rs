//! The rules hold for the corpus, and for what a generator makes of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fuzz::{Campaign, Finding, Target};

/// Seconds for each target, in a run that says nothing else.
const SECONDS: u64 = 2;

/// Of the generator's inputs, at least one in so many is accepted: one that is refused at the first byte tries little.
const ACCEPTED: u64 = 2000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, is `{text}`")))
}

#[expect(clippy::print_stdout, reason = "how much was tried is what one wants to know of a run")]
fn run(name: &str) {
    let target = Target::named(name).expect("a target");
    let seed = number("LOK_FUZZ_SEED").unwrap_or_else(rand::random);
    let mut campaign = Campaign::new(target, seed).expect("the corpus can be read");
    let fail = |finding: Finding| {
        let path = kept(name, &finding.input);
        panic!("{name}: {finding}\nkept as {}", path.display());
    };

    campaign.try_corpus().unwrap_or_else(fail);
    let corpus = campaign.tally().clone();
    assert!(corpus.accepted() > 0, "nothing in the corpus is accepted: {corpus:?}");
    assert!(corpus.verdicts.len() > 3, "the corpus says little: {corpus:?}");

    let dictionary = std::fs::read_to_string(target.dictionary()).expect("the dictionary can be read");
    let seconds = number("LOK_FUZZ_SECONDS").unwrap_or(SECONDS);
    campaign.try_changes(&dictionary, Duration::from_secs(seconds)).unwrap_or_else(fail);
    let (tried, accepted) = (campaign.tally().inputs(), campaign.tally().accepted());
    println!("{name}: {tried} inputs in {seconds} s, {accepted} accepted, seed {seed}");
    assert!(accepted * ACCEPTED >= tried, "only {accepted} of {tried} inputs are accepted");
}

/// Where an input can be looked at, and copied to the corpus from.
fn kept(name: &str, input: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("finding-{name}"));
    std::fs::write(&path, input).expect("the input can be written down");
    path
}

#[test]
fn what_must_hold_for_published_messages_holds() {
    run("published");
}

#[test]
fn what_must_hold_for_json_holds() {
    run("javascript");
}

#[test]
fn what_must_hold_for_webhook_urls_holds() {
    run("webhook_url");
}

#[test]
fn what_must_hold_for_messages_between_services_holds() {
    run("wire");
}

/// Continuous integration does not build them.
#[test]
fn every_target_is_one_of_libfuzzer_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("there is a manifest");
    assert_eq!(manifest.matches("[[bin]]").count(), Target::ALL.len());
    for Target { name, .. } in Target::ALL {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"{name}.rs\"")), "{name}");
        let program = std::fs::read_to_string(folder.join(format!("{name}.rs"))).expect("there is a program");
        assert!(program.contains(&format!("fuzz::{name}::check(input)")), "{name}: {program}");
    }
}

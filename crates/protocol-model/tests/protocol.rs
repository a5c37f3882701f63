//! The protocol holds, as far as these checks look: each follows every order of steps and faults there is.

use protocol_model::{FaultKind, Protocol, every_path_ends};
use stateright::{Checker as _, HasDiscoveries, Model as _};

/// What redelivery alone copes with.
const ALL_BUT_WIPE: &[FaultKind] = &[
    FaultKind::Crash,
    FaultKind::LostChannel,
    FaultKind::LostAnswer,
    FaultKind::LostConfirm,
    FaultKind::Slow,
];

const ALL_BUT_CRASH: &[FaultKind] = &[
    FaultKind::LostChannel,
    FaultKind::LostAnswer,
    FaultKind::LostConfirm,
    FaultKind::Slow,
    FaultKind::Wipe,
];

const LOST_ANSWERS: &[FaultKind] = &[FaultKind::LostAnswer, FaultKind::LostConfirm];

/// More states than any check here has: what does not end is a failure, not a test that never ends.
const MANY: usize = 20_000_000;

/// Every property holds in every state, and every path ends.
#[expect(clippy::print_stdout, reason = "read with --nocapture")]
fn holds(protocol: &Protocol) {
    let checking = protocol.clone().checker().threads(2).target_state_count(MANY);
    let checker = checking.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.state_count() < MANY, "there is no end of states");
    let states = every_path_ends(protocol).unwrap_or_else(|state| panic!("goes in circles: {state:#?}"));
    assert_eq!(checker.unique_state_count(), states, "both looked at all there is");
    println!("{states} states, at most {} steps", checker.max_depth());
}

#[test]
fn nothing_goes_wrong() {
    holds(&Protocol::with_attempts(3).with_parks(1).with_stand_ins());
}

#[test]
fn one_fault_on_the_way_to_the_only_attempt() {
    holds(&Protocol::with_attempts(1).with_stand_ins().with_faults(1, FaultKind::ALL));
}

/// A crash has so many consequences that it is looked at with one attempt, without the reconciler, or from the first job on.
#[test]
fn one_fault_but_a_crash() {
    holds(&Protocol::with_attempts(2).from_fan_out().with_stand_ins().with_faults(1, ALL_BUT_CRASH));
}

#[test]
fn two_answers_that_are_lost_on_the_way_to_the_only_attempt() {
    holds(&Protocol::with_attempts(1).with_stand_ins().with_faults(2, LOST_ANSWERS));
}

#[test]
fn two_faults_from_the_first_job_on() {
    holds(&Protocol::with_attempts(2).from_job().with_faults(2, FaultKind::ALL));
}

#[test]
fn three_faults_about_one_attempt() {
    holds(&Protocol::with_attempts(1).from_job().with_faults(3, FaultKind::ALL));
}

#[test]
fn delays_that_are_longer_than_requests() {
    holds(&Protocol::with_attempts(3).from_job().with_long_delays().with_faults(2, FaultKind::ALL));
}

#[test]
fn confirms_that_are_lost() {
    let kinds = &[FaultKind::LostConfirm];
    holds(&Protocol::with_attempts(2).with_stand_ins().with_long_delays().with_faults(2, kinds));
}

#[test]
fn a_webhook_that_is_disabled_and_enabled_again() {
    holds(&Protocol::with_attempts(2).from_job().with_switches(2).with_faults(1, FaultKind::ALL));
}

#[test]
fn one_fault_without_a_reconciler() {
    holds(&Protocol::with_attempts(2).without_reconciler().with_faults(1, ALL_BUT_WIPE));
}

#[test]
fn one_fault_from_the_first_job_on_without_a_reconciler() {
    holds(
        &Protocol::with_attempts(3)
            .from_job()
            .with_parks(1)
            .without_reconciler()
            .with_faults(1, ALL_BUT_WIPE),
    );
}

/// With one attempt no job follows the record.
#[test]
fn a_stand_in_makes_the_attempt_of_a_dispatcher_that_died() {
    holds(
        &Protocol::with_attempts(1)
            .with_parks(1)
            .with_stand_ins()
            .without_reconciler()
            .with_faults(1, ALL_BUT_WIPE),
    );
}

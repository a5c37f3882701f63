//! The checker finds out what each rule is for.
//!
//! Each test leaves a rule out and names the property that breaks. The counterexamples are short and worth reading:
//! `cargo test -p protocol-model --test mistakes -- --nocapture` prints them.

use std::collections::BTreeSet;

use protocol_model::properties::{
    COPIES_WAIT, DUPLICATES_END, DUPLICATES_EXPLAINED, ENDS, NO_POST_AFTER_END, ONE_MESSAGE,
    ONLY_LOST_PUT_BACK, TRUE_HISTORY,
};
use protocol_model::{FaultKind, Mistake, Protocol, every_path_ends};
use stateright::{Checker as _, HasDiscoveries, Model as _};

/// The checker shows a way to break `property`.
#[expect(clippy::print_stdout, reason = "read with --nocapture")]
fn breaks(protocol: Protocol, property: &'static str) {
    let finish = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let mistake = protocol.mistake;
    let checker = protocol.checker().finish_when(finish).spawn_bfs().join();
    let way = checker.discovery(property).unwrap_or_else(|| panic!("not found out: {mistake:?}"));
    println!("{mistake:?} breaks “{property}”:");
    for action in way.into_actions() {
        println!("  {action:?}");
    }
}

/// The promise is kept all the same, in the end.
fn is_only_late(protocol: Protocol) {
    let states = every_path_ends(&protocol).unwrap_or_else(|state| panic!("goes in circles: {state:#?}"));
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    assert_eq!(checker.unique_state_count(), states, "both looked at all there is");
    checker.assert_no_discovery(ENDS);
}

fn two_attempts() -> Protocol {
    Protocol::with_attempts(2)
}

fn first_attempts() -> Protocol {
    two_attempts().from_fan_out().with_stand_ins()
}

#[test]
fn acknowledging_before_the_commit_loses_events() {
    breaks(two_attempts().with_faults(1, &[FaultKind::Crash]).with_mistake(Mistake::AckBeforeCommit), ENDS);
}

#[test]
fn publishing_after_the_acknowledgement_leaves_work_to_the_reconciler() {
    let protocol = two_attempts().with_faults(1, &[FaultKind::Crash]).with_mistake(Mistake::PublishAfterAck);
    breaks(protocol.clone().without_reconciler(), ENDS);
    is_only_late(protocol.from_job());
}

#[test]
fn forgetting_duplicates_leaves_events_to_the_reconciler() {
    let protocol = Protocol::with_attempts(1)
        .with_faults(1, &[FaultKind::Crash])
        .with_mistake(Mistake::ForgetsDuplicates);
    breaks(protocol.clone().without_reconciler(), ENDS);
    is_only_late(protocol);
}

#[test]
fn taking_what_came_back_for_a_copy_leaves_it_to_the_reconciler() {
    let protocol = two_attempts().with_faults(1, &[FaultKind::Crash]).with_mistake(Mistake::IgnoresTaken);
    breaks(protocol.clone().without_reconciler(), ENDS);
    is_only_late(protocol.from_job());
}

#[test]
fn acknowledging_an_event_before_its_attempt_leaves_it_to_the_reconciler() {
    let protocol = Protocol::with_attempts(1)
        .from_fan_out()
        .with_stand_ins()
        .with_faults(1, &[FaultKind::Crash])
        .with_mistake(Mistake::AcksUnsettled);
    breaks(protocol.clone().without_reconciler(), ENDS);
    is_only_late(protocol);
}

#[test]
fn marking_an_event_before_its_deliveries_are_written_loses_it() {
    let faults = &[FaultKind::Crash, FaultKind::Wipe];
    breaks(first_attempts().with_faults(2, faults).with_mistake(Mistake::MarksUnsettled), ENDS);
}

#[test]
fn acknowledging_an_event_before_the_stand_in_is_there_leaves_it_to_the_reconciler() {
    let protocol = Protocol::with_attempts(1)
        .from_fan_out()
        .with_stand_ins()
        .with_faults(1, &[FaultKind::Crash])
        .with_mistake(Mistake::AcksBeforeStandIn);
    breaks(protocol.clone().without_reconciler(), ENDS);
    is_only_late(protocol);
}

#[test]
fn a_stand_in_that_comes_out_during_the_request_makes_duplicates() {
    breaks(first_attempts().with_mistake(Mistake::ShortStandIn), DUPLICATES_EXPLAINED);
}

#[test]
fn parking_beside_a_stand_in_makes_two_jobs() {
    breaks(first_attempts().with_parks(1).with_mistake(Mistake::ParksBesideStandIn), ONE_MESSAGE);
}

#[test]
fn no_look_after_a_long_wait_sends_after_a_success() {
    breaks(
        first_attempts().with_faults(1, &[FaultKind::LostChannel]).with_mistake(Mistake::NoLookAfterWait),
        NO_POST_AFTER_END,
    );
}

#[test]
fn looking_only_at_what_was_never_attempted_leaves_the_rest_to_the_reconciler() {
    let protocol = Protocol::with_attempts(2)
        .from_fan_out()
        .with_faults(1, &[FaultKind::Crash])
        .with_mistake(Mistake::ForgetsAttempted);
    breaks(protocol.without_reconciler(), ENDS);
}

#[test]
fn copies_of_events_that_are_not_told_make_duplicates() {
    for mistake in [Mistake::TrustsCopies, Mistake::CopiesDoNotWait, Mistake::DoubtsCopies] {
        let protocol = two_attempts().with_stand_ins().with_long_delays();
        breaks(protocol.with_faults(1, &[FaultKind::LostConfirm]).with_mistake(mistake), COPIES_WAIT);
    }
}

#[test]
fn handing_over_before_the_record_makes_two_jobs() {
    breaks(two_attempts().with_mistake(Mistake::HandOverBeforeRecord), ONE_MESSAGE);
}

#[test]
fn believing_the_job_sends_after_a_success() {
    breaks(
        two_attempts().with_faults(1, &[FaultKind::LostConfirm]).with_mistake(Mistake::NoCheck),
        NO_POST_AFTER_END,
    );
}

#[test]
fn checking_before_the_turn_sends_after_a_success() {
    breaks(
        two_attempts().with_faults(1, &[FaultKind::LostConfirm]).with_mistake(Mistake::ChecksBeforeTheTurn),
        NO_POST_AFTER_END,
    );
}

#[test]
fn recording_blindly_falsifies_the_history() {
    breaks(
        two_attempts().with_faults(1, &[FaultKind::LostChannel]).with_mistake(Mistake::RecordsBlindly),
        TRUE_HISTORY,
    );
}

#[test]
fn keeping_the_jobs_fence_hands_over_what_is_void() {
    let protocol = two_attempts().with_faults(1, &[FaultKind::Crash]).with_mistake(Mistake::KeepsJobsFence);
    breaks(protocol.clone().without_reconciler(), ENDS);
    is_only_late(protocol.from_job());
}

#[test]
fn leaving_it_to_another_who_may_be_oneself_strands() {
    let protocol =
        two_attempts().with_faults(1, &[FaultKind::LostAnswer]).with_mistake(Mistake::LeavesItToAnother);
    breaks(protocol.clone().without_reconciler(), ENDS);
    is_only_late(protocol.from_job());
}

#[test]
fn without_the_fence_a_duplicate_has_successors() {
    breaks(
        Protocol::with_attempts(3)
            .with_long_delays()
            .without_reconciler()
            .with_faults(1, &[FaultKind::Crash])
            .with_mistake(Mistake::NoFence),
        DUPLICATES_END,
    );
}

#[test]
fn sending_what_may_be_a_copy_at_once_makes_duplicates() {
    for protocol in [two_attempts(), two_attempts().from_job()] {
        let protocol = protocol.with_long_delays().with_faults(1, &[FaultKind::LostConfirm]);
        breaks(protocol.with_mistake(Mistake::CopiesDoNotWait), COPIES_WAIT);
    }
}

#[test]
fn without_the_queues_progress_what_merely_waits_is_put_back() {
    breaks(two_attempts().with_mistake(Mistake::NoQueueGuard), ONLY_LOST_PUT_BACK);
}

#[test]
fn probing_too_soon_puts_back_what_is_on_its_way_into_the_queue() {
    breaks(two_attempts().with_mistake(Mistake::ProbesTooSoon), ONLY_LOST_PUT_BACK);
}

#[test]
fn without_the_grace_what_is_in_hand_is_put_back() {
    breaks(two_attempts().with_mistake(Mistake::NoGrace), ONLY_LOST_PUT_BACK);
}

#[test]
fn without_the_reconciler_what_the_broker_lost_is_lost() {
    breaks(two_attempts().without_reconciler().with_faults(1, &[FaultKind::Wipe]), ENDS);
}

/// A limit that is known: once a stand-in is made, the event's message stands no more for what follows from the attempt.
#[test]
fn a_stand_in_closes_one_gap_but_not_the_next() {
    let protocol = first_attempts().with_faults(1, &[FaultKind::Crash]);
    breaks(protocol.without_reconciler(), ENDS);
}

/// A limit that is known: issuing a job anew voids the message in hand, so that a second crash before the publish leaves
/// no message that counts.
#[test]
fn redelivery_alone_closes_one_gap_but_not_two() {
    let protocol = two_attempts().from_job().with_faults(2, &[FaultKind::Crash]);
    breaks(protocol.clone().without_reconciler(), ENDS);
    is_only_late(protocol);
}

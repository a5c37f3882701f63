use std::time::Duration;

use super::observed::Depth;
use super::receivers::Kind;
use super::{Bad, Observed, Rules, Setup, run};

/// A hundred events a second to one webhook each, of which one in ten is bad.
fn setup(kinds: &'static [Kind], seconds: u64) -> Setup {
    let time = Duration::from_secs(seconds);
    Setup {
        events_per_second: 100,
        fan_out: 1,
        users: 100,
        dispatchers: 2,
        bad: Bad { one_in: 10, kinds },
        load: time,
        time,
        seed: 1,
        rules: Rules::default(),
    }
}

fn depth<'a>(observed: &'a Observed, queue: &str) -> &'a Depth {
    observed.depths.iter().find(|depth| depth.queue == queue).unwrap()
}

fn queued(observed: &Observed, queue: &str, kind: Kind) -> usize {
    depth(observed, queue).jobs[kind.index()]
}

/// Whether a number that chance decides is what is expected of it: five standard deviations and more would be a miracle.
fn is_about(value: usize, expected: f64) -> bool {
    let value = f64::from(u32::try_from(value).unwrap());
    (value - expected).abs() <= 5.0 * expected.sqrt()
}

#[test]
fn as_many_wait_for_a_retry_as_littles_law_says() {
    let early = run(&setup(&[Kind::Failing], 100));
    let early =
        ["webhooks.retry.60s", "webhooks.retry.300s"].map(|queue| queued(&early, queue, Kind::Failing));
    assert!(is_about(early[0], 10.0 * 60.0) && is_about(early[1], 10.0 * 40.0), "{early:?}");
    let observed = run(&setup(&[Kind::Failing], 500));
    // Ten a second fail, again after a minute, and for the last time after five more.
    for (queue, seconds) in [("webhooks.retry.60s", 60.0), ("webhooks.retry.300s", 300.0)] {
        let waiting = queued(&observed, queue, Kind::Failing);
        assert!(is_about(waiting, 10.0 * seconds), "{queue}: {waiting}");
    }
    let counts = observed.of(Kind::Failing);
    assert!(is_about(usize::try_from(counts.failed).unwrap(), 10.0 * (500.0 - 360.0)), "{counts:?}");
    assert_eq!((counts.parked, counts.succeeded), (0, 0), "who answers at once is not put off");
}

#[test]
fn every_delivery_is_over_when_there_was_time_enough() {
    let kinds = &[Kind::Hanging, Kind::Failing, Kind::Slow];
    let observed = run(&Setup { load: Duration::from_secs(5), ..setup(kinds, 3600) });
    for kind in Kind::ALL {
        let counts = observed.of(kind);
        assert!(counts.created > 0, "{kind:?}");
        assert_eq!(counts.created, counts.succeeded + counts.failed, "{kind:?}: {counts:?}");
        assert_eq!(counts.on_the_wire, 0, "{kind:?}");
        let attempts = if matches!(kind, Kind::Hanging | Kind::Failing) { 3 } else { 1 };
        assert_eq!(counts.requests, attempts * counts.created, "{kind:?}: {counts:?}");
    }
    assert!(observed.depths.iter().all(|depth| depth.jobs == [0; 4] && depth.stand_ins == 0));
    assert_eq!(observed.held, 0);
}

#[test]
fn a_hanging_receiver_is_probed_and_the_rest_of_its_load_is_parked() {
    let observed = run(&setup(&[Kind::Hanging], 400));
    let counts = observed.of(Kind::Hanging);
    // Ten webhooks, each probed by two dispatchers. Without, there would be a hundred requests on the wire, and more with retries.
    assert!(counts.on_the_wire <= 20, "{counts:?}");
    // None of them fails for longer than that.
    let delays = Rules::default().park_delays;
    let longest = delays.delay(delays.rung_after(Duration::from_secs(400)));
    let parked = queued(&observed, &format!("webhooks.park.{}s", longest.as_secs()), Kind::Hanging);
    assert!(parked > 1000, "{parked}");
    assert_eq!(observed.of(Kind::Healthy).parked, 0);
}

#[test]
fn what_the_benchmark_counts_is_what_is_simulated() {
    // The scenario `hanging`: 200 events a second each to a healthy receiver and to one that hangs, for a minute. It counts 37
    // requests to the latter: as many as are let at once, and after 10 s one every 10 s.
    let bad = Bad { one_in: 2, kinds: &[Kind::Hanging] };
    let observed =
        run(&Setup { events_per_second: 400, users: 2, dispatchers: 1, bad, ..setup(&[Kind::Hanging], 60) });
    let counts = observed.of(Kind::Hanging);
    assert!((36..=38).contains(&counts.requests), "{counts:?}");
    assert_eq!(observed.of(Kind::Healthy).parked, 0);
}

#[test]
fn who_is_slow_is_served_and_a_stand_in_waits_for_each_first_attempt() {
    let observed = run(&setup(&[Kind::Slow], 300));
    let counts = observed.of(Kind::Slow);
    // For longer than a request takes, ten a second.
    let rules = Rules::default();
    let delay =
        rules.park_delays.delay(rules.park_delays.rung_beyond(rules.timeout + Duration::from_secs(1)));
    let stand_ins = depth(&observed, &format!("webhooks.park.{}s", delay.as_secs())).stand_ins;
    assert!(is_about(stand_ins, 10.0 * delay.as_secs_f64()), "{stand_ins}");
    assert!(counts.on_the_wire + counts.succeeded + 300 > counts.created, "{counts:?}");
}

#[test]
fn healthy_receivers_do_not_notice_the_others() {
    let all = &[Kind::Hanging, Kind::Failing, Kind::Slow];
    let (beside, alone) = (run(&setup(all, 300)), run(&setup(&[], 60)));
    let (beside, alone) = (beside.waited(990), alone.waited(990));
    assert!(alone > Duration::ZERO && beside <= alone.mul_f64(1.5), "{beside:?} beside, {alone:?} alone");
}

#[test]
fn a_seed_says_everything() {
    let all = &[Kind::Hanging, Kind::Failing, Kind::Slow];
    let of = |seed| run(&Setup { seed, ..setup(all, 60) });
    let (first, again, other) = (of(1), of(1), of(2));
    assert_eq!((first.counts, &first.series), (again.counts, &again.series));
    assert_ne!(first.counts, other.counts);
}

#[test]
fn what_dispatchers_hold_is_bounded_and_the_rest_waits_on_the_broker() {
    let rules = Rules { fan_out_prefetch: 2, prefetch: 3, ..Rules::default() };
    let observed = run(&Setup { rules, ..setup(&[Kind::Slow, Kind::Hanging], 240) });
    assert!(observed.most_messages <= 2 && observed.most_jobs <= 3, "{observed:?}");
    let fan_out = observed.series.iter().find(|line| line.name == "webhooks.fanout").unwrap();
    assert!(fan_out.points.iter().any(|(_, ready)| *ready > 10.0));
}

use std::time::Duration;

use domain::pace::Pace;
use futures_util::FutureExt as _;
use tokio::task::unconstrained;
use tokio::time::{advance, timeout};
use uuid::Uuid;

use super::*;

const LARGEST: usize = MAX_MESSAGE_BYTES;

/// A dispatcher's places, and a webhook's, by default.
const ALL: usize = 768;
const MOST: usize = 32;

const TIMEOUT: Duration = Duration::from_secs(10);
const QUICKLY: Duration = Duration::from_millis(5);
const MAX_WAIT: Duration = Duration::from_millis(500);

impl Lanes {
    async fn turn(&self, webhook: WebhookId, bytes: usize) -> Turn {
        self.place(webhook, bytes).await.turn().await
    }

    fn pace(&self, n: u128) -> Pace {
        self.shared.places().condition(webhook(n)).pace
    }

    /// Turns that are had without waiting.
    fn turns_at_once(&self, n: u128) -> Vec<Turn> {
        std::iter::from_fn(|| unconstrained(self.turn(webhook(n), 0)).now_or_never()).collect()
    }

    /// As many requests as the webhook gets at once, all of which end like this after that long.
    async fn requests(&self, n: u128, how: fn(Duration) -> Ended, took: Duration) -> usize {
        let turns = self.turns_at_once(n);
        let count = turns.len();
        advance(took).await;
        for turn in turns {
            turn.ended(how(took));
        }
        count
    }
}

fn webhook(n: u128) -> WebhookId {
    WebhookId::from_uuid(Uuid::from_u128(n))
}

fn lanes_with(bounds: Bounds) -> Lanes {
    Lanes::with_overflow(bounds, Overflow { max_wait: MAX_WAIT, park_delays: ParkDelays::default() })
}

fn lanes(requests: usize, requests_per_webhook: usize) -> Lanes {
    lanes_with(Bounds { requests, requests_per_webhook, memory: 0 })
}

async fn has_to_wait(lanes: &Lanes, n: u128, bytes: usize) -> bool {
    timeout(Duration::from_millis(20), lanes.turn(webhook(n), bytes)).await.is_err()
}

#[tokio::test]
async fn a_full_webhook_waits_and_another_does_not() {
    let lanes = lanes(ALL, 2);
    let held = (lanes.turn(webhook(1), 0).await, lanes.turn(webhook(1), 0).await);
    assert!(has_to_wait(&lanes, 1, 0).await);
    let other = lanes.turn(webhook(2), 0).await;
    drop(held);
    let again = lanes.turn(webhook(1), 0).await;
    drop((other, again));
    assert_eq!(lanes.shared.places().len(), 0, "lanes that nobody uses are forgotten");
}

#[tokio::test]
async fn all_requests_together_are_bounded() {
    let lanes = lanes(2, 2);
    let first = lanes.turn(webhook(1), 0).await;
    let _second = lanes.turn(webhook(2), 0).await;
    assert!(has_to_wait(&lanes, 3, 0).await);
    drop(first);
    let _third = lanes.turn(webhook(3), 0).await;
}

#[tokio::test]
async fn those_who_wait_for_their_webhook_take_no_place_of_others() {
    let lanes = lanes(2, 1);
    let _held = lanes.turn(webhook(1), 0).await;
    let mut waiting = Box::pin(lanes.turn(webhook(1), 0));
    assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
    let _other = lanes.turn(webhook(2), 0).await;
}

#[tokio::test]
async fn bodies_to_be_read_wait_for_memory_and_nothing_waits_for_them() {
    let lanes = lanes_with(Bounds { requests: 16, requests_per_webhook: 16, memory: 2 * LARGEST });
    let first = lanes.turn(webhook(1), LARGEST).await;
    let second = lanes.turn(webhook(2), LARGEST).await;
    let mut waiting = Box::pin(lanes.turn(webhook(3), LARGEST));
    assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err(), "all memory is used");
    assert!(!has_to_wait(&lanes, 3, 0).await, "small ones of the same webhook pass");
    assert!(!has_to_wait(&lanes, 4, 0).await, "small ones of another webhook pass");
    drop(first);
    let third = waiting.await;
    drop((second, third));
    assert_eq!(lanes.shared.places().len(), 0);
}

#[tokio::test]
async fn the_bodies_of_one_webhook_leave_memory_to_others_and_requests_to_their_webhook() {
    let lanes = lanes_with(Bounds { requests: 32, requests_per_webhook: 8, memory: 8 * LARGEST });
    let _held = lanes.turn(webhook(1), LARGEST).await;
    let _more = lanes.turn(webhook(1), LARGEST / 2).await;
    let mut waiting = Box::pin(lanes.turn(webhook(1), LARGEST));
    assert!(
        timeout(Duration::from_millis(20), &mut waiting).await.is_err(),
        "a fourth of the memory is theirs"
    );
    let mut more: Vec<_> = (0..9).map(|_| Box::pin(lanes.turn(webhook(1), LARGEST))).collect();
    for waiting in &mut more {
        assert!(timeout(Duration::from_millis(5), waiting).await.is_err());
    }
    assert!(!has_to_wait(&lanes, 1, 0).await, "who waits for memory holds none of their webhook's requests");
    assert!(!has_to_wait(&lanes, 2, LARGEST).await);
}

#[tokio::test]
async fn a_body_larger_than_all_memory_passes_alone() {
    let lanes = lanes_with(Bounds { requests: 9, requests_per_webhook: 9, memory: LARGEST / 2 });
    let first = lanes.turn(webhook(1), LARGEST).await;
    assert!(has_to_wait(&lanes, 2, 1).await);
    drop(first);
    let _small = lanes.turn(webhook(2), 1).await;
    assert!(has_to_wait(&lanes, 1, LARGEST).await, "it would not be alone");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_hangs_is_probed_and_its_answers_give_its_places_back() {
    let lanes = lanes(ALL, MOST);
    assert_eq!(lanes.requests(1, Ended::NotAnswered, TIMEOUT).await, MOST);
    for _ in 0..3 {
        assert!(lanes.pace(1).is_probing());
        assert_eq!(lanes.requests(1, Ended::NotAnswered, TIMEOUT).await, 1);
    }
    let mut rounds = Vec::new();
    while rounds.last() != Some(&MOST) {
        rounds.push(lanes.requests(1, Ended::Answered, QUICKLY).await);
    }
    assert_eq!(rounds, [1, 2, 4, 8, 16, 32]);
    assert!(!lanes.pace(1).is_probing());
    assert_eq!(lanes.requests(2, Ended::Answered, QUICKLY).await, MOST, "another has all its places");
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_on_the_wire_when_their_receiver_starts_to_fail_count_against_it() {
    let lanes = lanes(ALL, MOST);
    let mut turns = lanes.turns_at_once(1);
    for turn in turns.drain(..2) {
        turn.ended(Ended::NotAnswered(TIMEOUT));
    }
    assert_eq!(lanes.turns_at_once(1).len(), 0, "eight places are left, and thirty are taken");
    turns.truncate(7);
    assert_eq!(lanes.turns_at_once(1).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_nobody_uses_is_remembered_only_while_it_is_not_well() {
    let lanes = lanes(ALL, MOST);
    let remembered = || {
        let places = lanes.shared.places();
        (places.len(), places.remembered())
    };
    lanes.requests(1, Ended::Answered, QUICKLY).await;
    assert_eq!(remembered(), (0, 0));
    lanes.requests(1, Ended::NotAnswered, TIMEOUT).await;
    assert_eq!(remembered(), (0, 1));
    let probe = lanes.turns_at_once(1);
    assert_eq!((probe.len(), remembered()), (1, (1, 0)));
    drop(probe);
    assert_eq!(remembered(), (0, 1), "nothing was learnt");
    while !lanes.pace(1).is_well() {
        lanes.requests(1, Ended::Answered, QUICKLY).await;
    }
    assert_eq!(remembered(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_in_vain_is_parked_at_once_and_longer_the_longer_the_receiver_fails() {
    let lanes = lanes(ALL, MOST);
    let of = |park| Congestion { max_wait: Duration::ZERO, park };
    assert_eq!(lanes.congestion(webhook(1)), Congestion { max_wait: MAX_WAIT, park: 0 });
    let mut rungs = Vec::new();
    for _ in 0..17 {
        lanes.requests(1, Ended::NotAnswered, TIMEOUT).await;
        let probe = lanes.turns_at_once(1);
        assert_eq!(lanes.congestion(webhook(1)).max_wait, Duration::ZERO);
        rungs.push(lanes.congestion(webhook(1)).park);
        drop(probe);
    }
    let times = |rung| rungs.iter().filter(|at| **at == rung).count();
    assert!(rungs.is_sorted());
    assert_eq!([1, 2, 3, 4, 5].map(times), [1, 2, 4, 8, 2], "after 10 s, 20, 40, 80 and 160");

    let probe = lanes.turn(webhook(1), 0).await;
    assert_eq!(lanes.congestion(webhook(1)), of(5));
    probe.ended(Ended::Answered(QUICKLY));
    assert_eq!(lanes.congestion(webhook(1)), Congestion { max_wait: MAX_WAIT, park: 0 }, "a place is free");
}

#[tokio::test(start_paused = true)]
async fn a_lane_in_which_nothing_moves_is_not_waited_for() {
    let lanes = lanes(ALL, MOST);
    let mut turns = lanes.turns_at_once(1);
    advance(MAX_WAIT).await;
    assert_eq!(lanes.congestion(webhook(1)).max_wait, MAX_WAIT);
    advance(QUICKLY).await;
    assert_eq!(lanes.congestion(webhook(1)).max_wait, Duration::ZERO);
    turns.pop();
    let _last = lanes.turns_at_once(1);
    assert_eq!(lanes.congestion(webhook(1)).max_wait, MAX_WAIT, "it moved");
}

#[tokio::test(start_paused = true)]
async fn a_long_line_before_a_slow_receiver_is_not_joined_and_one_before_a_quick_receiver_is() {
    let lanes = lanes(ALL, 2);
    for (n, took, max_wait) in [(1, Duration::from_millis(100), Duration::ZERO), (2, QUICKLY, MAX_WAIT)] {
        let _one = lanes.turn(webhook(n), 0).await;
        for _ in 0..20 {
            lanes.requests(n, Ended::Answered, took).await;
        }
        let _other = lanes.turn(webhook(n), 0).await;
        let mut line: Vec<_> = (0..10).map(|_| Box::pin(lanes.turn(webhook(n), 0))).collect();
        for waiting in &mut line {
            assert!(waiting.now_or_never().is_none());
        }
        assert_eq!(lanes.congestion(webhook(n)).max_wait, max_wait, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_refuses_at_once_is_neither_probed_nor_parked() {
    let lanes = lanes(ALL, MOST);
    for _ in 0..20 {
        assert_eq!(lanes.requests(1, Ended::NotAnswered, QUICKLY).await, MOST);
    }
    let _held = lanes.turns_at_once(1);
    assert_eq!(lanes.congestion(webhook(1)), Congestion { max_wait: MAX_WAIT, park: 0 });
}

#[tokio::test(start_paused = true)]
async fn our_own_failures_say_nothing_about_the_receiver() {
    let lanes = lanes(ALL, MOST);
    for _ in 0..20 {
        assert_eq!(lanes.requests(1, |_| Ended::NotSent, TIMEOUT).await, MOST);
    }
}

#[tokio::test(start_paused = true)]
async fn however_many_webhooks_want_all_their_places_others_find_some() {
    let lanes = lanes(ALL, MOST);
    let mut greedy: Vec<_> = (0..24).flat_map(|n| lanes.turns_at_once(n)).collect();
    assert!(greedy.len() > ALL / 2, "{} places are not too few", greedy.len());
    let left = ALL - greedy.len();
    assert!(left >= ALL / 4, "24 webhooks would fill all places: {left} are left");
    greedy.extend((24..200).flat_map(|n| lanes.turns_at_once(n)));
    assert!(greedy.len() < ALL, "200 webhooks left nothing");
    assert!(!has_to_wait(&lanes, 1000, 0).await);
}

#[tokio::test(start_paused = true)]
async fn slow_receivers_leave_a_quarter_of_the_places_however_many_they_are() {
    let lanes = lanes(ALL, MOST);
    for n in 0..1000 {
        let turn = lanes.turn(webhook(n), 0).await;
        turn.ended(Ended::Answered(Duration::from_secs(2)));
    }
    let slow: Vec<_> = (0..1000).flat_map(|n| lanes.turns_at_once(n)).collect();
    assert_eq!(slow.len(), ALL / 4 * 3);
    let quick: Vec<_> = (1000..1000 + ALL as u128 / 4)
        .map(|n| unconstrained(lanes.turn(webhook(n), 0)).now_or_never())
        .collect();
    assert!(quick.iter().all(Option::is_some), "a quick one had to wait");
}

#[tokio::test(start_paused = true)]
async fn who_comes_first_has_the_first_place_and_who_gives_up_takes_none() {
    let lanes = lanes(ALL, 1);
    let held = lanes.turn(webhook(1), 0).await;
    let mut line: Vec<_> = (0..5).map(|_| Box::pin(lanes.turn(webhook(1), 0))).collect();
    for waiting in &mut line {
        assert!(waiting.now_or_never().is_none());
    }
    let [first, gives_up, called, second, last] = <[_; 5]>::try_from(line).ok().unwrap();
    drop(gives_up);
    drop(held);
    drop(first.await);
    // It has been given the place, and is dropped before it knows.
    drop(called);
    let second = second.now_or_never().expect("the place went on to the next");
    let mut last = last;
    assert!((&mut last).now_or_never().is_none(), "one place is one place");
    drop(second);
    drop(last.await);
    assert_eq!(lanes.shared.places().len(), 0);
}

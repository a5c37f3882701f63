use std::time::Duration;

use tokio::time::timeout;
use uuid::Uuid;

use super::*;

const LARGEST: usize = MAX_MESSAGE_BYTES;

impl Lanes {
    async fn turn(&self, webhook: WebhookId, bytes: usize) -> Turn {
        self.place(webhook, bytes).await.turn().await
    }
}

fn webhook(n: u128) -> WebhookId {
    WebhookId::from_uuid(Uuid::from_u128(n))
}

fn lanes(requests: usize, requests_per_webhook: usize) -> Lanes {
    Lanes::new(Bounds { requests, requests_per_webhook, memory: 0 })
}

async fn has_to_wait(lanes: &Lanes, n: u128, bytes: usize) -> bool {
    timeout(Duration::from_millis(20), lanes.turn(webhook(n), bytes)).await.is_err()
}

#[tokio::test]
async fn a_full_webhook_waits_and_another_does_not() {
    let lanes = lanes(10, 2);
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
    let lanes = Lanes::new(Bounds { requests: 16, requests_per_webhook: 16, memory: 2 * LARGEST });
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
    let lanes = Lanes::new(Bounds { requests: 16, requests_per_webhook: 4, memory: 8 * LARGEST });
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
    let lanes = Lanes::new(Bounds { requests: 9, requests_per_webhook: 9, memory: LARGEST / 2 });
    let first = lanes.turn(webhook(1), LARGEST).await;
    assert!(has_to_wait(&lanes, 2, 1).await);
    drop(first);
    let _small = lanes.turn(webhook(2), 1).await;
    assert!(has_to_wait(&lanes, 1, LARGEST).await, "it would not be alone");
}

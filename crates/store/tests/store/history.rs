use std::time::Duration;

use domain::EventType::{BookingCreated, PaymentFailed};
use domain::id::DeliveryId;
use domain::protocol::DeliveryStatus;
use domain::{EventType, WebhookId};
use store::{AttemptResult, DeliveryFilter, DeliveryPage, NewDelivery, Page, Store};
use testkit::TestDatabase;

use crate::support::{attempt, counts, event_id, given_webhook, now, store_of, user};

async fn given(store: &Store, webhook: WebhookId, event_type: EventType, days: u64) -> DeliveryId {
    let at = now() + Duration::from_secs(days * 24 * 3600);
    let event = event_id(at);
    let delivery = NewDelivery { id: DeliveryId::of(event, webhook), webhook, event, event_type };
    assert_eq!(store.record_fan_out(&[delivery], &[], at).await.unwrap().len(), 1);
    delivery.id
}

async fn page(
    store: &Store,
    webhook: WebhookId,
    filter: DeliveryFilter,
    number: u32,
    size: u32,
) -> DeliveryPage {
    let page = Page { number, size };
    store.list_deliveries(&user("alice"), webhook, filter, page).await.unwrap().unwrap()
}

fn ids(page: &DeliveryPage) -> Vec<DeliveryId> {
    page.deliveries.iter().map(|delivery| delivery.id).collect()
}

#[tokio::test]
async fn pages_are_newest_first_and_totals_count_what_the_filter_selects() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated, PaymentFailed]).await.id;
    let other = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    given(&store, other, BookingCreated, 0).await;
    let mut made = Vec::new();
    for day in 0..4 {
        made.push((given(&store, webhook, BookingCreated, day).await, BookingCreated));
        made.push((given(&store, webhook, PaymentFailed, day).await, PaymentFailed));
    }
    // Each type: two successes, one failure, one pending.
    let results = [AttemptResult::Success, AttemptResult::Failed, AttemptResult::Success];
    for (pair, result) in made.chunks(2).zip(results) {
        for (id, _) in pair {
            store.record_attempts(&[attempt(*id, 1, result)]).await.unwrap();
        }
    }
    let mut newest_first: Vec<_> = made.iter().map(|(id, _)| *id).collect();
    newest_first.sort_unstable_by(|a, b| b.cmp(a));

    let all = DeliveryFilter::default();
    let first = page(&store, webhook, all, 1, 5).await;
    let second = page(&store, webhook, all, 2, 5).await;
    assert_eq!(ids(&first), newest_first[..5]);
    assert_eq!(ids(&second), newest_first[5..]);
    assert_eq!((first.total, first.statistics), (8, counts(2, 4, 2)));
    assert_eq!(ids(&page(&store, webhook, all, 1000, 100).await), []);

    let success = DeliveryFilter { status: Some(DeliveryStatus::Success), event: None };
    let found = page(&store, webhook, success, 1, 20).await;
    assert_eq!((found.deliveries.len(), found.total, found.statistics), (4, 4, counts(2, 4, 2)));
    let payments = DeliveryFilter { status: None, event: Some(PaymentFailed) };
    let found = page(&store, webhook, payments, 1, 20).await;
    assert_eq!((found.deliveries.len(), found.total), (4, 4));
    assert!(found.deliveries.iter().all(|delivery| delivery.event_type == "payment.failed"));
    let both = DeliveryFilter { status: Some(DeliveryStatus::Failed), event: Some(PaymentFailed) };
    let found = page(&store, webhook, both, 1, 20).await;
    assert_eq!((ids(&found), found.total), (vec![made[3].0], 1));
    assert_eq!(found.deliveries[0].status, DeliveryStatus::Failed);
    let pending = DeliveryFilter { status: Some(DeliveryStatus::Pending), event: Some(PaymentFailed) };
    assert_eq!(ids(&page(&store, webhook, pending, 1, 20).await), [made[7].0]);
}

#[tokio::test]
async fn a_webhook_without_deliveries_has_an_empty_history() {
    let database = TestDatabase::create().await;
    let store = store_of(&database);
    let webhook = given_webhook(&store, "alice", &[BookingCreated]).await.id;
    let found = page(&store, webhook, DeliveryFilter::default(), 1, 20).await;
    assert_eq!((found.deliveries.len(), found.total, found.statistics), (0, 0, counts(0, 0, 0)));
}

//! What the tests share.

use std::time::Duration;

use chrono::SubsecRound as _;
use domain::id::DeliveryId;
use domain::retry::AttemptNumber;
use domain::signature::WebhookSecret;
use domain::{EventId, EventType, PublicEventId, Timestamp, UserId, WebhookId};
use ring::rand::SystemRandom;
use store::{
    AttemptRecord, AttemptResult, Created, ManualLimits, NewDelivery, NewEvent, NewWebhook, SecretKeys,
    Statistics, Store, StoreConfig, Webhook,
};
use testkit::TestDatabase;
use testkit::database::SECRET_KEYS;

/// The time now, as precise as PostgreSQL keeps it.
pub(crate) fn now() -> Timestamp {
    service::Clock::system().now().trunc_subsecs(3)
}

/// More attempts by hand than any test makes.
pub(crate) const PLENTY: ManualLimits =
    ManualLimits { per_webhook: 1000, per_user: 1000, per_user_day: 1000 };

/// A store with as many connections as a service has.
pub(crate) fn store_of(database: &TestDatabase) -> Store {
    store_with(database.url(), |_| {})
}

/// A store with other keys of secrets.
pub(crate) fn store_with_keys(database: &TestDatabase, keys: &str) -> Store {
    Store::new(config(database.url()), SecretKeys::parse(keys).unwrap()).unwrap()
}

/// A store whose configuration is not the usual.
pub(crate) fn store_with(url: &str, change: impl FnOnce(&mut StoreConfig)) -> Store {
    let mut config = config(url);
    change(&mut config);
    Store::new(config, SecretKeys::parse(SECRET_KEYS).unwrap()).unwrap()
}

fn config(url: &str) -> StoreConfig {
    let seconds = Duration::from_secs(20);
    StoreConfig {
        url: url.to_owned(),
        name: "store-tests".to_owned(),
        pool_size: 16,
        connect_timeout: seconds,
        acquire_timeout: seconds,
        statement_timeout: seconds,
        ca_file: None,
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub(crate) fn event_id(at: Timestamp) -> EventId {
    EventId::generate(at, &SystemRandom::new()).unwrap()
}

/// An event under a publisher's id.
pub(crate) fn event(publisher_id: Option<&str>, at: Timestamp) -> NewEvent {
    NewEvent {
        id: event_id(at),
        publisher_id: publisher_id.map(|id| PublicEventId::parse(id).unwrap()),
        event_type: EventType::BookingCreated,
        recipients: vec![user("alice"), user("bob")],
        timestamp: domain::timestamp::format(at),
        body: format!("{{\"id\":\"{}\"}}", publisher_id.unwrap_or("none")).into(),
    }
}

pub(crate) fn new_webhook(owner: &str, events: &[EventType]) -> NewWebhook {
    let random = SystemRandom::new();
    NewWebhook {
        id: WebhookId::generate(now(), &random).unwrap(),
        user: user(owner),
        url: "https://receiver.example/hook".to_owned(),
        events: events.to_vec(),
        description: None,
        secret: WebhookSecret::generate(&random).unwrap(),
        created_at: now(),
    }
}

/// A webhook of `owner` that takes these events.
pub(crate) async fn given_webhook(store: &Store, owner: &str, events: &[EventType]) -> Webhook {
    match store.create_webhook(new_webhook(owner, events), 100, None).await.unwrap() {
        Created::New(disclosed) => disclosed.webhook,
        Created::Replayed(webhook, _) => panic!("without a key nothing is replayed: {webhook:?}"),
    }
}

pub(crate) fn delivery(event: EventId, webhook: WebhookId) -> NewDelivery {
    NewDelivery { id: DeliveryId::of(event, webhook), webhook, event, event_type: EventType::BookingCreated }
}

/// Pending deliveries of as many events to one webhook, made at `at`.
pub(crate) async fn given_deliveries(
    store: &Store,
    webhook: WebhookId,
    count: usize,
    at: Timestamp,
) -> Vec<DeliveryId> {
    let deliveries: Vec<_> = (0..count).map(|_| delivery(event_id(at), webhook)).collect();
    let new = store.record_fan_out(&deliveries, &[], at).await.unwrap();
    assert_eq!(new.len(), count, "every delivery is new");
    deliveries.iter().map(|delivery| delivery.id).collect()
}

/// An attempt that got a 500 or, for success, a 200.
pub(crate) fn attempt(delivery: DeliveryId, number: u32, result: AttemptResult) -> AttemptRecord {
    let success = result == AttemptResult::Success;
    AttemptRecord {
        delivery,
        attempt: AttemptNumber::new(number).unwrap(),
        started_at: now(),
        duration: Duration::from_millis(12),
        response_status: Some(if success { 200 } else { 500 }),
        response_body: Some(format!("answer {number}")),
        error: (!success).then(|| format!("error {number}")),
        result,
    }
}

/// The running counters of a webhook, as its owner sees them.
pub(crate) async fn statistics(store: &Store, owner: &str, webhook: WebhookId) -> Statistics {
    let page = store::Page { number: 1, size: 1 };
    let filter = store::DeliveryFilter::default();
    let page = store.list_deliveries(&user(owner), webhook, filter, page).await.unwrap();
    page.expect("the webhook exists").statistics
}

pub(crate) fn counts(pending: u64, success: u64, failed: u64) -> Statistics {
    Statistics { pending, success, failed }
}

//! What the platform says about its deliveries, over the management API.

use anyhow::{Context as _, ensure};
use chrono::DateTime;
use domain::{EventType, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use testkit::ApiClient;

use crate::platform::Platform;
use crate::world::WebhookPlan;

/// The API's bounds: docs/api.md.
const PAGE_SIZE: u64 = 100;
const MAX_PAGES: u64 = 1000;

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Attempts are yet to be made.
    Pending,
    /// An attempt succeeded.
    Success,
    /// All attempts were made in vain.
    Failed,
}

/// A delivery as its developer sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// Its id.
    pub(crate) id: String,
    /// Its event's type.
    pub(crate) event: String,
    /// What became of it.
    pub(crate) status: Status,
    /// Attempts made.
    pub(crate) attempts: u32,
    /// When the last one began.
    pub(crate) last_attempt: Option<DateTime<chrono::Utc>>,
    /// How long it took.
    pub(crate) duration_ms: Option<i64>,
    /// The status that was answered.
    pub(crate) response_status: Option<u16>,
    /// The body that was answered.
    pub(crate) response: Option<Value>,
    /// Why it was no success.
    pub(crate) error: Option<String>,
}

impl Row {
    /// When the last attempt was over.
    pub(crate) fn answered_at(&self) -> Option<Timestamp> {
        Some(self.last_attempt? + chrono::Duration::milliseconds(self.duration_ms?))
    }

    /// The number of the arrival that was answered with what the history shows.
    pub(crate) fn arrival(&self) -> Option<u64> {
        self.response.as_ref()?.get("arrival")?.as_u64()
    }
}

/// The platform's counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Statistics {
    pub(crate) total: u64,
    pub(crate) pending: u64,
    pub(crate) success: u64,
    pub(crate) failed: u64,
}

/// All that one webhook's history says.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// Every delivery, newest first.
    pub(crate) rows: Vec<Row>,
    /// The counts beside them.
    pub(crate) statistics: Statistics,
}

#[derive(Debug, Deserialize)]
struct PageDocument {
    deliveries: Vec<Row>,
    statistics: Statistics,
}

/// A webhook that was created.
#[derive(Debug, Clone)]
pub(crate) struct Webhook {
    /// As it was planned.
    pub(crate) plan: WebhookPlan,
    /// Its id.
    pub(crate) id: String,
    /// Its secret.
    pub(crate) secret: String,
}

/// Creates a webhook.
pub(crate) async fn create(platform: &Platform, plan: WebhookPlan, url: &str) -> anyhow::Result<Webhook> {
    let types: Vec<_> = plan.types.iter().copied().map(EventType::as_str).collect();
    let api = platform.api(&plan.user).await?;
    let answer = api.post("/api/webhooks", &json!({ "url": url, "events": types })).await.expect(201).json();
    let text = |field: &str| answer[field].as_str().map(str::to_owned).context("the answer is no webhook");
    Ok(Webhook { id: text("id")?, secret: text("secret")?, plan })
}

/// Whether every webhook has as many deliveries as it has to have, and none is pending.
pub(crate) async fn is_settled(platform: &Platform, webhooks: &[(Webhook, u64)]) -> anyhow::Result<bool> {
    for (webhook, expected) in webhooks {
        let api = platform.api(&webhook.plan.user).await?;
        let Statistics { total, pending, .. } = page(&api, &webhook.id, 1, 1).await?.statistics;
        if total < *expected || pending > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A webhook's whole history, page by page.
pub(crate) async fn read(platform: &Platform, webhook: &Webhook) -> anyhow::Result<History> {
    let api = platform.api(&webhook.plan.user).await?;
    let mut history = History::default();
    for number in 1..=MAX_PAGES {
        let document = page(&api, &webhook.id, number, PAGE_SIZE).await?;
        history.statistics = document.statistics;
        let is_last = (document.deliveries.len() as u64) < PAGE_SIZE;
        history.rows.extend(document.deliveries);
        if is_last {
            return Ok(history);
        }
    }
    ensure!(
        history.statistics.total <= MAX_PAGES * PAGE_SIZE,
        "{} has more deliveries than the API shows: choose fewer --minutes or a lower --rate",
        webhook.id
    );
    Ok(history)
}

async fn page(api: &ApiClient, id: &str, number: u64, size: u64) -> anyhow::Result<PageDocument> {
    let answer = api.get(&format!("/api/webhooks/{id}/deliveries?page={number}&pageSize={size}")).await;
    ensure!(answer.status == 200, "the history of {id}: {} {}", answer.status, answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

//! Who subscribed to what, what was published, and what the history tells about it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use domain::timestamp::PublishedTimestamp;
use domain::{EventType, Timestamp};
use serde_json::{Value, json};
use testkit::{Event, Webhook};
use tokio::time::Instant;

use crate::platform::Platform;
use crate::say;

/// How often the history is asked for: below the shortest wait between two attempts.
const INTERVAL: Duration = Duration::from_millis(100);

/// Everything that happened.
pub(crate) struct Account<'a> {
    platform: &'a Platform,
    webhooks: Vec<Subscription>,
    published: BTreeMap<EventType, Published>,
    deliveries: Vec<Delivery>,
}

struct Subscription {
    name: &'static str,
    webhook: Webhook,
    events: Vec<EventType>,
}

/// An event that is on its way.
pub(crate) struct Published {
    pub(crate) id: String,
    at: Timestamp,
}

/// A delivery as the history tells it.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) webhook: &'static str,
    pub(crate) event: String,
    pub(crate) event_id: String,
    pub(crate) status: String,
    pub(crate) attempts: u64,
    pub(crate) response_status: Option<u64>,
    pub(crate) response: Value,
    /// From the publish to the answer of the last attempt.
    pub(crate) latency: Duration,
}

impl<'a> Account<'a> {
    pub(crate) fn new(platform: &'a Platform) -> Self {
        Self { platform, webhooks: Vec::new(), published: BTreeMap::new(), deliveries: Vec::new() }
    }

    /// Creates a webhook over the API.
    pub(crate) async fn webhook(
        &mut self,
        name: &'static str,
        user: &str,
        url: &str,
        events: &[EventType],
    ) -> anyhow::Result<Webhook> {
        let names: Vec<_> = events.iter().map(|event| event.as_str()).collect();
        let body = json!({ "url": url, "events": names, "description": name });
        let answer = self.platform.api(user).post("/api/webhooks", &body).await.expect(201).json();
        let text =
            |field: &str| answer[field].as_str().map(str::to_owned).with_context(|| format!("no {field}"));
        let webhook =
            Webhook { id: text("id")?, secret: text("secret")?, user: user.to_owned(), url: text("url")? };
        let subscribed =
            if names.len() == EventType::ALL.len() { "all types".to_owned() } else { names.join(", ") };
        say(&format!("{name:<13} {}  {user:<14} {url:<43} {subscribed}", webhook.id));
        self.webhooks.push(Subscription { name, webhook: webhook.clone(), events: events.to_vec() });
        Ok(webhook)
    }

    /// Publishes the type's example to a user.
    pub(crate) async fn publish(&mut self, event_type: EventType, user: &str) -> anyhow::Result<()> {
        let at = self.platform.clock.now();
        let id = format!("demo-{}-{event_type}", at.timestamp_millis());
        let event = Event::example(event_type).id(&id).timestamp("2024-01-15T10:30:00Z").to(user);
        self.platform.publish(&event).await?;
        say(&format!("{:<18} {id}", event_type.as_str()));
        self.published.insert(event_type, Published { id, at });
        Ok(())
    }

    /// Shows every attempt until no delivery that has to be is pending or not there yet.
    pub(crate) async fn follow(&mut self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let now = self.history().await?;
            for delivery in &now {
                let before = self.find(delivery.webhook, &delivery.event).map_or(0, |before| before.attempts);
                if delivery.attempts > before {
                    say(&line(delivery));
                }
            }
            self.deliveries = now;
            let settled = self.deliveries.iter().filter(|delivery| delivery.status != "pending").count();
            if settled == self.expected() && settled == self.deliveries.len() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "after {limit:?}, {settled} of {} deliveries have ended ({} are there):\n{}",
                    self.expected(),
                    self.deliveries.len(),
                    self.table()
                );
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// One delivery for every event and every webhook of the user it concerns that subscribes to it.
    fn expected(&self) -> usize {
        let concerned = self.webhooks.iter().filter(|it| it.webhook.user == crate::HOST);
        concerned.map(|subscription| subscription.events.len()).sum()
    }

    async fn history(&self) -> anyhow::Result<Vec<Delivery>> {
        let mut deliveries = Vec::new();
        for Subscription { name, webhook, .. } in &self.webhooks {
            let path = format!("{}/deliveries?pageSize=100", webhook.path());
            let page = self.platform.api(&webhook.user).get(&path).await.expect(200).json();
            let listed = page["deliveries"].as_array().context("the history has no deliveries")?;
            for entry in listed {
                deliveries.push(self.read(name, entry).with_context(|| format!("in the history: {entry}"))?);
            }
        }
        Ok(deliveries)
    }

    fn read(&self, webhook: &'static str, entry: &Value) -> anyhow::Result<Delivery> {
        let text =
            |field: &str| entry[field].as_str().map(str::to_owned).with_context(|| format!("no {field}"));
        let event = text("event")?;
        let published = self.published.get(&event.parse()?).context("nobody published this")?;
        let latency = match entry["lastAttempt"].as_str() {
            None => Duration::ZERO,
            Some(started) => {
                let started = PublishedTimestamp::parse(started)?.instant();
                let took = Duration::from_millis(entry["durationMs"].as_u64().unwrap_or(0));
                (started - published.at).to_std().unwrap_or_default() + took
            }
        };
        Ok(Delivery {
            webhook,
            event,
            event_id: published.id.clone(),
            status: text("status")?,
            attempts: entry["attempts"].as_u64().context("no attempts")?,
            response_status: entry["responseStatus"].as_u64(),
            response: entry["response"].clone(),
            latency,
        })
    }

    /// The delivery of one type's event to a webhook.
    pub(crate) fn find(&self, webhook: &str, event: &str) -> Option<&Delivery> {
        self.deliveries.iter().find(|delivery| delivery.webhook == webhook && delivery.event == event)
    }

    /// The deliveries of one webhook.
    pub(crate) fn of(&self, webhook: &str) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter().filter(move |delivery| delivery.webhook == webhook)
    }

    /// The ids of everything published, in order.
    pub(crate) fn event_ids(&self) -> Vec<&str> {
        self.published.values().map(|published| published.id.as_str()).collect()
    }

    /// The end of every delivery.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<13} {:<18} {:<36} {:>8} {:>6} {:<8} {:>10}\n",
            "WEBHOOK", "EVENT", "EVENT ID", "ATTEMPTS", "HTTP", "STATUS", "LATENCY"
        );
        for delivery in &self.deliveries {
            let _ = writeln!(
                text,
                "{:<13} {:<18} {:<36} {:>8} {:>6} {:<8} {:>7} ms",
                delivery.webhook,
                delivery.event,
                delivery.event_id,
                delivery.attempts,
                http(delivery),
                delivery.status,
                delivery.latency.as_millis()
            );
        }
        text
    }
}

fn line(delivery: &Delivery) -> String {
    format!(
        "{:<36} -> {:<13} attempt {}  HTTP {:<3}  {:<8} {:>6} ms after its publish",
        delivery.event_id,
        delivery.webhook,
        delivery.attempts,
        http(delivery),
        delivery.status,
        delivery.latency.as_millis()
    )
}

fn http(delivery: &Delivery) -> String {
    delivery.response_status.map_or_else(|| "-".to_owned(), |status| status.to_string())
}

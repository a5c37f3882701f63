//! The stack that `run.sh` started, as an internal service and as a developer see it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use broker::{Broker, Message, Publisher, PublisherConfig};
use service::{Clock, Settings};
use testkit::{ApiClient, Event, HttpClient, token};
use tokio::time::timeout;

/// The longest wait for the broker.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// Where everything is.
pub(crate) struct Platform {
    api_url: String,
    hs256_secret: String,
    settings: Settings,
    broker: Broker,
    publisher: Publisher,
    http: HttpClient,
    pub(crate) clock: Clock,
}

impl Platform {
    /// From the variables of the stack's `env` file.
    pub(crate) async fn from_environment() -> anyhow::Result<Self> {
        let environment: BTreeMap<String, String> = std::env::vars().collect();
        let settings = service::settings::load(&environment, &["amqp.url", "auth.hs256_secret"])
            .context("run deploy/demo/run.sh: it starts the stack and tells where it is")?;
        let secret = settings.auth.hs256_secret.as_ref().context("auth.hs256_secret")?.expose().to_owned();
        let broker = backends::broker_to_look_at(&settings, "demo")?;
        timeout(CONNECT_LIMIT, broker.ready()).await.context("the broker does not answer")?;
        Ok(Self {
            api_url: environment.get("LOK_API_URL").context("LOK_API_URL is not set")?.clone(),
            hs256_secret: secret,
            publisher: broker.publisher(PublisherConfig::default()),
            broker,
            settings,
            http: HttpClient::default(),
            clock: Clock::system(),
        })
    }

    /// The management API as a user sees it.
    pub(crate) fn api(&self, user: &str) -> ApiClient {
        let token = token::hs256(&self.hs256_secret, user);
        ApiClient::new(self.http.clone(), &self.api_url).bearer(&token)
    }

    /// Publishes an event, confirmed.
    pub(crate) async fn publish(&self, event: &Event) -> anyhow::Result<()> {
        let exchange = backends::names(&self.settings).events_exchange();
        let message = Message::to_exchange(exchange, event.event_type().as_str(), event.to_json().into())
            .content_type(wire::JSON);
        let _confirmed =
            self.publisher.publish(message).await.context("the broker did not take the event")?;
        Ok(())
    }

    /// The waits before attempts 2, 3, …
    pub(crate) fn retry_delays(&self) -> Vec<Duration> {
        self.settings.delivery.retry_delays.0.iter().map(|delay| delay.0).collect()
    }

    /// The schedule in words.
    pub(crate) fn schedule(&self) -> String {
        let delays = &self.settings.delivery.retry_delays;
        let promised = &Settings::default().delivery.retry_delays;
        let text = |delays: &[service::values::Span]| {
            delays.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ")
        };
        format!(
            "(waits between attempts, shortened for this demo by LOK__DELIVERY__RETRY_DELAYS: {}; the guide's: {})",
            text(&delays.0),
            text(&promised.0)
        )
    }

    /// Messages in the rejected queue.
    pub(crate) async fn rejected(&self) -> anyhow::Result<u32> {
        let queue = backends::names(&self.settings).rejected_queue();
        self.broker.inspector().depth(&queue).await?.with_context(|| format!("there is no queue {queue}"))
    }
}

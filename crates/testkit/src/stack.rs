//! A database, a queue prefix and services that work together.

use std::collections::BTreeMap;
use std::fmt;

use broker::{Broker, Message, Publisher, PublisherConfig, Received};
use bytes::Bytes;
use domain::pace::ParkDelays;
use domain::shard::Shards;
use domain::{EventId, EventType};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};
use service::Clock;
use wire::moved;

use crate::binary::{Binary, Service};
use crate::database::{SECRET_KEYS, TestDatabase};
use crate::event::Event;
use crate::eventually::DEADLINE;
use crate::fault_proxy::FaultProxy;
use crate::http_client::{ApiClient, HttpClient};
use crate::private_servers::PrivateServers;
use crate::queues::{self, TestQueues};
use crate::servers::Servers;
use crate::{run_id, token};

/// What a test's stack is made of.
#[derive(Debug, Clone)]
pub struct StackBuilder {
    with_api: bool,
    ingests: usize,
    /// The CPUs that each process of dispatcher runs on; `None`: any.
    dispatchers: Vec<Option<String>>,
    behind_proxies: bool,
    on_private_servers: bool,
    environment: BTreeMap<String, String>,
}

impl StackBuilder {
    /// Without management-api.
    #[must_use]
    pub fn no_api(mut self) -> Self {
        self.with_api = false;
        self
    }

    /// With this many processes of event-ingest instead of one.
    #[must_use]
    pub fn ingests(mut self, count: usize) -> Self {
        self.ingests = count;
        self
    }

    /// With this many processes of dispatcher instead of one.
    #[must_use]
    pub fn dispatchers(mut self, count: usize) -> Self {
        self.dispatchers = vec![None; count];
        self
    }

    /// With a process of dispatcher on each of these lists of CPUs ([`Binary::on_cpus`]) instead of one on all.
    #[must_use]
    pub fn dispatchers_on(mut self, cpus: impl IntoIterator<Item = String>) -> Self {
        self.dispatchers = cpus.into_iter().map(Some).collect();
        self
    }

    /// With a [`FaultProxy`] between the services and the database, and one before the broker. The test's own
    /// connections go past them.
    #[must_use]
    pub fn behind_proxies(mut self) -> Self {
        self.behind_proxies = true;
        self
    }

    /// On a PostgreSQL and a RabbitMQ of the test's own instead of the shared ones: see [`Stack::servers`].
    #[must_use]
    pub fn private_servers(mut self) -> Self {
        self.on_private_servers = true;
        self
    }

    /// With this environment variable for every service.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// Starts everything and waits until it is ready.
    pub async fn start(self) -> Stack {
        let mut private_servers = None;
        if self.on_private_servers {
            private_servers = Some(PrivateServers::start().await);
        }
        let servers = private_servers.as_ref().map_or_else(Servers::shared, PrivateServers::servers);
        let database = TestDatabase::create_on(&servers).await;
        let (mut database_url, mut amqp_url) = (database.url().to_owned(), servers.amqp_url().to_owned());
        let (mut database_proxy, mut amqp_proxy) = (None, None);
        if self.behind_proxies {
            database_proxy = Some(FaultProxy::put_before(&mut database_url, 5432).await);
            amqp_proxy = Some(FaultProxy::put_before(&mut amqp_url, 5672).await);
        }
        let (hs256_secret, ingest_token) = (random_text(), random_text());
        let mut environment = BTreeMap::from(
            [
                ("RUST_LOG", "info"),
                ("LOK__DATABASE__URL", &database_url),
                ("LOK__DATABASE__POOL_SIZE", "8"),
                ("LOK__AMQP__URL", &amqp_url),
                ("LOK__API__LISTEN", "127.0.0.1:0"),
                ("LOK__INGEST__LISTEN", "127.0.0.1:0"),
                ("LOK__INGEST__TOKEN", &ingest_token),
                ("LOK__ADMIN__LISTEN", "127.0.0.1:0"),
                ("LOK__EGRESS__ALLOW_HTTP", "true"),
                ("LOK__EGRESS__ALLOWED_NETWORKS", "127.0.0.0/8,::1/128"),
                ("LOK__AUTH__HS256_SECRET", &hs256_secret),
                ("LOK__SECRETS__KEYS", SECRET_KEYS),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        environment.extend(self.environment);

        let queues = reserve_queues(&servers, &environment).await;
        environment.insert("LOK__AMQP__PREFIX".to_owned(), queues.prefix().to_owned());
        let broker = queues::connect_to(servers.amqp_url(), queues.topology());
        let publisher = broker.publisher(PublisherConfig::default());

        let binary = |name: &str| Binary::new(name).envs(&environment);
        let dispatcher = |cpus: &Option<String>| match cpus {
            None => binary("dispatcher").spawn(),
            Some(cpus) => binary("dispatcher").on_cpus(cpus).spawn(),
        };
        let mut stack = Stack {
            api: self.with_api.then(|| binary("management-api").spawn()),
            ingests: (0..self.ingests).map(|_| binary("event-ingest").spawn()).collect(),
            dispatchers: self.dispatchers.iter().map(dispatcher).collect(),
            broker,
            publisher,
            api_url: String::new(),
            ingest_urls: Vec::new(),
            hs256_secret,
            ingest_token,
            environment,
            http: HttpClient::default(),
            database_proxy,
            amqp_proxy,
            queues,
            database,
            private_servers,
        };
        stack.wait_ready().await;
        stack
    }
}

/// Reserves a prefix for the topology that services with this environment declare.
async fn reserve_queues(servers: &Servers, environment: &BTreeMap<String, String>) -> TestQueues {
    let settings = service::settings::load(environment, &[]);
    let settings = settings.unwrap_or_else(|error| panic!("the test's settings: {error}"));
    let (amqp, delivery) = (settings.amqp, settings.delivery);
    let shards = Shards::new(amqp.shards.max(amqp.drain_shards));
    let retry_delays = delivery.retry_delays.0.iter().map(|delay| delay.0).collect();
    let park_delays = delivery.park_delays.0.iter().map(|delay| delay.0);
    TestQueues::reserve_on(servers, retry_delays, ParkDelays::new(park_delays), shards).await
}

/// 256 random bits as text.
fn random_text() -> String {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).expect("the system gives randomness");
    run_id::hex(&bytes)
}

/// A database, a queue prefix and services that work together. Dropped, it is all gone.
pub struct Stack {
    // Fields are dropped in their order: processes before what they use.
    /// The management API, unless the test does without.
    pub api: Option<Service>,
    /// The processes of event-ingest.
    pub ingests: Vec<Service>,
    /// The processes of dispatcher.
    pub dispatchers: Vec<Service>,
    publisher: Publisher,
    broker: Broker,
    api_url: String,
    ingest_urls: Vec<String>,
    hs256_secret: String,
    ingest_token: String,
    environment: BTreeMap<String, String>,
    http: HttpClient,
    database_proxy: Option<FaultProxy>,
    amqp_proxy: Option<FaultProxy>,
    queues: TestQueues,
    /// The database.
    pub database: TestDatabase,
    private_servers: Option<PrivateServers>,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stack").field(&self.queues.prefix()).finish()
    }
}

/// A webhook as the API gave it to the developer.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// The owner's user id.
    pub user: String,
    /// Where its events go.
    pub url: String,
}

impl Webhook {
    /// `/api/webhooks/{id}`.
    pub fn path(&self) -> String {
        format!("/api/webhooks/{}", self.id)
    }
}

impl Stack {
    /// One process of each service, the defaults of the services, and loopback receivers allowed.
    pub fn builder() -> StackBuilder {
        StackBuilder {
            with_api: true,
            ingests: 1,
            dispatchers: vec![None],
            behind_proxies: false,
            on_private_servers: false,
            environment: BTreeMap::new(),
        }
    }

    /// Waits until every service is ready, and learns their ports anew: those of restarted ones change.
    pub async fn wait_ready(&mut self) {
        for service in self.services() {
            service.wait_ready(DEADLINE).await;
        }
        if let Some(api) = &mut self.api {
            self.api_url = api.url().await;
        }
        self.ingest_urls.clear();
        for ingest in &mut self.ingests {
            self.ingest_urls.push(ingest.url().await);
        }
    }

    /// Every process.
    pub fn services(&mut self) -> impl Iterator<Item = &mut Service> {
        self.api.iter_mut().chain(&mut self.ingests).chain(&mut self.dispatchers)
    }

    /// The services' environment, for further binaries on the same stack.
    pub fn environment(&self) -> &BTreeMap<String, String> {
        &self.environment
    }

    /// A binary on this stack, for example `lokctl`.
    pub fn binary(&self, name: &str) -> Binary {
        Binary::new(name).envs(&self.environment)
    }

    /// The secret of this stack's HS256 tokens.
    pub fn hs256_secret(&self) -> &str {
        &self.hs256_secret
    }

    /// The token of `POST /v1/events`.
    pub fn ingest_token(&self) -> &str {
        &self.ingest_token
    }

    /// The management API as a user sees it.
    pub fn api(&self, user: &str) -> ApiClient {
        self.anonymous_api().bearer(&token::hs256(&self.hs256_secret, user))
    }

    /// The management API without a token.
    pub fn anonymous_api(&self) -> ApiClient {
        assert!(!self.api_url.is_empty(), "this stack has no management-api");
        ApiClient::new(self.http.clone(), &self.api_url)
    }

    /// The HTTP side of the first event-ingest, with its token.
    pub fn ingest(&self) -> ApiClient {
        let url = self.ingest_urls.first().expect("this stack has an event-ingest");
        ApiClient::new(self.http.clone(), url).bearer(&self.ingest_token)
    }

    /// The servers of this stack alone.
    pub fn servers(&self) -> &PrivateServers {
        self.private_servers.as_ref().expect("this stack is on private servers")
    }

    /// The proxy between the services and the database.
    pub fn database_proxy(&self) -> &FaultProxy {
        self.database_proxy.as_ref().expect("this stack is behind proxies")
    }

    /// The proxy between the services and the broker.
    pub fn amqp_proxy(&self) -> &FaultProxy {
        self.amqp_proxy.as_ref().expect("this stack is behind proxies")
    }

    /// The queue names.
    pub fn queues(&self) -> &TestQueues {
        &self.queues
    }

    /// The broker, for what the verbs here do not do.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Creates a webhook through the API.
    pub async fn given_webhook(&self, user: &str, url: &str, events: &[EventType]) -> Webhook {
        let events: Vec<_> = events.iter().map(|event| event.as_str()).collect();
        let body = json!({ "url": url, "events": events });
        let answer = self.api(user).post("/api/webhooks", &body).await.expect(201).json();
        let text = |field: &str| {
            answer[field].as_str().unwrap_or_else(|| panic!("no {field} in {answer}")).to_owned()
        };
        Webhook { id: text("id"), secret: text("secret"), user: user.to_owned(), url: text("url") }
    }

    /// Publishes an event in JSON over AMQP and waits for the confirm.
    pub async fn publish(&self, event: &Event) {
        self.publish_message(self.message(event)).await;
    }

    /// Publishes events in JSON over AMQP, many in flight, and waits for all confirms.
    pub async fn publish_all(&self, events: &[Event]) {
        let messages = events.iter().map(|event| self.message(event));
        let confirmed = self.publisher.publish_all(messages).await;
        let _ = confirmed.unwrap_or_else(|error| panic!("the broker did not take the events: {error}"));
    }

    /// Publishes an event in protobuf over AMQP and waits for the confirm.
    pub async fn publish_protobuf(&self, event: &Event) {
        let mut message = self.message(event).content_type(wire::PROTOBUF);
        message.body = event.to_protobuf().into();
        self.publish_message(message).await;
    }

    /// Publishes any message and waits for the confirm.
    pub async fn publish_message(&self, message: Message) {
        let confirmed = self.publisher.publish(message).await;
        let _ = confirmed.unwrap_or_else(|error| panic!("the broker did not take the message: {error}"));
    }

    /// The message that [`Stack::publish`] publishes.
    pub fn message(&self, event: &Event) -> Message {
        let exchange = self.queues.names().events_exchange();
        Message::to_exchange(exchange, event.event_type().as_str(), event.to_json().into())
            .content_type(wire::JSON)
    }

    /// The bytes of a group of events that moved out of the way of others, each with an id of its own.
    pub fn moved(&self, events: &[Event]) -> Bytes {
        let messages: Vec<_> = events.iter().map(|event| Received::from(self.message(event))).collect();
        let id =
            || EventId::generate(Clock::system().now(), &SystemRandom::new()).expect("there is randomness");
        let groups = moved::encode(messages.iter().map(|message| (id(), message)));
        <[_; 1]>::try_from(groups).expect("they are few").into_iter().next().unwrap_or_default()
    }

    /// A webhook's history as its owner sees it; `query` for example `status=failed`.
    pub async fn history(&self, webhook: &Webhook, query: &str) -> Value {
        let path = format!("{}/deliveries?{query}", webhook.path());
        self.api(&webhook.user).get(&path).await.expect(200).json()
    }

    /// Messages ready in a queue; 0 if there is no such queue.
    pub async fn depth(&self, queue: &str) -> u32 {
        let depth = self.broker.inspector().depth(queue).await;
        depth.unwrap_or_else(|error| panic!("{queue} cannot be looked at: {error}")).unwrap_or(0)
    }
}

//! Configuration: built-in defaults < the TOML file named by `LOK_CONFIG` < `LOK__SECTION__KEY`.

mod load;

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::values::{List, Listen, Secret, Size, Span};

pub use load::{ConfigError, key_table, load, print};

/// A key as `--help` explains it.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The TOML section.
    pub section: &'static str,
    /// The key within it.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// Defines the sections with their keys, defaults and explanations in one place.
macro_rules! settings {
    ($($(#[doc = $section_doc:literal])+ $section:ident: $Section:ident {
        $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr,)*
    })*) => {
        /// Every section. One file serves all services: each takes what it needs.
        #[derive(Debug, Clone, Default, Deserialize, Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Settings {
            $($(#[doc = $section_doc])+ pub $section: $Section,)*
        }

        $(
            $(#[doc = $section_doc])+
            #[derive(Debug, Clone, Deserialize, Serialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $Section {
                $($(#[doc = $doc])+ pub $key: $type,)*
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $($key: $default,)* }
                }
            }
        )*

        /// Every key, in the order of the sections.
        pub const KEYS: &[Key] = &[
            $($(Key {
                section: stringify!($section),
                name: stringify!($key),
                meaning: concat!($($doc),+),
            },)*)*
        ];
    };
}

settings! {
    /// PostgreSQL.
    database: Database {
        /// postgres://user:password@host:port/database; `sslmode=require` for TLS with a verified server.
        url: Option<Secret> = None,
        /// Most connections of one process.
        pool_size: u32 = 16,
        /// Longest wait for a new connection.
        connect_timeout: Span = Span::secs(5),
        /// Longest wait for a connection from the pool.
        acquire_timeout: Span = Span::secs(5),
        /// Longest run of one statement.
        statement_timeout: Span = Span::secs(30),
        /// PEM certificates to trust instead of the platform's.
        ca_file: Option<PathBuf> = None,
    }
    /// RabbitMQ.
    amqp: Amqp {
        /// amqp://user:password@host:port/vhost, or amqps://.
        url: Option<Secret> = None,
        /// Put before every exchange and queue name, so that several stacks share a broker.
        prefix: String = String::new(),
        /// Interval of heartbeats.
        heartbeat: Span = Span::secs(10),
        /// Longest wait for a connection, a channel or a declaration.
        connect_timeout: Span = Span::secs(10),
        /// Longest wait for a publish to be confirmed.
        publish_timeout: Span = Span::secs(30),
        /// PEM certificates to trust instead of the platform's.
        ca_file: Option<PathBuf> = None,
    }
    /// The management API.
    api: Api {
        /// Where it listens.
        listen: Listen = Listen(([127, 0, 0, 1], 8080).into()),
        /// Threads that serve requests.
        workers: u32 = 2,
        /// Largest request body.
        body_limit: Size = Size(64 * 1024),
        /// Longest wait for a request's head and body.
        request_timeout: Span = Span::secs(15),
        /// Connections at once, per thread.
        max_connections: u32 = 4096,
    }
    /// Taking events from internal services.
    ingest: Ingest {
        /// Where `POST /v1/events` listens.
        listen: Listen = Listen(([127, 0, 0, 1], 8081).into()),
        /// The bearer token of `POST /v1/events`.
        token: Option<Secret> = None,
        /// AMQP messages taken ahead; all of them may be as large as the broker lets them be.
        prefetch: u16 = 200,
        /// Events stored with one statement.
        batch_events: u32 = 500,
        /// Bytes stored with one statement.
        batch_bytes: Size = Size(1024 * 1024),
        /// Events in one HTTP request.
        http_max_events: u32 = 1000,
        /// Largest HTTP request body; the memory for four of them is what all have.
        http_body_limit: Size = Size(4 * 1024 * 1024),
        /// Longest wait of an HTTP request for its events to be durable; then it is answered 503.
        http_timeout: Span = Span::secs(10),
    }
    /// Health, readiness and metrics.
    admin: Admin {
        /// Where it listens. Default: 127.0.0.1:9080 management-api, :9081 event-ingest, :9082 dispatcher.
        listen: Option<Listen> = None,
    }
    /// Delivering events to webhooks.
    delivery: Delivery {
        /// The wait before attempt 2, 3, …; one more attempt than waits.
        retry_delays: List<Span> = List(vec![Span::secs(60), Span::secs(300)]),
        /// One attempt, from start to status line.
        timeout: Span = Span::secs(10),
        /// Requests on the wire per dispatcher.
        max_in_flight: u32 = 768,
        /// Requests on the wire for one webhook per dispatcher.
        max_in_flight_per_webhook: u32 = 32,
        /// Longest wait of an attempt for its webhook's turn before it is parked on the broker.
        max_wait: Span = Span::millis(500),
        /// How long a parked attempt stays parked.
        park_delay: Span = Span::secs(5),
        /// Attempts taken ahead from the broker.
        prefetch: u16 = 2000,
        /// Fan-out messages taken ahead from the broker.
        fan_out_prefetch: u16 = 16,
        /// Bodies up to this size travel with every attempt; larger ones are read when it is made.
        inline_body: Size = Size(16 * 1024),
        /// Memory for larger bodies: those of the requests on the wire. A dispatcher takes twice as much while it reads them.
        body_memory: Size = Size(32 * 1024 * 1024),
        /// Kept of a response's body.
        response_limit: Size = Size(16 * 1024),
    }
    /// Outgoing requests.
    egress: Egress {
        /// Accept plain `http` URLs.
        allow_http: bool = false,
        /// CIDRs excepted from the blocked networks.
        allowed_networks: List<IpNet> = List::default(),
        /// Longest wait for DNS, connection and TLS; part of the attempt's time.
        connect_timeout: Span = Span::secs(5),
        /// How long an idle connection to a receiver is kept. Below the 2 s after which common servers close theirs.
        idle_timeout: Span = Span::millis(1500),
        /// PEM certificates to trust instead of the platform's.
        ca_file: Option<PathBuf> = None,
    }
    /// What dispatchers remember.
    cache: Cache {
        /// Subscriptions that are remembered; a user without any counts as one.
        subscriptions: u32 = 200_000,
        /// Webhooks whose targets are remembered.
        webhooks: u32 = 20_000,
        /// Longest time without asking again, in case a notification was lost.
        max_age: Span = Span::secs(30),
    }
    /// Putting back what has lost its message.
    recovery: Recovery {
        /// The time between two looks.
        interval: Span = Span::secs(5),
        /// How long, beyond the time of an attempt, what should have been looked at may be late before it counts as lost.
        slack: Span = Span::secs(20),
    }
    /// How bearer tokens of the management API are checked.
    auth: Auth {
        /// Secret of HS256 tokens.
        hs256_secret: Option<Secret> = None,
        /// JWKS file with the public keys of `RS256`, `ES256` and `EdDSA` tokens.
        jwks_file: Option<PathBuf> = None,
        /// JWKS URL; not served yet by this version: use a file.
        jwks_url: Option<String> = None,
        /// Required `iss`.
        issuer: Option<String> = None,
        /// Required `aud`.
        audience: Option<String> = None,
        /// Tolerated clock difference for `exp` and `nbf`.
        leeway: Span = Span::secs(30),
    }
    /// Encryption at rest.
    secrets: Secrets {
        /// id:base64-of-32-bytes, separated by commas; the first encrypts, all decrypt.
        keys: Option<Secret> = None,
    }
    /// What users may have.
    limits: Limits {
        /// Webhooks per user.
        webhooks_per_user: u32 = 100,
        /// Event types per webhook.
        events_per_webhook: u32 = 20,
    }
    /// How long things are kept.
    retention: Retention {
        /// Days that events, deliveries and attempts are kept.
        days: u32 = 30,
    }
    /// Logs. The filter is `RUST_LOG`, `info` by default.
    log: Log {
        /// `json`, or `text` for people.
        format: LogFormat = LogFormat::Json,
    }
    /// Going down.
    shutdown: Shutdown {
        /// From SIGTERM to the end of the process, at most; a dispatcher's is longer than delivery.timeout.
        grace: Span = Span::secs(15),
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// Bodies and batches are held in memory.
const MAX_BODY: u64 = 1024 * 1024 * 1024;

fn bytes(size: Size) -> u64 {
    u64::try_from(size.0).unwrap_or(u64::MAX)
}

impl Settings {
    /// What is out of bounds, each with its key.
    fn out_of_bounds(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let mut bound = |key, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                wrong.push((key, format!("must be {min} to {max}, is {value}")));
            }
        };
        bound("database.pool_size", self.database.pool_size.into(), 1, 1000);
        bound("api.workers", self.api.workers.into(), 1, 256);
        bound("api.max_connections", self.api.max_connections.into(), 1, 1_000_000);
        bound("api.body_limit", bytes(self.api.body_limit), 1024, MAX_BODY);
        bound("ingest.prefetch", self.ingest.prefetch.into(), 1, 60_000);
        bound("ingest.batch_events", self.ingest.batch_events.into(), 1, 10_000);
        bound("ingest.batch_bytes", bytes(self.ingest.batch_bytes), 1024, MAX_BODY);
        bound("ingest.http_max_events", self.ingest.http_max_events.into(), 1, 10_000);
        bound("ingest.http_body_limit", bytes(self.ingest.http_body_limit), 1024, MAX_BODY);
        bound("delivery.max_in_flight", self.delivery.max_in_flight.into(), 1, 100_000);
        bound(
            "delivery.max_in_flight_per_webhook",
            self.delivery.max_in_flight_per_webhook.into(),
            1,
            100_000,
        );
        bound("delivery.prefetch", self.delivery.prefetch.into(), 1, 60_000);
        bound("delivery.fan_out_prefetch", self.delivery.fan_out_prefetch.into(), 1, 1000);
        bound("delivery.body_memory", bytes(self.delivery.body_memory), 1024, MAX_BODY);
        bound("cache.subscriptions", self.cache.subscriptions.into(), 1, 100_000_000);
        bound("cache.webhooks", self.cache.webhooks.into(), 1, 100_000_000);
        bound("limits.webhooks_per_user", self.limits.webhooks_per_user.into(), 1, 100_000);
        bound("limits.events_per_webhook", self.limits.events_per_webhook.into(), 1, 1000);
        bound("retention.days", self.retention.days.into(), 1, 3650);

        let mut span = |key, value: Span, min: Span, max: Span| {
            if !(min..=max).contains(&value) {
                wrong.push((key, format!("must be {min} to {max}, is {value}")));
            }
        };
        let day = Span(Duration::from_hours(24));
        span("database.connect_timeout", self.database.connect_timeout, Span::millis(10), Span::secs(300));
        span("database.acquire_timeout", self.database.acquire_timeout, Span::millis(10), Span::secs(300));
        span("delivery.timeout", self.delivery.timeout, Span::millis(1), Span::secs(300));
        span("delivery.park_delay", self.delivery.park_delay, Span::millis(10), Span::secs(3600));
        span("recovery.interval", self.recovery.interval, Span::millis(100), Span::secs(30));
        span("recovery.slack", self.recovery.slack, Span::secs(1), day);
        span("amqp.heartbeat", self.amqp.heartbeat, Span::secs(1), Span::secs(3600));
        span("amqp.connect_timeout", self.amqp.connect_timeout, Span::millis(10), Span::secs(300));
        span("amqp.publish_timeout", self.amqp.publish_timeout, Span::millis(10), Span::secs(3600));
        span("database.statement_timeout", self.database.statement_timeout, Span::millis(10), day);
        span("api.request_timeout", self.api.request_timeout, Span::millis(10), Span::secs(300));
        span("ingest.http_timeout", self.ingest.http_timeout, Span::millis(10), Span::secs(300));
        span("egress.connect_timeout", self.egress.connect_timeout, Span::millis(1), Span::secs(300));
        span("egress.idle_timeout", self.egress.idle_timeout, Span::millis(1), Span::secs(3600));
        span("delivery.max_wait", self.delivery.max_wait, Span::millis(1), Span::secs(3600));
        span("cache.max_age", self.cache.max_age, Span::millis(10), Span::secs(3600));
        span("shutdown.grace", self.shutdown.grace, Span::secs(1), Span::secs(3600));
        for delay in &self.delivery.retry_delays.0 {
            span("delivery.retry_delays", *delay, Span::millis(1), Span::secs(7 * 86_400));
        }
        if self.delivery.retry_delays.0.len() > 20 {
            wrong.push(("delivery.retry_delays", "must be at most 20 waits".to_owned()));
        }
        wrong
    }
}

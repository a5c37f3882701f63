//! Configuration: built-in defaults < the TOML file named by `LOK_CONFIG` < `LOK__SECTION__KEY`.

mod bounds;
mod load;

use std::net::SocketAddr;
use std::path::PathBuf;

use domain::network::OpenedName;
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
        /// Queues of a kind between event-ingest and the requests, of which each carries a part: where one quorum queue is the limit.
        shards: u16 = 1,
        /// Shards that are worked off at least: what `shards` was, after it was lowered, until those that are gone are empty.
        drain_shards: u16 = 1,
        /// Declare exchange and queues at every connect. Without, the process needs no right to: others have to.
        declare: bool = true,
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
        /// Largest head of a request: its line and its header fields.
        head_limit: Size = Size(32 * 1024),
        /// Longest wait for a request's head, and as long again for its body.
        request_timeout: Span = Span::secs(15),
        /// Longest time from a request's head to its answer; then it is answered 503.
        answer_timeout: Span = Span::secs(60),
        /// Longest time that a client takes nothing of its answer; four times as long for all of it. Then its connection is closed.
        write_timeout: Span = Span::secs(15),
        /// Memory for answers that are larger than 16 KiB and not taken yet; what does not fit is answered 503.
        answer_memory: Size = Size(32 * 1024 * 1024),
        /// How long a connection without requests is kept.
        idle_timeout: Span = Span::secs(75),
        /// Connections at once, per thread.
        max_connections: u32 = 1024,
        /// Connections at once of one IPv4 address or IPv6 /64; trusted proxies may have any number.
        connections_per_address: u32 = 256,
        /// Requests a second of one user, per replica. Reading counts 1, a deep page of deliveries more, changing 2, a test event 5.
        user_rate: u32 = 20,
        /// Requests at once of a user who sent none for a while.
        user_burst: u32 = 400,
        /// Pages of webhooks and deliveries of a user at once, per replica, until they are taken.
        user_concurrency: u32 = 8,
        /// Requests a second of one IPv4 address or IPv6 /64, per replica.
        address_rate: u32 = 100,
        /// Requests at once of an address that sent none for a while.
        address_burst: u32 = 1000,
        /// What a token that is not accepted counts for its address, in a count of its own with the rate of addresses.
        failed_token_cost: u32 = 10,
        /// Users, and as many addresses, whose requests are counted apart.
        remembered: u32 = 100_000,
        /// CIDRs of the proxies and load balancers before the API: they are believed about who their clients are.
        trusted_proxies: List<IpNet> = List::default(),
        /// How many of them a request passes at most, one after the other.
        trusted_hops: u32 = 1,
        /// How they say it: `x-forwarded-for` or `forwarded`. They must not pass on what clients say in this header without adding to it.
        proxy_header: ProxyHeader = ProxyHeader::XForwardedFor,
    }
    /// Taking events from internal services.
    ingest: Ingest {
        /// Where `POST /v1/events` listens.
        listen: Listen = Listen(([127, 0, 0, 1], 8081).into()),
        /// The bearer token of `POST /v1/events`; several, separated by commas, while one takes another's place.
        token: Option<Secret> = None,
        /// AMQP messages taken ahead; all of them may be as large as the broker lets them be.
        prefetch: u16 = 300,
        /// Further messages taken ahead while many are waiting and have up to 16 KiB each.
        small_prefetch: u16 = 1000,
        /// Groups of events that come in bursts taken ahead, of up to 64 KiB each, or one larger event.
        bulk_prefetch: u16 = 16,
        /// Percent of the events waiting that one user may have; if it is more, they are stored after those of others. 100: never.
        burst_share: u16 = 25,
        /// Events that have to be waiting for that: those that are worked off together.
        burst_batch: u16 = 32,
        /// Events that dispatchers may have to do before more of a burst is stored and handed to them.
        bulk_ahead: u32 = 200,
        /// Events stored with one statement.
        batch_events: u32 = 1000,
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
        /// Requests on the wire for one webhook per dispatcher. With large bodies that wait for memory a few more.
        max_in_flight_per_webhook: u32 = 32,
        /// Longest wait of an attempt for its webhook's turn before it is parked on the broker.
        max_wait: Span = Span::millis(500),
        /// How long attempts stay parked, the shortest first. A longer one is for a receiver that has not answered for that long; the last
        /// has to be longer than an attempt takes.
        park_delays: List<Span> = List([5, 10, 20, 40, 80, 160, 320, 640].map(Span::secs).into()),
        /// Attempts that are to be parked wait for others so long at most, and are parked together.
        park_together: Span = Span::millis(100),
        /// Attempts taken ahead from the broker, of all shards together; one of each at least.
        prefetch: u16 = 2000,
        /// Fan-out messages taken ahead from the broker, of all shards together; one of each at least.
        fan_out_prefetch: u16 = 128,
        /// Deliveries of one event whose first attempts are made by the dispatcher that fans it out; those of an event with more are
        /// spread over all dispatchers.
        inline_fan_out: u32 = 1000,
        /// Longest time that an event's message is held for one of its deliveries: in which it waits for what all webhooks share, and then
        /// is under way. Then another message stands for it. With more than the first of `park_delays`, less a second, every first attempt
        /// looks for a row first.
        hold: Span = Span::millis(500),
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
        /// CIDRs that are blocked too, whether public or excepted: your own public addresses, a NAT64 prefix of your own.
        blocked_networks: List<IpNet> = List::default(),
        /// Ports that are opened besides, though they are other protocols' (25, 6667, …).
        allowed_ports: List<u16> = List::default(),
        /// Names that are opened, with those below them, though they are none of the public DNS: hooks.internal. Their addresses need
        /// `allowed_networks`.
        allowed_names: List<OpenedName> = List::default(),
        /// Name servers to ask instead of the system's: `10.0.0.53:53,[fd00::53]:53`.
        name_servers: List<SocketAddr> = List::default(),
        /// Longest wait for a name's addresses; part of `connect_timeout`.
        dns_timeout: Span = Span::secs(8),
        /// Names that are looked up at once; one whose servers do not answer takes up to 8 sockets. Not below `delivery.max_in_flight`: then
        /// no request waits for others' names.
        dns_lookups: u32 = 1024,
        /// Names that are remembered.
        dns_cache: u32 = 10_000,
        /// Longest time that a name's addresses are remembered, whatever DNS says.
        dns_max_ttl: Span = Span::secs(300),
        /// Longest time that the lack of addresses is remembered.
        dns_max_negative_ttl: Span = Span::secs(10),
        /// Longest wait for DNS, connection and TLS; part of the attempt's time.
        connect_timeout: Span = Span::secs(10),
        /// How long an idle connection to a receiver is kept. Below the 2 s after which common servers close theirs.
        idle_timeout: Span = Span::millis(1500),
        /// How long a connection to a receiver takes new requests. Changes of DNS take effect within it.
        connection_lifetime: Span = Span::secs(300),
        /// Connections open at once, beyond which none is kept idle.
        max_connections: u32 = 4096,
        /// A proxy that all requests leave through: http://user:password@host:port. The environment's proxies are never used.
        proxy: Option<Secret> = None,
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
        /// URL of a JWKS with more of them; fetched at the start and again and again. https.
        jwks_url: Option<String> = None,
        /// Accept plain `http` for the JWKS URL: for development.
        jwks_allow_http: bool = false,
        /// Longest time that fetched keys are used without asking again. `Cache-Control` can shorten it.
        jwks_max_age: Span = Span::secs(300),
        /// Shortest time between two fetches, however many tokens name keys that are not known.
        jwks_min_interval: Span = Span::secs(5),
        /// Longest wait for the whole of a JWKS.
        jwks_timeout: Span = Span::secs(5),
        /// Largest JWKS.
        jwks_size_limit: Size = Size(256 * 1024),
        /// PEM certificates to trust for the JWKS URL instead of the platform's.
        jwks_ca_file: Option<PathBuf> = None,
        /// Required `iss`.
        issuer: Option<String> = None,
        /// Required `aud`.
        audience: Option<String> = None,
        /// Tolerated clock difference for `exp` and `nbf`.
        leeway: Span = Span::secs(30),
        /// Farthest `exp`: a token that is valid for longer is refused.
        max_lifetime: Span = Span::secs(366 * 86_400),
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
        /// Test events per webhook within any minute, of all replicas together.
        test_events_per_webhook: u32 = 20,
        /// Test events per user within any minute, of all replicas together.
        test_events_per_user: u32 = 100,
        /// Test events per user within any 24 hours, of all replicas together.
        test_events_per_user_day: u32 = 2000,
        /// Idempotency keys per user within 24 hours.
        idempotency_keys_per_user: u32 = 1000,
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

/// The header in which proxies name their clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
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

//! What values a configuration may have.

use std::fmt::Display;
use std::time::Duration;

use super::{Delivery, Settings};
use crate::values::{Size, Span};

/// Bodies and batches are held in memory.
const MAX_BODY: u64 = 1024 * 1024 * 1024;

/// Each is thirteen queues with the defaults, and a consumer and a probe for two of them.
const MAX_SHARDS: u16 = 64;

fn bytes(size: Size) -> u64 {
    u64::try_from(size.0).unwrap_or(u64::MAX)
}

/// What is wrong with values, each with its key.
#[derive(Default)]
struct Wrong(Vec<(&'static str, String)>);

impl Wrong {
    /// Notes a value that is not `min` to `max`.
    fn bound<T: Copy + PartialOrd + Display>(&mut self, key: &'static str, value: T, min: T, max: T) {
        if !(min..=max).contains(&value) {
            self.0.push((key, format!("must be {min} to {max}, is {value}")));
        }
    }
}

impl Settings {
    /// What is out of bounds, each with its key.
    pub(super) fn out_of_bounds(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Wrong::default();
        wrong.bound("database.pool_size", self.database.pool_size, 1, 1000);
        wrong.bound("amqp.shards", self.amqp.shards, 1, MAX_SHARDS);
        wrong.bound("amqp.drain_shards", self.amqp.drain_shards, 1, MAX_SHARDS);
        wrong.bound("api.workers", self.api.workers, 1, 256);
        wrong.bound("api.max_connections", self.api.max_connections, 1, 1_000_000);
        wrong.bound("api.body_limit", bytes(self.api.body_limit), 1024, MAX_BODY);
        // What actix reads ahead bounds a head too.
        wrong.bound("api.head_limit", bytes(self.api.head_limit), 4096, 128 * 1024);
        wrong.bound("api.connections_per_address", self.api.connections_per_address, 1, 1_000_000);
        wrong.bound("api.user_rate", self.api.user_rate, 1, 1_000_000);
        wrong.bound("api.user_burst", self.api.user_burst, 10, 1_000_000);
        wrong.bound("api.user_concurrency", self.api.user_concurrency, 1, 1_000_000);
        wrong.bound("api.answer_memory", bytes(self.api.answer_memory), 1024 * 1024, 1 << 40);
        wrong.bound("api.address_rate", self.api.address_rate, 1, 1_000_000);
        wrong.bound("api.address_burst", self.api.address_burst, 10, 1_000_000);
        wrong.bound("api.failed_token_cost", self.api.failed_token_cost, 1, 1000);
        wrong.bound("api.trusted_hops", self.api.trusted_hops, 1, 16);
        wrong.bound("api.remembered", self.api.remembered, 1, 100_000_000);
        wrong.bound("ingest.prefetch", self.ingest.prefetch, 1, 60_000);
        wrong.bound("ingest.small_prefetch", self.ingest.small_prefetch, 1, 60_000);
        wrong.bound("ingest.bulk_prefetch", self.ingest.bulk_prefetch, 1, 1000);
        wrong.bound("ingest.bulk_ahead", self.ingest.bulk_ahead, 1, 1_000_000);
        wrong.bound("ingest.burst_share", self.ingest.burst_share, 1, 100);
        wrong.bound("ingest.burst_batch", self.ingest.burst_batch, 2, 60_000);
        wrong.bound("ingest.batch_events", self.ingest.batch_events, 1, 10_000);
        wrong.bound("ingest.batch_bytes", bytes(self.ingest.batch_bytes), 1024, MAX_BODY);
        wrong.bound("ingest.http_max_events", self.ingest.http_max_events, 1, 10_000);
        wrong.bound("ingest.http_body_limit", bytes(self.ingest.http_body_limit), 1024, MAX_BODY);
        wrong.bound("delivery.max_in_flight", self.delivery.max_in_flight, 1, 100_000);
        wrong.bound(
            "delivery.max_in_flight_per_webhook",
            self.delivery.max_in_flight_per_webhook,
            1,
            100_000,
        );
        wrong.bound("delivery.prefetch", self.delivery.prefetch, 1, 60_000);
        wrong.bound("delivery.fan_out_prefetch", self.delivery.fan_out_prefetch, 1, 1000);
        wrong.bound("delivery.inline_fan_out", self.delivery.inline_fan_out, 1, 100_000);
        wrong.bound("delivery.body_memory", bytes(self.delivery.body_memory), 1024, MAX_BODY);
        wrong.bound("egress.dns_lookups", self.egress.dns_lookups, 1, 100_000);
        wrong.bound("egress.dns_cache", self.egress.dns_cache, 0, 10_000_000);
        wrong.bound("egress.max_connections", self.egress.max_connections, 1, 1_000_000);
        wrong.bound("cache.subscriptions", self.cache.subscriptions, 1, 100_000_000);
        wrong.bound("cache.webhooks", self.cache.webhooks, 1, 100_000_000);
        wrong.bound("auth.jwks_size_limit", bytes(self.auth.jwks_size_limit), 1024, MAX_BODY);
        wrong.bound("limits.webhooks_per_user", self.limits.webhooks_per_user, 1, 100_000);
        wrong.bound("limits.events_per_webhook", self.limits.events_per_webhook, 1, 1000);
        wrong.bound("limits.test_events_per_webhook", self.limits.test_events_per_webhook, 1, 1000);
        wrong.bound("limits.test_events_per_user", self.limits.test_events_per_user, 1, 10_000);
        wrong.bound("limits.test_events_per_user_day", self.limits.test_events_per_user_day, 1, 10_000);
        wrong.bound("limits.idempotency_keys_per_user", self.limits.idempotency_keys_per_user, 1, 100_000);
        wrong.bound("retention.days", self.retention.days, 1, 3650);

        let day = Span(Duration::from_hours(24));
        wrong.bound(
            "database.connect_timeout",
            self.database.connect_timeout,
            Span::millis(10),
            Span::secs(300),
        );
        wrong.bound(
            "database.acquire_timeout",
            self.database.acquire_timeout,
            Span::millis(10),
            Span::secs(300),
        );
        wrong.bound("delivery.timeout", self.delivery.timeout, Span::millis(1), Span::secs(300));
        wrong.bound("recovery.interval", self.recovery.interval, Span::millis(100), Span::secs(30));
        wrong.bound("recovery.slack", self.recovery.slack, Span::secs(1), day);
        wrong.bound("amqp.heartbeat", self.amqp.heartbeat, Span::secs(1), Span::secs(3600));
        wrong.bound("amqp.connect_timeout", self.amqp.connect_timeout, Span::millis(10), Span::secs(300));
        wrong.bound("amqp.publish_timeout", self.amqp.publish_timeout, Span::millis(10), Span::secs(3600));
        wrong.bound("database.statement_timeout", self.database.statement_timeout, Span::millis(10), day);
        wrong.bound("api.request_timeout", self.api.request_timeout, Span::millis(10), Span::secs(300));
        wrong.bound("api.answer_timeout", self.api.answer_timeout, Span::millis(10), Span::secs(600));
        wrong.bound("api.write_timeout", self.api.write_timeout, Span::millis(10), Span::secs(600));
        wrong.bound("api.idle_timeout", self.api.idle_timeout, Span::millis(10), Span::secs(3600));
        wrong.bound("ingest.http_timeout", self.ingest.http_timeout, Span::millis(10), Span::secs(300));
        wrong.bound("egress.connect_timeout", self.egress.connect_timeout, Span::millis(1), Span::secs(300));
        wrong.bound("egress.dns_timeout", self.egress.dns_timeout, Span::millis(10), Span::secs(300));
        wrong.bound("egress.dns_max_ttl", self.egress.dns_max_ttl, Span::secs(0), day);
        wrong.bound(
            "egress.dns_max_negative_ttl",
            self.egress.dns_max_negative_ttl,
            Span::secs(0),
            Span::secs(3600),
        );
        wrong.bound("egress.idle_timeout", self.egress.idle_timeout, Span::millis(1), Span::secs(3600));
        wrong.bound("egress.connection_lifetime", self.egress.connection_lifetime, Span::secs(1), day);
        wrong.bound("delivery.hold", self.delivery.hold, Span::millis(1), Span::secs(3600));
        wrong.bound("delivery.park_together", self.delivery.park_together, Span::millis(0), Span::secs(1));
        wrong.bound("delivery.max_wait", self.delivery.max_wait, Span::millis(1), Span::secs(3600));
        wrong.bound("cache.max_age", self.cache.max_age, Span::millis(10), Span::secs(3600));
        wrong.bound("auth.jwks_max_age", self.auth.jwks_max_age, Span::millis(100), day);
        wrong.bound("auth.jwks_min_interval", self.auth.jwks_min_interval, Span::millis(10), day);
        wrong.bound("auth.jwks_timeout", self.auth.jwks_timeout, Span::millis(10), Span::secs(60));
        wrong.bound("auth.leeway", self.auth.leeway, Span::secs(0), Span::secs(300));
        wrong.bound("auth.max_lifetime", self.auth.max_lifetime, Span::secs(60), Span::secs(3650 * 86_400));
        wrong.bound("shutdown.grace", self.shutdown.grace, Span::secs(1), Span::secs(3600));
        for delay in &self.delivery.retry_delays.0 {
            wrong.bound("delivery.retry_delays", *delay, Span::millis(1), Span::secs(7 * 86_400));
        }
        for delay in &self.delivery.park_delays.0 {
            wrong.bound("delivery.park_delays", *delay, Span::millis(10), Span::secs(3600));
        }
        if self.delivery.retry_delays.0.len() > 20 {
            wrong.0.push(("delivery.retry_delays", "must be at most 20 waits".to_owned()));
        }
        wrong.0.extend(self.delivery.park_delays_wrong().map(|reason| ("delivery.park_delays", reason)));
        wrong.0
    }
}

impl Delivery {
    /// What is wrong with the ladder of delays, if anything is.
    fn park_delays_wrong(&self) -> Option<String> {
        let delays = &self.park_delays.0;
        if delays.is_empty() || delays.len() > 10 {
            return Some("must be 1 to 10 delays".to_owned());
        }
        if !delays.is_sorted_by(|shorter, longer| shorter < longer) {
            return Some("must ascend".to_owned());
        }
        // What stands in for a request must not come out before the request is over and recorded.
        let least = Span(self.timeout.0 + Duration::from_secs(1));
        let longest = delays.last().filter(|longest| **longest <= least)?;
        Some(format!("the last must be longer than {least}, which is delivery.timeout and 1s, is {longest}"))
    }
}

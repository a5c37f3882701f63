//! What values a configuration may have.

use std::time::Duration;

use super::{Delivery, Settings};
use crate::values::{Size, Span};

/// Bodies and batches are held in memory.
const MAX_BODY: u64 = 1024 * 1024 * 1024;

/// Each is thirteen queues with the defaults, and a consumer and a probe for two of them.
const MAX_SHARDS: u64 = 64;

fn bytes(size: Size) -> u64 {
    u64::try_from(size.0).unwrap_or(u64::MAX)
}

impl Settings {
    /// What is out of bounds, each with its key.
    pub(super) fn out_of_bounds(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let mut bound = |key, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                wrong.push((key, format!("must be {min} to {max}, is {value}")));
            }
        };
        bound("database.pool_size", self.database.pool_size.into(), 1, 1000);
        bound("amqp.shards", self.amqp.shards.into(), 1, MAX_SHARDS);
        bound("amqp.drain_shards", self.amqp.drain_shards.into(), 1, MAX_SHARDS);
        bound("api.workers", self.api.workers.into(), 1, 256);
        bound("api.max_connections", self.api.max_connections.into(), 1, 1_000_000);
        bound("api.body_limit", bytes(self.api.body_limit), 1024, MAX_BODY);
        // What actix reads ahead bounds a head too.
        bound("api.head_limit", bytes(self.api.head_limit), 4096, 128 * 1024);
        bound("api.connections_per_address", self.api.connections_per_address.into(), 1, 1_000_000);
        bound("api.user_rate", self.api.user_rate.into(), 1, 1_000_000);
        bound("api.user_burst", self.api.user_burst.into(), 10, 1_000_000);
        bound("api.user_concurrency", self.api.user_concurrency.into(), 1, 1_000_000);
        bound("api.answer_memory", bytes(self.api.answer_memory), 1024 * 1024, 1 << 40);
        bound("api.address_rate", self.api.address_rate.into(), 1, 1_000_000);
        bound("api.address_burst", self.api.address_burst.into(), 10, 1_000_000);
        bound("api.failed_token_cost", self.api.failed_token_cost.into(), 1, 1000);
        bound("api.trusted_hops", self.api.trusted_hops.into(), 1, 16);
        bound("api.remembered", self.api.remembered.into(), 1, 100_000_000);
        bound("ingest.prefetch", self.ingest.prefetch.into(), 1, 60_000);
        bound("ingest.small_prefetch", self.ingest.small_prefetch.into(), 1, 60_000);
        bound("ingest.bulk_prefetch", self.ingest.bulk_prefetch.into(), 1, 1000);
        bound("ingest.bulk_ahead", self.ingest.bulk_ahead.into(), 1, 1_000_000);
        bound("ingest.burst_share", self.ingest.burst_share.into(), 1, 100);
        bound("ingest.burst_batch", self.ingest.burst_batch.into(), 2, 60_000);
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
        bound("delivery.inline_fan_out", self.delivery.inline_fan_out.into(), 1, 100_000);
        bound("delivery.body_memory", bytes(self.delivery.body_memory), 1024, MAX_BODY);
        bound("egress.dns_lookups", self.egress.dns_lookups.into(), 1, 100_000);
        bound("egress.dns_cache", self.egress.dns_cache.into(), 0, 10_000_000);
        bound("egress.max_connections", self.egress.max_connections.into(), 1, 1_000_000);
        bound("cache.subscriptions", self.cache.subscriptions.into(), 1, 100_000_000);
        bound("cache.webhooks", self.cache.webhooks.into(), 1, 100_000_000);
        bound("auth.jwks_size_limit", bytes(self.auth.jwks_size_limit), 1024, MAX_BODY);
        bound("limits.webhooks_per_user", self.limits.webhooks_per_user.into(), 1, 100_000);
        bound("limits.events_per_webhook", self.limits.events_per_webhook.into(), 1, 1000);
        bound("limits.test_events_per_webhook", self.limits.test_events_per_webhook.into(), 1, 1000);
        bound("limits.test_events_per_user", self.limits.test_events_per_user.into(), 1, 10_000);
        bound("limits.test_events_per_user_day", self.limits.test_events_per_user_day.into(), 1, 10_000);
        bound("limits.idempotency_keys_per_user", self.limits.idempotency_keys_per_user.into(), 1, 100_000);
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
        span("recovery.interval", self.recovery.interval, Span::millis(100), Span::secs(30));
        span("recovery.slack", self.recovery.slack, Span::secs(1), day);
        span("amqp.heartbeat", self.amqp.heartbeat, Span::secs(1), Span::secs(3600));
        span("amqp.connect_timeout", self.amqp.connect_timeout, Span::millis(10), Span::secs(300));
        span("amqp.publish_timeout", self.amqp.publish_timeout, Span::millis(10), Span::secs(3600));
        span("database.statement_timeout", self.database.statement_timeout, Span::millis(10), day);
        span("api.request_timeout", self.api.request_timeout, Span::millis(10), Span::secs(300));
        span("api.answer_timeout", self.api.answer_timeout, Span::millis(10), Span::secs(600));
        span("api.write_timeout", self.api.write_timeout, Span::millis(10), Span::secs(600));
        span("api.idle_timeout", self.api.idle_timeout, Span::millis(10), Span::secs(3600));
        span("ingest.http_timeout", self.ingest.http_timeout, Span::millis(10), Span::secs(300));
        span("egress.connect_timeout", self.egress.connect_timeout, Span::millis(1), Span::secs(300));
        span("egress.dns_timeout", self.egress.dns_timeout, Span::millis(10), Span::secs(300));
        span("egress.dns_max_ttl", self.egress.dns_max_ttl, Span::secs(0), day);
        span(
            "egress.dns_max_negative_ttl",
            self.egress.dns_max_negative_ttl,
            Span::secs(0),
            Span::secs(3600),
        );
        span("egress.idle_timeout", self.egress.idle_timeout, Span::millis(1), Span::secs(3600));
        span("egress.connection_lifetime", self.egress.connection_lifetime, Span::secs(1), day);
        span("delivery.hold", self.delivery.hold, Span::millis(1), Span::secs(3600));
        span("delivery.park_together", self.delivery.park_together, Span::millis(0), Span::secs(1));
        span("delivery.max_wait", self.delivery.max_wait, Span::millis(1), Span::secs(3600));
        span("cache.max_age", self.cache.max_age, Span::millis(10), Span::secs(3600));
        span("auth.jwks_max_age", self.auth.jwks_max_age, Span::millis(100), day);
        span("auth.jwks_min_interval", self.auth.jwks_min_interval, Span::millis(10), day);
        span("auth.jwks_timeout", self.auth.jwks_timeout, Span::millis(10), Span::secs(60));
        span("auth.leeway", self.auth.leeway, Span::secs(0), Span::secs(300));
        span("auth.max_lifetime", self.auth.max_lifetime, Span::secs(60), Span::secs(3650 * 86_400));
        span("shutdown.grace", self.shutdown.grace, Span::secs(1), Span::secs(3600));
        for delay in &self.delivery.retry_delays.0 {
            span("delivery.retry_delays", *delay, Span::millis(1), Span::secs(7 * 86_400));
        }
        for delay in &self.delivery.park_delays.0 {
            span("delivery.park_delays", *delay, Span::millis(10), Span::secs(3600));
        }
        if self.delivery.retry_delays.0.len() > 20 {
            wrong.push(("delivery.retry_delays", "must be at most 20 waits".to_owned()));
        }
        wrong.extend(self.delivery.park_delays_wrong().map(|reason| ("delivery.park_delays", reason)));
        wrong
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

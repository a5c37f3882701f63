DROP TABLE webhook_statistics, delivery_attempts, deliveries, event_keys, events, idempotency_keys, webhooks;
DROP FUNCTION webhooks_notify, webhooks_bump_revision;

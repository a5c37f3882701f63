-- A developer's webhooks.
CREATE TABLE webhooks (
    id                      uuid PRIMARY KEY,
    user_id                 text NOT NULL,
    url                     text NOT NULL,
    events                  text[] NOT NULL,
    description             text,
    active                  boolean NOT NULL DEFAULT true,
    disabled_reason         text,
    -- AES-256-GCM under the named key, with the webhook's id as associated data: nonce, ciphertext, tag.
    secret                  bytea NOT NULL,
    secret_key_id           text NOT NULL,
    -- The secret before the last regeneration; it signs too until its end.
    previous_secret         bytea,
    previous_secret_key_id  text,
    previous_secret_until   timestamptz,
    -- Grows with every change: what dispatchers remember is valid for one revision.
    revision                bigint NOT NULL DEFAULT 1,
    created_at              timestamptz NOT NULL,
    updated_at              timestamptz NOT NULL
);

CREATE INDEX webhooks_user_id ON webhooks (user_id, id);

CREATE FUNCTION webhooks_bump_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := OLD.revision + 1;
    RETURN NEW;
END $$;

CREATE TRIGGER webhooks_bump_revision BEFORE UPDATE ON webhooks
    FOR EACH ROW EXECUTE FUNCTION webhooks_bump_revision();

-- Dispatchers remember who subscribes to what; this tells them what to forget.
CREATE FUNCTION webhooks_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('lokroom_webhooks', COALESCE(NEW.user_id, OLD.user_id));
    RETURN NULL;
END $$;

CREATE TRIGGER webhooks_notify AFTER INSERT OR UPDATE OR DELETE ON webhooks
    FOR EACH ROW EXECUTE FUNCTION webhooks_notify();

-- Creating a webhook again with the same Idempotency-Key answers with the first one.
CREATE TABLE idempotency_keys (
    user_id      text NOT NULL,
    key          text NOT NULL,
    fingerprint  bytea NOT NULL,
    webhook_id   uuid NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (user_id, key)
);

-- Accepted events. Partitioned by the day inside the UUIDv7: old days are dropped, never deleted row by row.
CREATE TABLE events (
    id             uuid NOT NULL PRIMARY KEY,
    public_id      text NOT NULL,
    type           text NOT NULL,
    recipients     text[] NOT NULL,
    -- As it leaves, character for character.
    timestamp      text NOT NULL,
    -- As every receiver gets it, byte for byte.
    body           bytea NOT NULL,
    is_test        boolean NOT NULL DEFAULT false,
    received_at    timestamptz NOT NULL,
    -- When its deliveries were written; NULL while a dispatcher has yet to do it.
    fanned_out_at  timestamptz
) PARTITION BY RANGE (id);

CREATE INDEX events_to_fan_out ON events (id) WHERE fanned_out_at IS NULL;

-- Publishers' ids of the last 24 hours: a partitioned table cannot keep them unique.
CREATE TABLE event_keys (
    publisher_id  text PRIMARY KEY,
    event_id      uuid NOT NULL,
    first_seen    timestamptz NOT NULL
);

CREATE INDEX event_keys_first_seen ON event_keys (first_seen);

-- One event to one webhook. The row tells the last attempt; delivery_attempts the ones before.
CREATE TABLE deliveries (
    id               uuid NOT NULL PRIMARY KEY,
    webhook_id       uuid NOT NULL,
    event_id         uuid NOT NULL,
    event_type       text NOT NULL,
    status           text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'success', 'failed')),
    attempts         integer NOT NULL DEFAULT 0,
    last_attempt_at  timestamptz,
    next_attempt_at  timestamptz,
    duration_ms      integer,
    response_status  integer,
    response_body    text,
    error            text,
    created_at       timestamptz NOT NULL
) PARTITION BY RANGE (id);

-- The history, newest first, whole or filtered by status or type.
CREATE INDEX deliveries_history ON deliveries (webhook_id, id DESC);
CREATE INDEX deliveries_not_successful ON deliveries (webhook_id, status, id DESC) WHERE status <> 'success';
CREATE INDEX deliveries_by_type ON deliveries (webhook_id, event_type, id DESC);
-- What should have been attempted by now.
CREATE INDEX deliveries_due ON deliveries (next_attempt_at) WHERE status = 'pending';

CREATE TABLE delivery_attempts (
    delivery_id      uuid NOT NULL,
    attempt          integer NOT NULL,
    started_at       timestamptz NOT NULL,
    duration_ms      integer NOT NULL,
    response_status  integer,
    response_body    text,
    error            text,
    PRIMARY KEY (delivery_id, attempt)
) PARTITION BY RANGE (delivery_id);

-- Running counters: the history page never counts rows.
CREATE TABLE webhook_statistics (
    webhook_id  uuid NOT NULL,
    event_type  text NOT NULL,
    pending     bigint NOT NULL DEFAULT 0,
    success     bigint NOT NULL DEFAULT 0,
    failed      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (webhook_id, event_type)
) WITH (fillfactor = 50);

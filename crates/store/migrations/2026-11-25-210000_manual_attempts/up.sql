-- Attempts that developers asked for themselves, of the last minute. A subject is a user or a webhook; who asks for none is
-- forgotten. Deliveries could be counted instead, but there test events stand among thousands of others.
CREATE TABLE manual_attempts (
    subject  text PRIMARY KEY,
    at       timestamptz[] NOT NULL
);

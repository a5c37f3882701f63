-- Events that are still to be fanned out, in a small table of their own: to note it at the event would write that, with its
-- body and its index entries, a second time.
DROP INDEX events_to_fan_out;
CREATE TABLE events_to_fan_out (
    event_id   uuid PRIMARY KEY,
    -- When it was last put on its way to the dispatchers; 'infinity' once its message was set aside for a person.
    queued_at  timestamptz NOT NULL
) WITH (
    -- Small, and every row is soon dead.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000
);

INSERT INTO events_to_fan_out (event_id, queued_at) SELECT id, queued_at FROM events WHERE fanned_out_at IS NULL;
-- `fanned_out_at` and `queued_at` stay for services of the version before, which run until they are replaced.

DROP TABLE queue_progress;
DROP INDEX events_to_fan_out;
CREATE INDEX events_to_fan_out ON events (id) WHERE fanned_out_at IS NULL;
ALTER TABLE events DROP COLUMN queued_at;
ALTER TABLE deliveries DROP COLUMN fence;

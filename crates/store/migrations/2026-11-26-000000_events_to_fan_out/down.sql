UPDATE events SET fanned_out_at = received_at
 WHERE fanned_out_at IS NULL AND NOT EXISTS (SELECT FROM events_to_fan_out WHERE event_id = id);
UPDATE events SET queued_at = waiting.queued_at FROM events_to_fan_out waiting WHERE event_id = id;
DROP TABLE events_to_fan_out;
CREATE INDEX events_to_fan_out ON events (queued_at) WHERE fanned_out_at IS NULL;

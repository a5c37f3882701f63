-- How often a delivery's job was issued anew: jobs with a lower number are void.
ALTER TABLE deliveries ADD COLUMN fence integer NOT NULL DEFAULT 0;

-- When an event was last put on its way to the dispatchers; 'infinity' once its message was set aside for a person.
ALTER TABLE events ADD COLUMN queued_at timestamptz NOT NULL DEFAULT now();

-- Events that should have been fanned out by now.
DROP INDEX events_to_fan_out;
CREATE INDEX events_to_fan_out ON events (queued_at) WHERE fanned_out_at IS NULL;

-- Everything that was put into a queue before `put_at` was taken out of it at `out_at`.
CREATE TABLE queue_progress (
    queue   text NOT NULL,
    put_at  timestamptz NOT NULL,
    out_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue, put_at)
);

-- Secrets that have had their time. By itself, because webhooks cannot be written while it is made; they are read meanwhile.
CREATE INDEX IF NOT EXISTS webhooks_previous_secret ON webhooks (previous_secret_until)
 WHERE previous_secret_until IS NOT NULL;

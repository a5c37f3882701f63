DROP INDEX webhooks_previous_secret;

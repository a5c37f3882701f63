-- A secret that is encrypted under another key is the same secret: nothing that dispatchers remember is wrong, and one that
-- does not know the new key yet goes on with what it has. Whoever encrypts anew says so, for the transaction alone.
DROP TRIGGER webhooks_bump_revision ON webhooks;
CREATE TRIGGER webhooks_bump_revision BEFORE UPDATE ON webhooks
    FOR EACH ROW WHEN (current_setting('lokroom.same_secrets', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION webhooks_bump_revision();

DROP TRIGGER webhooks_notify ON webhooks;
CREATE TRIGGER webhooks_notify AFTER INSERT OR UPDATE OR DELETE ON webhooks
    FOR EACH ROW WHEN (current_setting('lokroom.same_secrets', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION webhooks_notify();

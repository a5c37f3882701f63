DROP TRIGGER webhooks_notify ON webhooks;
CREATE TRIGGER webhooks_notify AFTER INSERT OR UPDATE OR DELETE ON webhooks
    FOR EACH ROW EXECUTE FUNCTION webhooks_notify();

DROP TRIGGER webhooks_bump_revision ON webhooks;
CREATE TRIGGER webhooks_bump_revision BEFORE UPDATE ON webhooks
    FOR EACH ROW EXECUTE FUNCTION webhooks_bump_revision();

//! Rows written straight into PostgreSQL: more webhooks and deliveries than anybody wants to make through the services.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::signature::WebhookSecret;
use domain::{Timestamp, WebhookId};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use testkit::database::SECRET_KEYS;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// Rows of one statement.
const ROWS: usize = 5000;

/// Without its triggers: nobody remembers webhooks yet that nobody had.
const WEBHOOKS: &str = "
    INSERT INTO webhooks (id, user_id, url, events, secret, secret_key_id, created_at, updated_at)
    SELECT id, user_id, url, '{booking.created}', secret, $5, now(), now()
      FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[]) AS new (id, user_id, url, secret)";

/// Deliveries of today, from midnight on, spread over all webhooks: in the very partition that is written to.
const DELIVERIES: &str = "
    INSERT INTO deliveries (id, webhook_id, event_id, event_type, status, attempts, last_attempt_at, duration_ms,
                            response_status, response_body, created_at)
    SELECT id, webhook_id, id, 'booking.created', 'success', 1, at, 3, 200, '', at
      FROM (SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
                    || substr(md5(n::text), 1, 3) || 'a' || substr(md5(n::text), 4, 15))::uuid AS id,
                   $3::uuid[] AS webhooks, at, n
              FROM (SELECT n, date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
                              + (now() - date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC')
                                * (n::float8 / $2) AS at
                      FROM generate_series($1::bigint, $1 + 99999) AS n
                     WHERE n < $2) AS times) AS rows,
           LATERAL (SELECT webhooks[1 + n % cardinality(webhooks)] AS webhook_id) AS of";

/// Deliveries of one statement of [`DELIVERIES`].
const DELIVERIES_AT_ONCE: i64 = 100_000;

/// A webhook that was made.
pub(crate) struct Webhook {
    pub(crate) id: Uuid,
    pub(crate) secret: String,
}

/// Makes `count` webhooks: the first `fan_out` are user 0's, the next user 1's, and so on.
pub(crate) async fn webhooks(
    database: &Client,
    count: usize,
    fan_out: usize,
    now: Timestamp,
    url: impl Fn(usize) -> String,
) -> anyhow::Result<Vec<Webhook>> {
    let random = SystemRandom::new();
    let (key_id, key) = key()?;
    let mut made = Vec::with_capacity(count);
    database.batch_execute("ALTER TABLE webhooks DISABLE TRIGGER USER").await?;
    let insert = database.prepare(WEBHOOKS).await?;
    let indices: Vec<usize> = (0..count).collect();
    for chunk in indices.chunks(ROWS) {
        let (mut ids, mut users, mut urls, mut secrets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for index in chunk {
            let id = WebhookId::generate(now, &random)?.uuid();
            let secret = WebhookSecret::generate(&random)?;
            secrets.push(encrypt(&key, id, &secret, &random)?);
            ids.push(id);
            users.push(user(index / fan_out));
            urls.push(url(*index));
            made.push(Webhook { id, secret: secret.expose().to_owned() });
        }
        let values: [&(dyn ToSql + Sync); 5] = [&ids, &users, &urls, &secrets, &key_id];
        database.execute(&insert, &values).await.context("webhooks cannot be inserted")?;
    }
    database.batch_execute("ALTER TABLE webhooks ENABLE TRIGGER USER; ANALYZE webhooks").await?;
    Ok(made)
}

/// The id of a user.
pub(crate) fn user(index: usize) -> String {
    format!("user_{index}")
}

/// Makes `count` deliveries that succeeded earlier today, of these webhooks.
pub(crate) async fn old_deliveries(
    database: &Client,
    count: i64,
    webhooks: &[Webhook],
) -> anyhow::Result<()> {
    let ids: Vec<Uuid> = webhooks.iter().map(|webhook| webhook.id).collect();
    let insert = database.prepare(DELIVERIES).await?;
    #[expect(clippy::cast_precision_loss, reason = "a share of the day")]
    let total = count as f64;
    let mut first = 0;
    while first < count {
        database.execute(&insert, &[&first, &total, &ids]).await.context("deliveries cannot be inserted")?;
        first += DELIVERIES_AT_ONCE;
    }
    database.batch_execute("VACUUM ANALYZE deliveries").await?;
    // Deliveries of earlier are on the disk: to have them written while others are measured would say something of the disk.
    database.batch_execute("CHECKPOINT").await.context("no checkpoint: its user needs the role pg_checkpoint")
}

/// The key that the stack's services have.
fn key() -> anyhow::Result<(String, LessSafeKey)> {
    let (id, encoded) = SECRET_KEYS.split_once(':').context("the tests' key has an id")?;
    let key = UnboundKey::new(&AES_256_GCM, &STANDARD.decode(encoded)?);
    Ok((id.to_owned(), LessSafeKey::new(key.ok().context("the tests' key has 32 bytes")?)))
}

/// As the services store it: nonce, ciphertext, tag; the webhook's id is associated data.
fn encrypt(
    key: &LessSafeKey,
    webhook: Uuid,
    secret: &WebhookSecret,
    random: &SystemRandom,
) -> anyhow::Result<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    random.fill(&mut nonce).ok().context("the system gives no randomness")?;
    let mut sealed = secret.expose().as_bytes().to_vec();
    let sealing = key.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(webhook.into_bytes()),
        &mut sealed,
    );
    sealing.ok().context("a secret cannot be encrypted")?;
    Ok([nonce.as_slice(), &sealed].concat())
}

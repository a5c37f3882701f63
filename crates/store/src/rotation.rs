//! Which key encrypts which secrets; encrypting them anew under the first; forgetting those that have had their time.

use std::collections::HashSet;
use std::fmt;

use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{ExpressionMethods as _, QueryDsl as _, Queryable, QueryableByName, sql_query};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use domain::{Timestamp, WebhookId};
use uuid::Uuid;

use crate::encryption::{DecryptError, EncryptAnewError, Encrypted, SecretKeys};
use crate::error::StoreError;
use crate::pool::Store;
use crate::schema::webhooks;

/// How often webhooks are looked at again whose secrets were changed between reading and writing.
const TRIES: usize = 10;

/// Secrets forgotten with one statement.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// How many secrets a key encrypts.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct KeyUse {
    /// The key's id.
    #[diesel(sql_type = Text)]
    pub key_id: String,
    #[diesel(sql_type = BigInt)]
    current: i64,
    #[diesel(sql_type = BigInt)]
    previous: i64,
}

impl KeyUse {
    /// Secrets that sign.
    pub fn current(&self) -> u64 {
        self.current.unsigned_abs()
    }

    /// Secrets before a regeneration, which are kept for a day.
    pub fn previous(&self) -> u64 {
        self.previous.unsigned_abs()
    }
}

/// Which of a webhook's secrets it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one that signs.
    Current,
    /// The one before the last regeneration.
    Previous,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Current => "current",
            Self::Previous => "previous",
        })
    }
}

/// A secret that cannot be decrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its webhook.
    pub webhook: WebhookId,
    /// Which of the webhook's secrets it is.
    pub which: Which,
    /// Why.
    pub reason: DecryptError,
}

/// What a step of encrypting anew did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncryptedAnew {
    /// Webhooks looked at.
    pub webhooks: u64,
    /// Secrets that are under the first key now and were not before. One that was changed at every try is left as it is.
    pub secrets: u64,
    /// Secrets that cannot be decrypted; they were left alone.
    pub unreadable: Vec<Unreadable>,
    /// The last webhook looked at; `None` if there was none left.
    pub last: Option<WebhookId>,
}

/// A webhook's secrets as they are stored.
#[derive(Queryable)]
struct Row {
    id: Uuid,
    secret: Vec<u8>,
    secret_key_id: String,
    previous_secret: Option<Vec<u8>>,
    previous_secret_key_id: Option<String>,
}

/// A webhook's secrets as they are to be stored, in the place of what was read.
struct Renewed {
    read: Row,
    current: Option<Encrypted>,
    previous: Option<Encrypted>,
}

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

const KEY_USES: &str = "
    SELECT key_id, count(*) FILTER (WHERE is_current) AS current, count(*) FILTER (WHERE NOT is_current) AS previous
      FROM (SELECT secret_key_id AS key_id, true AS is_current FROM webhooks
            UNION ALL
            SELECT previous_secret_key_id, false FROM webhooks WHERE previous_secret_key_id IS NOT NULL) secrets
     GROUP BY key_id
     ORDER BY key_id";

/// Nobody's change is undone: what is not as it was read stays. Locked in the order of the keys.
const REPLACE: &str = "
    WITH locked AS (
        SELECT given.*
          FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::text[], $5::bytea[], $6::bytea[], $7::text[])
               AS given (id, old, new, new_key, old_previous, new_previous, new_previous_key)
          JOIN webhooks webhook ON webhook.id = given.id
         ORDER BY webhook.id
           FOR UPDATE OF webhook
    )
    UPDATE webhooks webhook
       SET secret = locked.new, secret_key_id = locked.new_key,
           previous_secret = locked.new_previous, previous_secret_key_id = locked.new_previous_key
      FROM locked
     WHERE webhook.id BETWEEN locked.id AND locked.id
       AND webhook.secret = locked.old
       AND webhook.previous_secret IS NOT DISTINCT FROM locked.old_previous
    RETURNING webhook.id";

/// Never waits for anybody: what is being changed is forgotten by the next run.
const FORGET: &str = "
    UPDATE webhooks
       SET previous_secret = NULL, previous_secret_key_id = NULL, previous_secret_until = NULL
     WHERE previous_secret_until <= $1
       AND id IN (SELECT id FROM webhooks
                   WHERE previous_secret_until <= $1
                   ORDER BY previous_secret_until
                   LIMIT $2
                     FOR UPDATE SKIP LOCKED)";

impl Store {
    /// How many secrets each key encrypts. Reads every webhook.
    pub async fn key_uses(&self) -> Result<Vec<KeyUse>, StoreError> {
        Ok(sql_query(KEY_USES).load(&mut self.connection().await?).await?)
    }

    /// Encrypts the secrets of the next `limit` webhooks after one anew where they are not under the first key. Safe beside
    /// everything else, itself included: a secret that was changed meanwhile is looked at again, and what is
    /// done is found done. Neither `updated_at` nor the revision changes.
    pub async fn encrypt_anew(
        &self,
        after: Option<WebhookId>,
        limit: u32,
    ) -> Result<EncryptedAnew, StoreError> {
        let mut connection = self.connection().await?;
        let mut rows: Vec<Row> = webhooks::table
            .filter(webhooks::id.gt(after.map_or(Uuid::nil(), WebhookId::uuid)))
            .order(webhooks::id)
            .limit(limit.into())
            .select(COLUMNS)
            .load(&mut connection)
            .await?;
        let mut done = EncryptedAnew {
            webhooks: rows.len() as u64,
            last: rows.last().map(|row| WebhookId::from_uuid(row.id)),
            ..EncryptedAnew::default()
        };
        for _ in 0..TRIES {
            let mut renewed = Vec::new();
            for row in rows {
                renewed.extend(self.keys.renew(row, &mut done.unreadable)?);
            }
            let replaced = replace(&mut connection, &renewed).await?;
            let (here, missed): (Vec<_>, Vec<_>) =
                renewed.iter().partition(|renewed| replaced.contains(&renewed.read.id));
            done.secrets += here.iter().map(|renewed| renewed.secrets()).sum::<u64>();
            let missed: Vec<Uuid> = missed.iter().map(|renewed| renewed.read.id).collect();
            if missed.is_empty() {
                break;
            }
            done.unreadable.retain(|unreadable| !missed.contains(&unreadable.webhook.uuid()));
            let again = webhooks::table.filter(webhooks::id.eq_any(missed)).select(COLUMNS);
            rows = again.load(&mut connection).await?;
        }
        Ok(done)
    }
}

type Columns = (
    webhooks::id,
    webhooks::secret,
    webhooks::secret_key_id,
    webhooks::previous_secret,
    webhooks::previous_secret_key_id,
);

const COLUMNS: Columns = (
    webhooks::id,
    webhooks::secret,
    webhooks::secret_key_id,
    webhooks::previous_secret,
    webhooks::previous_secret_key_id,
);

impl SecretKeys {
    /// What is to be stored in the place of a row; `None` if nothing is.
    fn renew(&self, read: Row, unreadable: &mut Vec<Unreadable>) -> Result<Option<Renewed>, StoreError> {
        let webhook = WebhookId::from_uuid(read.id);
        let mut anew = |which, key_id: &String, bytes: &Vec<u8>| {
            let encrypted = Encrypted { key_id: key_id.clone(), bytes: bytes.clone() };
            match self.encrypt_anew(webhook, &encrypted) {
                Ok(anew) => Ok(anew),
                Err(EncryptAnewError::Unreadable(reason)) => {
                    unreadable.push(Unreadable { webhook, which, reason });
                    Ok(None)
                }
                Err(EncryptAnewError::NoRandomness(error)) => Err(error),
            }
        };
        let current = anew(Which::Current, &read.secret_key_id, &read.secret)?;
        let previous = match (&read.previous_secret_key_id, &read.previous_secret) {
            (Some(key_id), Some(bytes)) => anew(Which::Previous, key_id, bytes)?,
            _ => None,
        };
        let nothing = current.is_none() && previous.is_none();
        Ok((!nothing).then_some(Renewed { read, current, previous }))
    }
}

impl Renewed {
    fn secrets(&self) -> u64 {
        u64::from(self.current.is_some()) + u64::from(self.previous.is_some())
    }

    fn current(&self) -> (&[u8], &str) {
        let read = (self.read.secret.as_slice(), self.read.secret_key_id.as_str());
        self.current.as_ref().map_or(read, |new| (&new.bytes, &new.key_id))
    }

    fn previous(&self) -> (Option<&[u8]>, Option<&str>) {
        match &self.previous {
            Some(new) => (Some(&new.bytes), Some(&new.key_id)),
            None => (self.read.previous_secret.as_deref(), self.read.previous_secret_key_id.as_deref()),
        }
    }
}

/// Stores what was encrypted anew, and returns the webhooks where it was.
async fn replace(
    connection: &mut AsyncPgConnection,
    renewed: &[Renewed],
) -> Result<HashSet<Uuid>, StoreError> {
    if renewed.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<_> = renewed.iter().map(|renewed| renewed.read.id).collect();
    let old: Vec<_> = renewed.iter().map(|renewed| renewed.read.secret.as_slice()).collect();
    let old_previous: Vec<_> =
        renewed.iter().map(|renewed| renewed.read.previous_secret.as_deref()).collect();
    let (new, new_keys): (Vec<_>, Vec<_>) = renewed.iter().map(Renewed::current).unzip();
    let (new_previous, new_previous_keys): (Vec<_>, Vec<_>) = renewed.iter().map(Renewed::previous).unzip();
    connection
        .transaction(async |connection| {
            connection.batch_execute("SET LOCAL lokroom.same_secrets = 'on'").await?;
            let replaced: Vec<IdRow> = sql_query(REPLACE)
                .bind::<Array<SqlUuid>, _>(ids)
                .bind::<Array<Binary>, _>(old)
                .bind::<Array<Binary>, _>(new)
                .bind::<Array<Text>, _>(new_keys)
                .bind::<Array<Nullable<Binary>>, _>(old_previous)
                .bind::<Array<Nullable<Binary>>, _>(new_previous)
                .bind::<Array<Nullable<Text>>, _>(new_previous_keys)
                .load(connection)
                .await?;
            Ok(replaced.into_iter().map(|row| row.id).collect())
        })
        .await
}

/// Forgets the secrets before a regeneration whose time to sign along is over. Dispatchers forget them too: the row's
/// revision changes.
pub(crate) async fn forget_previous_secrets(
    connection: &mut AsyncPgConnection,
    now: Timestamp,
) -> Result<(), StoreError> {
    let limit = i64::try_from(FORGOTTEN_AT_ONCE).unwrap_or(i64::MAX);
    loop {
        let forget = sql_query(FORGET).bind::<Timestamptz, _>(now).bind::<BigInt, _>(limit);
        if forget.execute(connection).await? < FORGOTTEN_AT_ONCE {
            return Ok(());
        }
    }
}

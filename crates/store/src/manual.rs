//! How often developers may cause attempts by themselves.
//!
//! Test events are what they can cause today. Whatever else is to count against the same bounds calls
//! [`count_manual_attempt`] first in its transaction.

use std::time::Duration;

use diesel::sql_types::{Array, Text, Timestamptz};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use domain::{Timestamp, UserId, WebhookId};

use crate::error::StoreError;
use crate::statement::Prepared;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_hours(24);

/// Attempts that may be caused by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManualLimits {
    /// To one webhook, in any minute.
    pub per_webhook: u32,
    /// To all webhooks that a user has or had, in any minute.
    pub per_user: u32,
    /// To all webhooks that a user has or had, in any 24 hours.
    pub per_user_day: u32,
}

#[derive(QueryableByName)]
struct CountedRow {
    #[diesel(sql_type = Text)]
    subject: String,
    #[diesel(sql_type = Array<Timestamptz>)]
    at: Vec<Timestamp>,
}

/// The attempts of each subject and this one, in the order of time: a user's of the last day, a webhook's of the last minute.
/// Rows are locked in the order of subjects, so that no two requests can wait for each other. Primary key.
const COUNT: &str = "
    INSERT INTO manual_attempts AS sent (subject, at)
    SELECT subject, ARRAY[$2] FROM unnest($1::text[]) AS subject ORDER BY subject
    ON CONFLICT (subject) DO UPDATE
        SET at = ARRAY(
            SELECT at FROM unnest(sent.at || $2) AS at
             WHERE at > $2 - CASE WHEN starts_with(sent.subject, 'user ') THEN interval '24 hours'
                                  ELSE interval '1 minute' END
             ORDER BY at
        )
    RETURNING subject, at";

/// Counts an attempt. Exact whatever the number of replicas: requests for the same subject wait for each other until their
/// transactions end. `Some` tells how long to wait until the next is allowed; then the transaction has to be rolled back, for
/// what is refused does not count.
pub(crate) async fn count_manual_attempt(
    connection: &mut AsyncPgConnection,
    user: &UserId,
    webhook: WebhookId,
    limits: ManualLimits,
    now: Timestamp,
) -> Result<Option<Duration>, StoreError> {
    let (of_user, of_webhook) = (format!("user {}", user.as_str()), format!("webhook {webhook}"));
    let subjects = vec![of_user.as_str(), of_webhook.as_str()];
    let counted = sql_query(COUNT).bind::<Array<Text>, _>(subjects).bind::<Timestamptz, _>(now);
    let rows: Vec<CountedRow> = Prepared(counted).load(connection).await?;
    let waits = rows.iter().filter_map(|row| {
        if row.subject == of_user {
            let of_minute = wait(&row.at, limits.per_user, MINUTE, now);
            of_minute.max(wait(&row.at, limits.per_user_day, DAY, now))
        } else {
            wait(&row.at, limits.per_webhook, MINUTE, now)
        }
    });
    Ok(waits.max())
}

/// How long to wait until fewer than `most` of these lie within the span.
fn wait(at: &[Timestamp], most: u32, span: Duration, now: Timestamp) -> Option<Duration> {
    let at = &at[at.partition_point(|at| *at <= now - span)..];
    let too_many = at.len().checked_sub(usize::try_from(most).unwrap_or(usize::MAX)).filter(|it| *it > 0)?;
    let last_in_the_way = at[too_many - 1];
    Some((last_in_the_way + span - now).to_std().unwrap_or_default())
}

/// Forgets users who caused nothing within the last day, and webhooks that got nothing within the last minute. Rows that are in use are left: whoever uses them has locks of its
/// own to wait for.
pub(crate) async fn forget_manual_attempts(
    connection: &mut AsyncPgConnection,
    now: Timestamp,
) -> Result<(), StoreError> {
    sql_query(
        "DELETE FROM manual_attempts WHERE subject IN (
            SELECT subject FROM manual_attempts
             WHERE at[cardinality(at)] < $1 - CASE WHEN starts_with(subject, 'user ') THEN interval '24 hours'
                                                   ELSE interval '1 minute' END
               FOR UPDATE SKIP LOCKED)",
    )
    .bind::<Timestamptz, _>(now)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_ends_when_enough_of_the_minute_is_over() {
        let start = Timestamp::from_timestamp(1_800_000_000, 0).unwrap();
        let at: Vec<_> = [0, 10, 20, 30].map(|seconds| start + Duration::from_secs(seconds)).into();
        let now = at[3];
        assert_eq!(wait(&at, 4, MINUTE, now), None);
        assert_eq!(wait(&at, 3, MINUTE, now), Some(Duration::from_secs(30)), "the first is over at 60");
        assert_eq!(wait(&at, 1, MINUTE, now), Some(Duration::from_secs(50)), "after a limit was lowered");
        let later = start + Duration::from_secs(75);
        assert_eq!(wait(&at, 2, MINUTE, later), None, "two of the four are over");
        assert_eq!(wait(&at, 1, MINUTE, later), Some(Duration::from_secs(5)));
        assert_eq!(wait(&at, 3, DAY, later), Some(Duration::from_secs(24 * 3600 - 75)));
    }
}

//! Jobs issued anew, and jobs put off: what keeps one valid message for every pending delivery.

use std::collections::{HashMap, HashSet};

use diesel::sql_types::{Array, Integer, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl as _;
use domain::protocol::{Fence, Ticket};
use domain::retry::AttemptNumber;
use domain::{DeliveryId, Timestamp};
use uuid::Uuid;

use crate::deliveries::IdRow;
use crate::error::StoreError;
use crate::pool::Store;
use crate::statement::Prepared;

/// A delivery whose last attempt is recorded, and whose next job may or may not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reissue {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The attempt that was recorded last.
    pub recorded: AttemptNumber,
    /// The row's fence as it was seen.
    pub fence: Fence,
    /// When the next attempt is due.
    pub due: Timestamp,
}

/// A job that has to wait for its webhook's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deferral {
    /// The delivery.
    pub delivery: DeliveryId,
    /// What its job says: attempt and fence.
    pub ticket: Ticket,
    /// When the job comes back.
    pub until: Timestamp,
}

#[derive(QueryableByName)]
pub(crate) struct FenceRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Integer)]
    fence: i32,
}

const UNATTEMPTED: &str = "
    UPDATE deliveries delivery
       SET fence = delivery.fence + 1, next_attempt_at = $2
      FROM unnest($1::uuid[]) AS given (id)
     WHERE delivery.id BETWEEN given.id AND given.id
       AND delivery.status || '' = 'pending' AND delivery.attempts = 0
    RETURNING delivery.id, delivery.fence";

const RECORDED: &str = "
    UPDATE deliveries delivery
       SET fence = delivery.fence + 1, next_attempt_at = given.due
      FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::timestamptz[])
           AS given (id, attempts, fence, due)
     WHERE delivery.id BETWEEN given.id AND given.id
       AND delivery.status || '' = 'pending' AND delivery.attempts = given.attempts
       AND delivery.fence BETWEEN given.fence AND given.fence + $5
    RETURNING delivery.id, delivery.fence";

const DEFER: &str = "
    UPDATE deliveries delivery
       SET next_attempt_at = given.until
      FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::timestamptz[])
           AS given (id, attempt, fence, until)
     WHERE delivery.id BETWEEN given.id AND given.id
       AND delivery.status || '' = 'pending' AND delivery.attempts < given.attempt
       AND delivery.fence <= given.fence
    RETURNING delivery.id";

impl Store {
    /// Voids the jobs of those of these deliveries that are pending and were never attempted, and returns the fence of
    /// the jobs to publish in their place. One statement; primary keys.
    pub async fn reissue_unattempted(
        &self,
        ids: &[DeliveryId],
        now: Timestamp,
    ) -> Result<HashMap<DeliveryId, Fence>, StoreError> {
        let mut ids: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
        ids.sort_unstable();
        let mut connection = self.connection().await?;
        let rows: Vec<FenceRow> =
            Prepared(sql_query(UNATTEMPTED).bind::<Array<SqlUuid>, _>(ids).bind::<Timestamptz, _>(now))
                .load(&mut connection)
                .await?;
        Ok(fences(rows))
    }

    /// Voids what jobs there are of deliveries after a recorded attempt, and returns the fence of the jobs to publish in
    /// their place; those are left out that changed since they were looked at: whoever changed them goes on with them.
    /// `tried_before` says that an earlier try of the same call may have been committed. One statement; primary keys.
    pub async fn reissue(
        &self,
        reissues: &[Reissue],
        tried_before: bool,
    ) -> Result<HashMap<DeliveryId, Fence>, StoreError> {
        let mut reissues = reissues.to_vec();
        reissues.sort_unstable_by_key(|reissue| reissue.delivery);
        let each = reissues.iter();
        let ids: Vec<_> = each.clone().map(|reissue| reissue.delivery.uuid()).collect();
        let attempts: Vec<_> = each.clone().map(|reissue| integer(reissue.recorded.get())).collect();
        let fences_seen: Vec<_> = each.clone().map(|reissue| integer(reissue.fence.get())).collect();
        let due: Vec<_> = each.clone().map(|reissue| reissue.due).collect();
        let mut connection = self.connection().await?;
        let rows: Vec<FenceRow> = Prepared(
            sql_query(RECORDED)
                .bind::<Array<SqlUuid>, _>(ids)
                .bind::<Array<Integer>, _>(attempts)
                .bind::<Array<Integer>, _>(fences_seen)
                .bind::<Array<Timestamptz>, _>(due)
                .bind::<Integer, _>(i32::from(tried_before)),
        )
        .load(&mut connection)
        .await?;
        Ok(fences(rows))
    }

    /// Notes when parked jobs come back. Returns the deliveries whose job still counts; of the others nothing may be
    /// parked. One statement; primary keys.
    pub async fn defer(&self, deferrals: &[Deferral]) -> Result<HashSet<DeliveryId>, StoreError> {
        let mut deferrals = deferrals.to_vec();
        deferrals.sort_unstable_by_key(|deferral| deferral.delivery);
        let each = deferrals.iter();
        let ids: Vec<_> = each.clone().map(|deferral| deferral.delivery.uuid()).collect();
        let attempts: Vec<_> = each.clone().map(|deferral| integer(deferral.ticket.attempt.get())).collect();
        let fences: Vec<_> = each.clone().map(|deferral| integer(deferral.ticket.fence.get())).collect();
        let until: Vec<_> = each.clone().map(|deferral| deferral.until).collect();
        let mut connection = self.connection().await?;
        let rows: Vec<IdRow> = Prepared(
            sql_query(DEFER)
                .bind::<Array<SqlUuid>, _>(ids)
                .bind::<Array<Integer>, _>(attempts)
                .bind::<Array<Integer>, _>(fences)
                .bind::<Array<Timestamptz>, _>(until),
        )
        .load(&mut connection)
        .await?;
        Ok(rows.into_iter().map(IdRow::delivery).collect())
    }
}

pub(crate) fn fences(rows: Vec<FenceRow>) -> HashMap<DeliveryId, Fence> {
    rows.into_iter().map(|row| (DeliveryId::from_uuid(row.id), fence(row.fence))).collect()
}

/// The column's value as a fence.
pub(crate) fn fence(column: i32) -> Fence {
    Fence::new(u32::try_from(column).unwrap_or(0))
}

fn integer(number: u32) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

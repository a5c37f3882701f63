//! The history of deliveries, as developers see it.

use diesel::dsl::exists;
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{ExpressionMethods as _, QueryDsl as _, QueryableByName, select, sql_query};
use diesel_async::RunQueryDsl as _;
use domain::protocol::DeliveryStatus;
use domain::{DeliveryId, EventType, Timestamp, UserId, WebhookId};
use uuid::Uuid;

use crate::error::StoreError;
use crate::pool::{Connection, Store};
use crate::schema::webhooks;
use crate::statement::Prepared;

/// One page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// From 1.
    pub number: u32,
    /// Items on a page.
    pub size: u32,
}

impl Page {
    pub(crate) fn limit(self) -> i64 {
        self.size.into()
    }

    pub(crate) fn offset(self) -> i64 {
        i64::from(self.number.saturating_sub(1)) * i64::from(self.size)
    }
}

/// Reads a status column.
pub(crate) fn read_status(text: &str) -> Result<DeliveryStatus, StoreError> {
    DeliveryStatus::parse(text).ok_or_else(|| {
        let error = format!("unknown delivery status `{text}`").into();
        StoreError::Query(diesel::result::Error::DeserializationError(error))
    })
}

/// Which deliveries of a webhook are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// Only of this status.
    pub status: Option<DeliveryStatus>,
    /// Only of this event type.
    pub event: Option<EventType>,
}

/// A delivery as its developer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// What happened.
    pub event_type: String,
    /// What became of it.
    pub status: DeliveryStatus,
    /// Attempts made.
    pub attempts: u32,
    /// When the last attempt started.
    pub last_attempt_at: Option<Timestamp>,
    /// When the next attempt is due.
    pub next_attempt_at: Option<Timestamp>,
    /// How long the last attempt took.
    pub duration_ms: Option<u32>,
    /// The last response's status.
    pub response_status: Option<u16>,
    /// The last response's body.
    pub response_body: Option<String>,
    /// Why the last attempt was no success.
    pub error: Option<String>,
    /// When the delivery was made.
    pub created_at: Timestamp,
}

/// How many deliveries of each status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Attempts are yet to be made.
    pub pending: u64,
    /// Succeeded.
    pub success: u64,
    /// Failed.
    pub failed: u64,
}

impl Statistics {
    /// All of them.
    pub fn total(self) -> u64 {
        self.pending + self.success + self.failed
    }

    /// Those of a status, or all.
    pub fn of(self, status: Option<DeliveryStatus>) -> u64 {
        match status {
            None => self.total(),
            Some(DeliveryStatus::Pending) => self.pending,
            Some(DeliveryStatus::Success) => self.success,
            Some(DeliveryStatus::Failed) => self.failed,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            pending: self.pending + other.pending,
            success: self.success + other.success,
            failed: self.failed + other.failed,
        }
    }
}

/// A page of a webhook's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryPage {
    /// Newest first.
    pub deliveries: Vec<Delivery>,
    /// What the filter selects.
    pub total: u64,
    /// The whole webhook.
    pub statistics: Statistics,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    event_type: String,
    #[diesel(sql_type = Text)]
    status: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    last_attempt_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    next_attempt_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Integer>)]
    duration_ms: Option<i32>,
    #[diesel(sql_type = Nullable<Integer>)]
    response_status: Option<i32>,
    #[diesel(sql_type = Nullable<Text>)]
    response_body: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    error: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    created_at: Timestamp,
}

impl Row {
    fn into_delivery(self) -> Result<Delivery, StoreError> {
        Ok(Delivery {
            id: DeliveryId::from_uuid(self.id),
            event_type: self.event_type,
            status: read_status(&self.status)?,
            attempts: u32::try_from(self.attempts).unwrap_or(0),
            last_attempt_at: self.last_attempt_at,
            next_attempt_at: self.next_attempt_at,
            duration_ms: self.duration_ms.and_then(|it| u32::try_from(it).ok()),
            response_status: self.response_status.and_then(|it| u16::try_from(it).ok()),
            response_body: self.response_body,
            error: self.error,
            created_at: self.created_at,
        })
    }
}

#[derive(QueryableByName)]
struct CounterRow {
    #[diesel(sql_type = Text)]
    event_type: String,
    #[diesel(sql_type = BigInt)]
    pending: i64,
    #[diesel(sql_type = BigInt)]
    success: i64,
    #[diesel(sql_type = BigInt)]
    failed: i64,
}

impl CounterRow {
    fn statistics(&self) -> Statistics {
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        Statistics { pending: count(self.pending), success: count(self.success), failed: count(self.failed) }
    }
}

const COLUMNS: &str = "id, event_type, status, attempts, last_attempt_at, next_attempt_at, duration_ms,
                       response_status, response_body, error, created_at";

/// One statement a filter, so that each has the plan of its index. The status is written out: of a parameter the
/// planner cannot tell that it lies in the index of what is not successful.
fn page_query(filter: DeliveryFilter) -> String {
    let status =
        filter.status.map_or_else(String::new, |status| format!(" AND status = '{}'", status.as_str()));
    let event = if filter.event.is_some() { "event_type = $2" } else { "$2 = ''" };
    format!(
        "SELECT {COLUMNS} FROM deliveries WHERE webhook_id = $1{status} AND {event}
          ORDER BY id DESC LIMIT $3 OFFSET $4"
    )
}

impl Store {
    /// A page of the history of one of the user's webhooks, newest first; `None` if the user has no such
    /// webhook. Indexes: `deliveries_history`, `deliveries_not_successful`, `deliveries_by_type`, newest partition
    /// first; totals come from the running counters.
    pub async fn list_deliveries(
        &self,
        user: &UserId,
        webhook: WebhookId,
        filter: DeliveryFilter,
        page: Page,
    ) -> Result<Option<DeliveryPage>, StoreError> {
        let mut connection = self.connection().await?;
        if !owns(&mut connection, user, webhook).await? {
            return Ok(None);
        }
        let counters: Vec<CounterRow> = sql_query(
            "SELECT event_type, pending, success, failed FROM webhook_statistics WHERE webhook_id = $1",
        )
        .bind::<SqlUuid, _>(webhook.uuid())
        .load(&mut connection)
        .await?;
        let selected = |row: &&CounterRow| filter.event.is_none_or(|event| event.as_str() == row.event_type);
        let sum = |statistics: Statistics, row: &CounterRow| statistics.and(row.statistics());
        let statistics = counters.iter().fold(Statistics::default(), sum);
        let total = counters.iter().filter(selected).fold(Statistics::default(), sum).of(filter.status);

        let rows: Vec<Row> = Prepared(
            sql_query(page_query(filter))
                .bind::<SqlUuid, _>(webhook.uuid())
                .bind::<Text, _>(filter.event.map_or("", EventType::as_str))
                .bind::<BigInt, _>(page.limit())
                .bind::<BigInt, _>(page.offset()),
        )
        .load(&mut connection)
        .await?;
        let deliveries = rows.into_iter().map(Row::into_delivery).collect::<Result<_, _>>()?;
        Ok(Some(DeliveryPage { deliveries, total, statistics }))
    }
}

async fn owns(connection: &mut Connection, user: &UserId, webhook: WebhookId) -> Result<bool, StoreError> {
    let owned = webhooks::table.find(webhook.uuid()).filter(webhooks::user_id.eq(user.as_str()));
    Ok(select(exists(owned)).get_result(connection).await?)
}

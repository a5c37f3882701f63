//! Accepted events.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use diesel::sql_types::{Array, Binary, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl as _;
use domain::{EventId, EventType, PublicEventId, Timestamp, UserId};
use uuid::Uuid;

use crate::error::StoreError;
use crate::id_range::IdRange;
use crate::pool::{Connection, Store};
use crate::statement::Prepared;

/// An event to be stored.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Our id.
    pub id: EventId,
    /// The publisher's id, if one was given: what duplicates are recognised by.
    pub publisher_id: Option<PublicEventId>,
    /// What happened.
    pub event_type: EventType,
    /// Whom it concerns.
    pub recipients: Vec<UserId>,
    /// The payload's timestamp, character for character.
    pub timestamp: String,
    /// The body as every receiver gets it.
    pub body: Bytes,
}

impl NewEvent {
    /// The id that receivers see.
    pub fn public_id(&self) -> PublicEventId {
        self.publisher_id.clone().unwrap_or_else(|| PublicEventId::assigned(self.id))
    }
}

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Our id.
    pub id: EventId,
    /// The id that receivers see.
    pub public_id: PublicEventId,
    /// What happened.
    pub event_type: EventType,
    /// Whom it concerns.
    pub recipients: Vec<UserId>,
    /// The payload's timestamp, character for character.
    pub timestamp: String,
    /// The body as every receiver gets it.
    pub body: Bytes,
}

/// What became of an event that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is stored now.
    New,
    /// Its publisher's id was seen within the last 24 hours.
    Duplicate {
        /// The event that is stored under that id.
        event: EventId,
        /// Whether a dispatcher has fanned it out.
        fanned_out: bool,
    },
}

#[derive(QueryableByName)]
struct InsertedRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

#[derive(QueryableByName)]
struct DuplicateRow {
    #[diesel(sql_type = Nullable<Text>)]
    publisher_id: Option<String>,
    #[diesel(sql_type = SqlUuid)]
    event_id: Uuid,
    #[diesel(sql_type = Bool)]
    fanned_out: bool,
}

#[derive(QueryableByName)]
pub(crate) struct EventRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    public_id: String,
    #[diesel(sql_type = Text)]
    event_type: String,
    #[diesel(sql_type = Array<Text>)]
    recipients: Vec<String>,
    #[diesel(sql_type = Text)]
    timestamp: String,
    #[diesel(sql_type = Binary)]
    body: Vec<u8>,
}

/// `recipients` is an array for each row: joined by a character that no user id holds (ids have no control
/// characters), because PostgreSQL's arrays of arrays must be rectangular.
const INSERT: &str = "
    WITH new AS (
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[])
            AS new (id, publisher_id, public_id, type, recipients, timestamp, body)
    ), key AS (
        INSERT INTO event_keys (publisher_id, event_id, first_seen)
        SELECT publisher_id, id, $8 FROM new WHERE publisher_id IS NOT NULL ORDER BY publisher_id
        ON CONFLICT (publisher_id) DO UPDATE
            SET event_id = excluded.event_id, first_seen = excluded.first_seen
            WHERE event_keys.first_seen < excluded.first_seen - interval '24 hours'
        RETURNING event_id
    ), event AS (
        INSERT INTO events (id, public_id, type, recipients, timestamp, body, received_at)
        SELECT id, public_id, type, string_to_array(recipients, E'\\x1f'), timestamp, body, $8
          FROM new
         WHERE publisher_id IS NULL OR id IN (SELECT event_id FROM key)
            ON CONFLICT (id) DO NOTHING
        RETURNING id
    )
    INSERT INTO events_to_fan_out (event_id, queued_at) SELECT id, $8 FROM event RETURNING event_id AS id";

/// Events known under these publishers' ids, and those of these ids of our own.
const DUPLICATES: &str = "
    SELECT publisher_id, event_id,
           NOT EXISTS (SELECT FROM events_to_fan_out waiting WHERE waiting.event_id = key.event_id) AS fanned_out
      FROM event_keys key
     WHERE publisher_id = ANY($1)
    UNION ALL
    SELECT NULL, id, NOT EXISTS (SELECT FROM events_to_fan_out WHERE event_id = id)
      FROM events
     WHERE id = ANY($2) AND id BETWEEN $3 AND $4";

const LOAD: &str = "
    SELECT id, public_id, type AS event_type, recipients, timestamp, body
      FROM events
     WHERE id = ANY($1) AND id BETWEEN $2 AND $3";

/// Tries of an event that is neither stored nor found: its key was forgotten at the end of its 24 hours, between
/// the one and the other. The second try stores it, unless clocks differ by hours.
const MAX_TRIES: usize = 5;

const RECIPIENT_SEPARATOR: &str = "\u{1f}";

impl Store {
    /// Stores events, each publisher's id once in 24 hours, also when it stands twice in `events` or other
    /// processes store it in the same instant. Answers for every event, in order; storing the same events again
    /// finds them stored. One statement, and one more if there are duplicates.
    pub async fn insert_events(
        &self,
        events: &[NewEvent],
        now: Timestamp,
    ) -> Result<Vec<Inserted>, StoreError> {
        let mut answers: Vec<Option<Inserted>> = vec![None; events.len()];
        let mut connection = self.connection().await?;
        for _ in 0..MAX_TRIES {
            let open: Vec<&NewEvent> = events
                .iter()
                .zip(&answers)
                .filter(|(_, answer)| answer.is_none())
                .map(|(event, _)| event)
                .collect();
            if open.is_empty() {
                break;
            }
            let inserted = insert(&mut connection, &open, now).await?;
            let refused: Vec<_> = open.into_iter().filter(|event| !inserted.contains(&event.id)).collect();
            let known =
                if refused.is_empty() { Known::default() } else { known(&mut connection, &refused).await? };
            for (event, answer) in events.iter().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
                *answer = if inserted.contains(&event.id) { Some(Inserted::New) } else { known.find(event) };
            }
        }
        let answered: Option<Vec<Inserted>> = answers.into_iter().collect();
        answered.ok_or_else(|| StoreError::Unavailable {
            reason: "an event's id is refused as known and not found: do the clocks agree?".to_owned(),
        })
    }

    /// These events, as far as they are stored. Primary key.
    pub async fn load_events(&self, ids: &[EventId]) -> Result<Vec<StoredEvent>, StoreError> {
        let ids: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
        let range = IdRange::of(ids.iter().copied());
        let mut connection = self.connection().await?;
        let rows: Vec<EventRow> = Prepared(
            sql_query(LOAD)
                .bind::<Array<SqlUuid>, _>(ids)
                .bind::<SqlUuid, _>(range.first)
                .bind::<SqlUuid, _>(range.last),
        )
        .load(&mut connection)
        .await?;
        rows.into_iter().map(EventRow::into_event).collect()
    }
}

/// Stores those whose publisher's id is new. Returns the ids of what is stored now.
async fn insert(
    connection: &mut Connection,
    events: &[&NewEvent],
    now: Timestamp,
) -> Result<HashSet<EventId>, StoreError> {
    let firsts = first_of_each_publisher_id(events);
    let column = |value: fn(&NewEvent) -> String| firsts.iter().map(|event| value(event)).collect::<Vec<_>>();
    let ids: Vec<_> = firsts.iter().map(|event| event.id.uuid()).collect();
    let publisher_ids: Vec<_> =
        firsts.iter().map(|event| event.publisher_id.as_ref().map(PublicEventId::as_str)).collect();
    let bodies: Vec<&[u8]> = firsts.iter().map(|event| event.body.as_ref()).collect();
    let inserted: Vec<InsertedRow> = Prepared(
        sql_query(INSERT)
            .bind::<Array<SqlUuid>, _>(ids)
            .bind::<Array<Nullable<Text>>, _>(publisher_ids)
            .bind::<Array<Text>, _>(column(|event| event.public_id().to_string()))
            .bind::<Array<Text>, _>(column(|event| event.event_type.to_string()))
            .bind::<Array<Text>, _>(column(|event| join(&event.recipients)))
            .bind::<Array<Text>, _>(column(|event| event.timestamp.clone()))
            .bind::<Array<Binary>, _>(bodies)
            .bind::<Timestamptz, _>(now),
    )
    .load(connection)
    .await?;
    Ok(inserted.into_iter().map(|row| EventId::from_uuid(row.id)).collect())
}

/// Events that are stored, by what tells a duplicate.
#[derive(Default)]
struct Known {
    by_publisher_id: HashMap<String, Inserted>,
    by_id: HashMap<EventId, Inserted>,
}

impl Known {
    fn find(&self, event: &NewEvent) -> Option<Inserted> {
        match &event.publisher_id {
            Some(id) => self.by_publisher_id.get(id.as_str()).copied(),
            None => self.by_id.get(&event.id).copied(),
        }
    }
}

/// A statement of its own, and so with a newer view of the database: it sees what others committed while the insert
/// waited for them.
async fn known(connection: &mut Connection, refused: &[&NewEvent]) -> Result<Known, StoreError> {
    let publisher_ids: Vec<_> =
        refused.iter().filter_map(|event| event.publisher_id.as_ref().map(PublicEventId::as_str)).collect();
    let ids: Vec<_> =
        refused.iter().filter(|event| event.publisher_id.is_none()).map(|event| event.id.uuid()).collect();
    let range = IdRange::of(ids.iter().copied());
    let rows: Vec<DuplicateRow> = Prepared(
        sql_query(DUPLICATES)
            .bind::<Array<Text>, _>(publisher_ids)
            .bind::<Array<SqlUuid>, _>(ids)
            .bind::<SqlUuid, _>(range.first)
            .bind::<SqlUuid, _>(range.last),
    )
    .load(connection)
    .await?;
    let mut known = Known::default();
    for row in rows {
        let event = EventId::from_uuid(row.event_id);
        let duplicate = Inserted::Duplicate { event, fanned_out: row.fanned_out };
        match row.publisher_id {
            Some(id) => known.by_publisher_id.insert(id, duplicate),
            None => known.by_id.insert(event, duplicate),
        };
    }
    Ok(known)
}

impl EventRow {
    pub(crate) fn into_event(self) -> Result<StoredEvent, StoreError> {
        Ok(StoredEvent {
            id: EventId::from_uuid(self.id),
            public_id: read(PublicEventId::parse(&self.public_id))?,
            event_type: read(self.event_type.parse())?,
            recipients: read(self.recipients.iter().map(|user| UserId::parse(user)).collect())?,
            timestamp: self.timestamp,
            body: self.body.into(),
        })
    }
}

/// A column's text as the domain's type.
pub(crate) fn read<T, E: std::error::Error + Send + Sync + 'static>(
    value: Result<T, E>,
) -> Result<T, StoreError> {
    value.map_err(|error| StoreError::Query(diesel::result::Error::DeserializationError(Box::new(error))))
}

fn join(recipients: &[UserId]) -> String {
    recipients.iter().map(UserId::as_str).collect::<Vec<_>>().join(RECIPIENT_SEPARATOR)
}

/// One statement may not touch a key twice: of events with one publisher's id the first is stored.
fn first_of_each_publisher_id<'a>(events: &[&'a NewEvent]) -> Vec<&'a NewEvent> {
    let mut seen = HashSet::new();
    let mut firsts = Vec::with_capacity(events.len());
    for &event in events {
        if event.publisher_id.as_ref().is_none_or(|id| seen.insert(id)) {
            firsts.push(event);
        }
    }
    firsts
}

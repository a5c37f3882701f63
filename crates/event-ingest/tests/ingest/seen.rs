//! What can be seen of a stack's events: rows, fan-out messages, rejected messages.

use std::collections::BTreeMap;

use broker::{Confirmed, Consumer, ConsumerConfig, Received};
use domain::EventType;
use testkit::{DEADLINE, Event, Stack, StackBuilder, eventually_ok};
use wire::FanOut;

/// event-ingest alone: nobody takes its fan-out messages but the test.
pub(crate) fn ingest_alone() -> StackBuilder {
    Stack::builder().no_api().dispatchers(0)
}

/// A valid event with this id.
pub(crate) fn event(id: &str) -> Event {
    Event::example(EventType::BookingCreated).to("user_1").id(id).timestamp("2024-01-15T10:30:00Z")
}

/// Valid events with the ids `PREFIX-0`, `PREFIX-1`, …
pub(crate) fn events(prefix: &str, count: usize) -> Vec<Event> {
    (0..count).map(|n| event(&format!("{prefix}-{n}"))).collect()
}

/// Has the database refuse events whose ids start with `poison`.
pub(crate) async fn refuse_poison(stack: &Stack) {
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.public_id LIKE 'poison%' THEN RAISE EXCEPTION 'not this one'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()";
    stack.database.connect().await.batch_execute(refuse).await.unwrap();
}

/// The number of stored events, and of distinct ids among them.
pub(crate) async fn stored(stack: &Stack) -> (i64, i64) {
    let client = stack.database.connect().await;
    let row = client.query_one("SELECT count(*), count(DISTINCT public_id) FROM events", &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// Waits until exactly so many events are stored, each once.
pub(crate) async fn expect_stored(stack: &Stack, count: i64) {
    let client = stack.database.connect().await;
    eventually_ok(&format!("{count} events are stored"), DEADLINE, async || {
        let counting = "SELECT count(*), count(DISTINCT public_id) FROM events";
        let row = client.query_one(counting, &[]).await.unwrap();
        let (rows, ids): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(rows, ids, "an id is stored twice");
        if rows == count { Ok(()) } else { Err(format!("{rows} rows")) }
    })
    .await;
}

/// The body of the event with this id, as receivers get it.
pub(crate) async fn body_of(stack: &Stack, id: &str) -> String {
    let client = stack.database.connect().await;
    eventually_ok(&format!("{id} is stored"), DEADLINE, async || {
        let found = client.query_opt("SELECT body FROM events WHERE public_id = $1", &[&id]).await.unwrap();
        found.map(|row| String::from_utf8(row.get(0)).unwrap()).ok_or("no row")
    })
    .await
}

/// Waits until all processes together have worked off so many events.
pub(crate) async fn expect_worked_off(stack: &mut Stack, count: f64) {
    eventually_ok(&format!("{count} events are worked off"), DEADLINE, async || {
        let mut worked_off = 0.0;
        for ingest in &mut stack.ingests {
            worked_off += ingest.metric("ingest_events_total").await;
        }
        if worked_off >= count { Ok(()) } else { Err(worked_off) }
    })
    .await;
}

/// Takes messages from a queue for good.
pub(crate) struct Taker(Consumer);

impl Taker {
    /// From the queue of stored events.
    pub(crate) fn of_fan_outs(stack: &Stack) -> Self {
        Self::of(stack, stack.queues().names().fan_out_queue())
    }

    /// From the queue of rejected messages.
    pub(crate) fn of_rejected(stack: &Stack) -> Self {
        Self::of(stack, stack.queues().names().rejected_queue())
    }

    fn of(stack: &Stack, queue: String) -> Self {
        Self(stack.broker().consumer(queue, ConsumerConfig { prefetch: 1000, tag: "test".into() }))
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Received {
        let next = tokio::time::timeout(DEADLINE, self.0.next()).await;
        let delivery = next.expect("another message comes").expect("the broker is open");
        delivery.acker.ack(Confirmed::nothing_to_publish());
        delivery.received
    }

    /// How often each event was handed over, taken until each of `count` ids was seen.
    pub(crate) async fn handed_over(&mut self, count: usize) -> BTreeMap<String, usize> {
        let mut seen = BTreeMap::new();
        while seen.len() < count {
            let message = self.next().await;
            for event in FanOut::decode(message.body).unwrap().events {
                *seen.entry(event.public_id.as_str().to_owned()).or_default() += 1;
            }
        }
        seen
    }
}

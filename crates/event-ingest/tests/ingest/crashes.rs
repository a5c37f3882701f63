//! Whenever a process ends, nothing accepted is lost and nothing is stored twice.

use testkit::{DEADLINE, Stack, eventually_ok};

use crate::seen::{Taker, events, expect_stored, ingest_alone, stored};

const EVENTS: u32 = 2_000;

/// A stack in small steps, so that an end comes in the middle of many.
async fn stack_in_small_steps() -> Stack {
    ingest_alone().env("LOK__INGEST__PREFETCH", "60").env("LOK__INGEST__BATCH_EVENTS", "20").start().await
}

/// Waits until more than `count` events are stored.
async fn stored_more_than(stack: &Stack, count: i64) {
    let client = stack.database.connect().await;
    eventually_ok(&format!("more than {count} events are stored"), DEADLINE, async || {
        let row = client.query_one("SELECT count(*) FROM events", &[]).await.unwrap();
        let stored: i64 = row.get(0);
        if stored > count { Ok(()) } else { Err(stored) }
    })
    .await;
}

#[tokio::test]
async fn killed_under_load_every_event_is_stored_once_and_handed_over() {
    let mut stack = stack_in_small_steps().await;
    let mut ingest = stack.ingests.remove(0);
    stack.publish_all(&events("killed", EVENTS as usize)).await;
    for step in 1..=3 {
        stored_more_than(&stack, step * 200).await;
        ingest.kill9();
        let (rows, _) = stored(&stack).await;
        assert!(rows < i64::from(EVENTS), "the end came before the work was done");
        ingest.restart().await;
    }
    expect_stored(&stack, i64::from(EVENTS)).await;
    let handed_over = Taker::of_fan_outs(&stack).handed_over(EVENTS as usize).await;
    assert_eq!(handed_over.len(), EVENTS as usize);
}

#[tokio::test]
async fn told_to_stop_under_load_it_leaves_with_everything_done_or_on_the_queue() {
    let mut stack = stack_in_small_steps().await;
    let mut ingest = stack.ingests.remove(0);
    stack.publish_all(&events("stopped", EVENTS as usize)).await;
    stored_more_than(&stack, 200).await;

    let status = ingest.terminate(DEADLINE).await;
    assert_eq!(status.code(), Some(0), "{}", ingest.log());
    let (rows, _) = stored(&stack).await;
    assert!(rows < i64::from(EVENTS), "the end came before the work was done");
    let mut fan_outs = Taker::of_fan_outs(&stack);
    let handed_over = fan_outs.handed_over(usize::try_from(rows).unwrap()).await;
    assert!(handed_over.values().all(|times| *times == 1), "what was begun was finished: {handed_over:?}");

    ingest.restart().await;
    expect_stored(&stack, i64::from(EVENTS)).await;
    let rest = EVENTS as usize - handed_over.len();
    let handed_over = fan_outs.handed_over(rest).await;
    assert!(handed_over.values().all(|times| *times == 1), "nothing was begun twice");
}

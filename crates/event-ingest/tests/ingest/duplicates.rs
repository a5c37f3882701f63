//! An id published again within 24 hours is stored once and delivers nothing twice.

use testkit::{DEADLINE, eventually_ok};

use crate::seen::{Taker, event, events, expect_stored, expect_worked_off, ingest_alone, stored};

#[tokio::test]
async fn an_id_published_again_is_stored_once_and_handed_over_until_it_is_fanned_out() {
    let mut stack = ingest_alone().start().await;
    let mut fan_outs = Taker::of_fan_outs(&stack);
    stack.publish(&event("order-1")).await;
    assert_eq!(fan_outs.handed_over(1).await["order-1"], 1);

    // No dispatcher has marked it: its message may never have been published, as after a crash in between.
    stack.publish(&event("order-1").to("user_2")).await;
    assert_eq!(fan_outs.handed_over(1).await["order-1"], 1);

    let client = stack.database.connect().await;
    client.execute("DELETE FROM events_to_fan_out", &[]).await.unwrap();
    stack.publish_protobuf(&event("order-1")).await;
    expect_worked_off(&mut stack, 3.0).await;
    stack.publish(&event("order-2")).await;
    let handed_over = fan_outs.handed_over(1).await;
    assert_eq!(handed_over.get("order-1"), None, "it is fanned out already");
    assert_eq!(stored(&stack).await, (2, 2));
    let recipients: Vec<String> = client
        .query_one("SELECT recipients FROM events WHERE public_id = 'order-1'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(recipients, ["user_1"], "the first is the one that counts");
}

#[tokio::test]
async fn the_message_id_is_the_events_id_where_it_has_none() {
    let mut stack = ingest_alone().start().await;
    let without_id = stack.message(&testkit::Event::example(domain::EventType::ReviewCreated).to("user_1"));
    for _ in 0..2 {
        stack.publish_message(without_id.clone().message_id("from-the-properties")).await;
        stack.publish_message(without_id.clone()).await;
    }
    expect_worked_off(&mut stack, 4.0).await;
    expect_stored(&stack, 3).await;
    let client = stack.database.connect().await;
    let ids = client.query("SELECT public_id FROM events ORDER BY public_id", &[]).await.unwrap();
    let ids: Vec<String> = ids.iter().map(|row| row.get(0)).collect();
    assert!(ids[0].starts_with("event_") && ids[1].starts_with("event_"), "{ids:?}");
    assert_eq!(ids[2], "from-the-properties");
}

#[tokio::test]
async fn ids_raced_by_two_processes_are_stored_once() {
    let mut stack = ingest_alone().ingests(2).start().await;
    let twice: Vec<_> = events("raced", 200).into_iter().flat_map(|event| [event.clone(), event]).collect();
    stack.publish_all(&twice).await;
    expect_worked_off(&mut stack, 400.0).await;
    expect_stored(&stack, 200).await;
    for ingest in &mut stack.ingests {
        assert!(ingest.metric("ingest_events_total").await > 0.0, "both took part");
    }
    assert_eq!(Taker::of_fan_outs(&stack).handed_over(200).await.len(), 200);
}

#[tokio::test]
async fn with_a_dispatcher_an_id_published_twice_is_fanned_out_once() {
    let mut stack = testkit::Stack::builder().no_api().start().await;
    let twice = [event("order-1"), event("order-1")];
    stack.publish_all(&twice).await;
    expect_worked_off(&mut stack, 2.0).await;
    let client = stack.database.connect().await;
    eventually_ok("the event is fanned out", DEADLINE, async || {
        let sql = "SELECT (SELECT count(*) FROM events_to_fan_out), count(*) FROM events";
        let row = client.query_one(sql, &[]).await.unwrap();
        let counts: (i64, i64) = (row.get(0), row.get(1));
        if counts == (0, 1) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}

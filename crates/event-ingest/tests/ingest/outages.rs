//! While the database is away, nothing is dropped, readiness tells, and HTTP says 503.

use std::time::Duration;

use domain::EventType;
use http::Method;
use testkit::{DEADLINE, HttpClient, Stack, eventually_ok, servers};

use crate::seen::{Taker, event, events, expect_stored, ingest_alone};

/// The database server, to shut one database's door.
struct Door {
    admin: tokio_postgres::Client,
    database: String,
}

impl Door {
    async fn of(stack: &Stack) -> Self {
        let url = servers::database_url();
        let (admin, connection) = tokio_postgres::connect(url.as_str(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let database = stack.database.url().rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
        Self { admin, database }
    }

    async fn shut(&self) {
        let Self { admin, database } = self;
        admin.batch_execute(&format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false")).await.unwrap();
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        admin.query(end, &[database]).await.unwrap();
    }

    async fn open(&self) {
        let open = format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", self.database);
        self.admin.batch_execute(&open).await.unwrap();
    }
}

async fn expect_readiness(stack: &mut Stack, status: u16) -> String {
    let url = format!("{}/readyz", stack.ingests[0].admin_url().await);
    eventually_ok(&format!("readiness is {status}"), DEADLINE, async || {
        let answer = HttpClient::default().get(&url).await;
        if answer.status == status { Ok(answer.text()) } else { Err(answer.text()) }
    })
    .await
}

#[tokio::test]
async fn while_the_database_is_away_events_wait_and_http_says_so() {
    let mut stack = ingest_alone()
        .env("LOK__INGEST__HTTP_TIMEOUT", "1s")
        .env("LOK__DATABASE__ACQUIRE_TIMEOUT", "500ms")
        .start()
        .await;
    let door = Door::of(&stack).await;
    door.shut().await;
    expect_readiness(&mut stack, 503).await;

    stack.publish_all(&events("waiting", 300)).await;
    let body = event("over-http").to_json();
    let post = |body: String| {
        let client = stack.ingest();
        async move { client.raw(Method::POST, "/v1/events", Some("application/json"), body.into()).await }
    };
    let answer = post(body.clone()).await.expect(503);
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["code"], "unavailable");

    door.open().await;
    let answer = eventually_ok("the event is taken", DEADLINE, async || {
        let answer = post(body.clone()).await;
        if answer.status == 202 { Ok(answer) } else { Err(answer.text()) }
    })
    .await;
    assert_eq!(answer.json()["events"][0]["id"], "over-http");
    expect_stored(&stack, 301).await;
    assert_eq!(Taker::of_fan_outs(&stack).handed_over(301).await.len(), 301);
    expect_readiness(&mut stack, 200).await;
    assert_eq!(stack.depth(&stack.queues().names().rejected_queue()).await, 0, "nothing was set aside");
    let told = stack.ingests[0].log().lines().filter(|line| line.contains("WARN")).count();
    assert!(told < 30, "one line a change of state, not one a try:\n{}", stack.ingests[0].log());
}

#[tokio::test]
async fn trouble_of_the_database_sets_no_event_aside() {
    let mut stack = ingest_alone().start().await;
    let client = stack.database.connect().await;
    client.batch_execute("ALTER TABLE events RENAME TO elsewhere").await.unwrap();
    stack.publish_all(&events("waiting", 20)).await;
    let report = expect_readiness(&mut stack, 503).await;
    assert!(report.contains("does not exist"), "{report}");
    client.batch_execute("ALTER TABLE elsewhere RENAME TO events").await.unwrap();
    expect_stored(&stack, 20).await;
    expect_readiness(&mut stack, 200).await;
    assert_eq!(stack.depth(&stack.queues().names().rejected_queue()).await, 0);
}

#[tokio::test]
async fn told_to_stop_while_the_database_is_away_it_does_not_wait_for_it() {
    let mut stack = ingest_alone().env("LOK__DATABASE__ACQUIRE_TIMEOUT", "500ms").start().await;
    let door = Door::of(&stack).await;
    door.shut().await;
    stack.publish_all(&events("waiting", 50)).await;
    expect_readiness(&mut stack, 503).await;
    let mut ingest = stack.ingests.remove(0);
    let status = ingest.terminate(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "{}", ingest.log());
    door.open().await;
    ingest.restart().await;
    expect_stored(&stack, 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nothing_can_be_stored_every_request_is_answered_in_time_and_few_are_held() {
    const REQUESTS: usize = 60;
    const LARGE: usize = 200 * 1024;
    let limits = ingest_alone().env("LOK__INGEST__HTTP_BODY_LIMIT", "300KiB");
    let stack = limits.env("LOK__INGEST__HTTP_TIMEOUT", "1s").start().await;
    let client = stack.database.connect().await;
    client.batch_execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await.unwrap();

    let example = EventType::BookingCreated.example_text().trim_end().strip_suffix('}').unwrap();
    let data = format!("{example},\"notes\":\"{}\"}}", "x".repeat(LARGE));
    let large = |n: usize| event(&format!("large-{n}")).data(data.clone());
    let asking = (0..REQUESTS).map(|n| {
        let (ingest, body) = (stack.ingest(), large(n).to_json());
        tokio::spawn(async move {
            let start = tokio::time::Instant::now();
            let answer = ingest.raw(Method::POST, "/v1/events", Some("application/json"), body.into()).await;
            (answer.expect(503), start.elapsed())
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        let (answer, took) = asked.await.unwrap();
        assert_eq!(answer.json()["code"], "unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"));
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
    client.batch_execute("COMMIT").await.unwrap();
    let answer = eventually_ok("events are taken again", DEADLINE, async || {
        let answer = stack.ingest().post_text("/v1/events", event("small").to_json()).await;
        if answer.status == 202 { Ok(answer) } else { Err(answer.text()) }
    });
    assert_eq!(answer.await.json()["accepted"], 1);
    let row =
        client.query_one("SELECT count(*) FROM events WHERE public_id LIKE 'large-%'", &[]).await.unwrap();
    // What nobody waited for any more when there was room in a group is not stored.
    assert!(row.get::<_, i64>(0) < 10, "{row:?}");
}

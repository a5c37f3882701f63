//! What counts as delivered, and what happens otherwise: contract, *Outcome*.

use std::time::Duration;

use domain::EventType::BookingCreated;
use serde_json::{Value, json};
use testkit::{Event, Receiver, Reply, Request, Stack};

use crate::support::settled;

const RETRY_DELAYS: &str = "LOK__DELIVERY__RETRY_DELAYS";

fn event() -> Event {
    Event::example(BookingCreated).to("user_1")
}

/// An attempt before the last, as it is recorded.
struct Earlier {
    number: i32,
    started_micros: i64,
    status: Option<i32>,
    response: Option<String>,
}

impl Earlier {
    /// How long before a request's arrival it started.
    fn before_millis(&self, request: &Request) -> i64 {
        (request.arrived_at.timestamp_micros() - self.started_micros) / 1000
    }
}

/// The attempts before the last of the only delivery.
async fn earlier_attempts(stack: &Stack) -> Vec<Earlier> {
    let attempts = "
        SELECT attempt, (extract(epoch FROM started_at) * 1000000)::bigint, response_status, response_body
        FROM delivery_attempts
        ORDER BY attempt";
    let rows = stack.database.connect().await.query(attempts, &[]).await.expect("attempts can be read");
    let earlier = rows.iter().map(|row| Earlier {
        number: row.get(0),
        started_micros: row.get(1),
        status: row.get(2),
        response: row.get(3),
    });
    earlier.collect()
}

fn duration_ms(attempt: &Value) -> u64 {
    attempt["durationMs"].as_u64().unwrap_or_else(|| panic!("durationMs is a number in {attempt}"))
}

#[tokio::test]
async fn a_receiver_that_keeps_failing_gets_three_attempts_after_the_configured_waits() {
    let stack = Stack::builder().env(RETRY_DELAYS, "300ms,700ms").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    receiver.answer(Reply::status(500).header("content-type", "application/json").body(r#"{"oh":"no"}"#));

    stack.publish(&event()).await;
    let deliveries = settled(&stack, &webhook, 1).await;

    let requests = receiver.requests();
    assert_eq!(requests.iter().map(Request::attempt).collect::<Vec<_>>(), [1, 2, 3]);
    for (pair, wait) in requests.windows(2).zip([300, 700].map(Duration::from_millis)) {
        let waited = pair[1].arrived - pair[0].arrived;
        assert!(waited >= wait && waited < wait + Duration::from_secs(5), "waited {waited:?}, not {wait:?}");
    }

    let delivery = &deliveries[0];
    assert_eq!(delivery["event"], "booking.created");
    assert_eq!(delivery["status"], "failed");
    assert_eq!(delivery["attempts"], 3);
    assert_eq!(delivery["responseStatus"], 500);
    assert_eq!(delivery["response"], json!({"oh": "no"}));
    assert_eq!(delivery["nextAttempt"], Value::Null);
    assert!(delivery["error"].as_str().is_some_and(|error| error.contains("500")), "{delivery}");

    let earlier = earlier_attempts(&stack).await;
    assert_eq!(earlier.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2]);
    for (attempt, request) in earlier.iter().zip(&requests) {
        assert_eq!(attempt.status, Some(500));
        assert_eq!(attempt.response.as_deref(), Some(r#"{"oh":"no"}"#));
        assert!((0..5_000).contains(&attempt.before_millis(request)), "attempt {}", attempt.number);
    }
}

#[tokio::test]
async fn a_pending_delivery_tells_when_its_next_attempt_is() {
    let stack = Stack::builder().env(RETRY_DELAYS, "60s,300s").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    receiver.answer(Reply::status(503));
    stack.publish(&event()).await;
    receiver.until(1).await;

    let delivery = testkit::eventually("attempt 1 is in the history", testkit::DEADLINE, async || {
        let delivery = stack.history(&webhook, "status=pending").await["deliveries"][0].clone();
        (delivery["attempts"] == 1).then_some(delivery)
    })
    .await;
    let time = |field: &str| delivery[field].as_str().unwrap().parse::<domain::Timestamp>().unwrap();
    let wait = time("nextAttempt") - time("lastAttempt");
    assert!((59..=65).contains(&wait.num_seconds()), "{delivery}");
}

#[tokio::test]
async fn the_second_attempt_can_succeed_and_ends_it() {
    let stack = Stack::builder().env(RETRY_DELAYS, "200ms,200ms").start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    receiver.answer_next(Reply::status(500).body("not now"));
    receiver.answer_next(Reply::status(200).body("fine"));

    stack.publish(&event()).await;
    let deliveries = settled(&stack, &webhook, 1).await;

    assert_eq!(deliveries[0]["status"], "success");
    assert_eq!(deliveries[0]["attempts"], 2);
    assert_eq!(deliveries[0]["response"], "fine");
    assert_eq!(deliveries[0]["error"], Value::Null);
    assert_eq!(receiver.requests().len(), 2);
    let earlier = earlier_attempts(&stack).await;
    assert_eq!(earlier.len(), 1);
    assert_eq!((earlier[0].status, earlier[0].response.as_deref()), (Some(500), Some("not now")));
}

#[tokio::test]
async fn only_2xx_is_success() {
    let stack = Stack::builder().env(RETRY_DELAYS, "").start().await;
    let receiver = Receiver::start().await;
    receiver.answer_with(|request| Reply::status(request.target[1..].parse().unwrap()));
    let statuses = [200, 201, 202, 204, 206, 299, 300, 304, 400, 401, 404, 410, 429, 500, 503, 599];
    let mut webhooks = Vec::new();
    for status in statuses {
        let url = receiver.url(&format!("/{status}"));
        webhooks.push((status, stack.given_webhook("user_1", &url, &[BookingCreated]).await));
    }

    stack.publish(&event()).await;

    for (status, webhook) in webhooks {
        let delivery = settled(&stack, &webhook, 1).await.remove(0);
        let expected = if (200..300).contains(&status) { "success" } else { "failed" };
        assert_eq!(delivery["status"], expected, "{status}: {delivery}");
        assert_eq!(delivery["responseStatus"], status);
        assert_eq!(
            receiver.requests_to(&format!("/{status}")).len(),
            1,
            "one attempt when there are no waits"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let stack = Stack::builder().env(RETRY_DELAYS, "").start().await;
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    receiver.answer(Reply::redirect(&elsewhere.url("/")));

    stack.publish(&event()).await;
    let delivery = settled(&stack, &webhook, 1).await.remove(0);

    assert_eq!(delivery["status"], "failed");
    assert_eq!(delivery["responseStatus"], 302);
    assert!(delivery["error"].as_str().unwrap().contains("redirect"), "{delivery}");
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn no_answer_in_time_is_a_failure_also_when_it_comes_late() {
    let stack = Stack::builder().env(RETRY_DELAYS, "").env("LOK__DELIVERY__TIMEOUT", "400ms").start().await;
    let receiver = Receiver::start().await;
    let mut webhooks = Vec::new();
    for path in ["/hangs", "/late"] {
        webhooks.push(stack.given_webhook("user_1", &receiver.url(path), &[BookingCreated]).await);
    }
    receiver.answer_with(|request| match request.target.as_str() {
        "/hangs" => Reply::hang(),
        _ => Reply::status(200).after(Duration::from_millis(900)),
    });

    stack.publish(&event()).await;

    for webhook in webhooks {
        let delivery = settled(&stack, &webhook, 1).await.remove(0);
        assert_eq!(delivery["status"], "failed");
        assert_eq!(delivery["responseStatus"], Value::Null);
        assert!(delivery["error"].as_str().unwrap().contains("400ms"), "{delivery}");
        assert!((400..5_000).contains(&duration_ms(&delivery)), "{delivery}");
    }
}

#[tokio::test]
async fn no_connection_and_no_http_are_failures_that_say_so() {
    let stack = Stack::builder().env(RETRY_DELAYS, "").start().await;
    let receiver = Receiver::start().await;
    receiver.answer_with(|request| match request.target.as_str() {
        "/closes" => Reply::close(),
        _ => Reply::raw("what is HTTP?\r\n\r\n"),
    });
    // Nobody listens on port 1 of the loopback interface.
    let urls = ["http://127.0.0.1:1/".to_owned(), receiver.url("/closes"), receiver.url("/no-http")];
    let mut webhooks = Vec::new();
    for url in &urls {
        webhooks.push(stack.given_webhook("user_1", url, &[BookingCreated]).await);
    }

    stack.publish(&event()).await;

    for webhook in webhooks {
        let delivery = settled(&stack, &webhook, 1).await.remove(0);
        assert_eq!(delivery["status"], "failed", "{delivery}");
        assert_eq!(delivery["responseStatus"], Value::Null);
        assert!(delivery["error"].as_str().is_some_and(|error| !error.is_empty()), "{delivery}");
    }
}

#[tokio::test]
async fn what_a_receiver_answers_is_kept_up_to_16_kib() {
    let stack = Stack::builder().env(RETRY_DELAYS, "").start().await;
    let receiver = Receiver::start().await;
    receiver.answer_with(|request| match request.target.as_str() {
        "/json" => Reply::json(&json!({"status": "ok", "n": [1, 2]})),
        "/text" => Reply::status(200).body("merci ✓"),
        "/long" => Reply::status(200).body("x".repeat(20_000)),
        _ => Reply::status(200),
    });
    let expected = [
        ("/json", json!({"status": "ok", "n": [1, 2]})),
        ("/text", json!("merci ✓")),
        ("/none", Value::Null),
    ];
    let long = stack.given_webhook("user_1", &receiver.url("/long"), &[BookingCreated]).await;
    let mut webhooks = Vec::new();
    for (path, response) in expected {
        let webhook = stack.given_webhook("user_1", &receiver.url(path), &[BookingCreated]).await;
        webhooks.push((webhook, response));
    }

    stack.publish(&event()).await;

    for (webhook, response) in webhooks {
        let delivery = settled(&stack, &webhook, 1).await.remove(0);
        assert_eq!(delivery["status"], "success");
        assert_eq!(delivery["response"], response);
    }
    let delivery = settled(&stack, &long, 1).await.remove(0);
    assert_eq!(delivery["status"], "success");
    assert_eq!(delivery["response"].as_str().map(str::len), Some(16 * 1024));
}

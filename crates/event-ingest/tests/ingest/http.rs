//! `POST /v1/events`.

use ::http::Method;
use serde_json::{Value, json};
use testkit::{Answer, ApiClient, HttpClient, Stack};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::seen::{Taker, body_of, event, expect_stored, ingest_alone, stored};

async fn post(client: &ApiClient, body: impl Into<String>) -> Answer {
    client.raw(Method::POST, "/v1/events", Some("application/json"), body.into().into()).await
}

/// The code of a problem, after a check that it is one.
fn problem(answer: &Answer, status: u16) -> String {
    let document = answer.clone().expect(status).json();
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(document["status"], status);
    for field in ["type", "title", "detail"] {
        assert!(document[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {document}");
    }
    document["code"].as_str().unwrap().to_owned()
}

fn array(events: &[String]) -> String {
    format!("[{}]", events.join(","))
}

#[tokio::test]
async fn one_event_or_many_are_durable_when_answered() {
    let stack = ingest_alone().start().await;
    let client = stack.ingest();
    let answer = post(&client, event("one").to_json()).await.expect(202).json();
    assert_eq!(
        answer,
        json!({ "accepted": 1, "duplicates": 0, "rejected": 0,
            "events": [{ "index": 0, "status": "accepted", "id": "one" }] })
    );
    assert_eq!(stored(&stack).await, (1, 1), "stored before the answer");

    let many =
        array(&crate::seen::events("many", 1000).iter().map(testkit::Event::to_json).collect::<Vec<_>>());
    let answer = post(&client, many).await.expect(202).json();
    assert_eq!(
        (answer["accepted"].as_u64(), answer["events"][999]["id"].as_str()),
        (Some(1000), Some("many-999"))
    );
    assert_eq!(stored(&stack).await, (1001, 1001));
    assert_eq!(Taker::of_fan_outs(&stack).handed_over(1001).await.len(), 1001);

    stack.publish(&event("over-amqp")).await;
    let body = body_of(&stack, "over-amqp").await;
    assert_eq!(body, body_of(&stack, "one").await, "the same body whichever way it came");
    let again = post(&client, event("over-amqp").to_json()).await.expect(202).json();
    assert_eq!(again["events"], json!([{ "index": 0, "status": "duplicate", "id": "over-amqp" }]));
}

#[tokio::test]
async fn each_event_of_a_mix_gets_its_own_answer() {
    let stack = ingest_alone().start().await;
    let with_extra = |value: &str| {
        event("wrong").to_json().replace(r#""data":{"#, &format!(r#""data":{{"extra":{value},"#))
    };
    let mix = array(&[
        event("good").to_json(),
        event("wrong").to_json().replace("booking.created", "booking.lost"),
        event("good").to_json(),
        with_extra("9007199254740993"),
        with_extra(r#""\udc00""#),
        with_extra(&format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))),
        with_extra(&format!("\"{}\"", "x".repeat(257 * 1024))),
        "5".to_owned(),
        testkit::Event::example(domain::EventType::PaymentFailed).to("user_1").to_json(),
    ]);
    let answer = post(&stack.ingest(), mix).await.expect(202).json();
    let events = answer["events"].as_array().unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| (event["status"].as_str().unwrap(), event["code"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(
        told,
        [
            ("accepted", ""),
            ("rejected", "unknown_event"),
            ("duplicate", ""),
            ("rejected", "number_out_of_range"),
            ("rejected", "lone_surrogate"),
            ("rejected", "too_deep"),
            ("rejected", "too_large"),
            ("rejected", "wrong_type"),
            ("accepted", ""),
        ]
    );
    let counts = ["accepted", "duplicates", "rejected"].map(|field| answer[field].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 6]);
    assert_eq!(events[1]["errors"][0]["field"], "/event");
    assert!(events[1]["errors"][0]["message"].as_str().unwrap().contains("known are"));
    assert!(events[8]["id"].as_str().unwrap().starts_with("event_"), "an id was assigned");
    expect_stored(&stack, 2).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_as_a_problem() {
    let mut stack = ingest_alone().env("LOK__INGEST__HTTP_BODY_LIMIT", "300KiB").start().await;
    let url = stack.ingests[0].url().await;
    let client = stack.ingest();

    let answer = post(&ApiClient::new(HttpClient::default(), &url), "[]").await;
    assert_eq!(problem(&answer, 401), "token_missing");
    assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="lokroom-events""#));
    let answer = post(&ApiClient::new(HttpClient::default(), &url).bearer("other"), "[]").await;
    assert_eq!(problem(&answer, 401), "token_invalid");
    assert!(answer.header("www-authenticate").unwrap().contains("invalid_token"));

    for malformed in ["", "{", "[{},]", "NaN", "{}x"] {
        assert_eq!(problem(&post(&client, malformed).await, 400), "malformed_json", "{malformed}");
    }
    assert_eq!(problem(&post(&client, "[]").await, 422), "no_events");
    let too_many = format!("[{}0]", "0,".repeat(1000));
    assert_eq!(problem(&post(&client, too_many).await, 422), "too_many_events");
    let answer = post(&client, r#"[5,{"event":"x"}]"#).await;
    assert_eq!(problem(&answer, 422), "nothing_accepted");
    let errors = &answer.json()["errors"];
    assert_eq!((&errors[0]["code"], &errors[1]["index"]), (&json!("wrong_type"), &json!(1)));

    assert_eq!(problem(&post(&client, "x".repeat(301 * 1024)).await, 413), "body_too_large");
    for other in [None, Some("text/plain"), Some("application/x-protobuf")] {
        let answer = client.raw(Method::POST, "/v1/events", other, "{}".into()).await;
        assert_eq!(problem(&answer, 415), "unsupported_media_type", "{other:?}");
    }
    let answer = post(&client.clone().header("content-encoding", "gzip"), "{}").await;
    assert_eq!(problem(&answer, 415), "unsupported_media_type");
    let answer = client.get("/v1/events").await;
    assert_eq!(problem(&answer, 405), "method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    assert_eq!(problem(&client.get("/v1").await, 404), "not_found");

    assert_eq!(stored(&stack).await, (0, 0));
    post(&client, event("good").to_json()).await.expect(202);
}

#[tokio::test]
async fn without_a_configured_token_nothing_is_taken_over_http() {
    let stack = ingest_alone().env("LOK__INGEST__TOKEN", "").start().await;
    let answer = post(&stack.ingest(), event("one").to_json()).await;
    assert_eq!(problem(&answer, 503), "not_configured");
    assert!(answer.json()["detail"].as_str().unwrap().contains("LOK__INGEST__TOKEN"));
    stack.publish(&event("over-amqp")).await;
    expect_stored(&stack, 1).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let mut stack = ingest_alone().env("LOK__INGEST__HTTP_TIMEOUT", "300ms").start().await;
    let address = stack.ingests[0].url().await.replace("http://", "");
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let token = stack.ingest_token().to_owned();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 512];
    let read = tokio::time::timeout(testkit::DEADLINE, connection.read(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer[..read.unwrap().unwrap()]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn the_same_events_over_many_connections_are_stored_once() {
    let stack: Stack = ingest_alone().start().await;
    let events: Vec<_> = crate::seen::events("same", 100).iter().map(testkit::Event::to_json).collect();
    let requests = (0..8).map(|_| {
        let (client, body) = (stack.ingest(), array(&events));
        tokio::spawn(async move { post(&client, body).await.expect(202).json() })
    });
    let mut accepted = 0;
    for request in requests.collect::<Vec<_>>() {
        let answer: Value = request.await.unwrap();
        accepted += answer["accepted"].as_u64().unwrap();
        assert_eq!(answer["rejected"], 0);
    }
    assert_eq!(accepted, 100, "each event was new in one request only");
    assert_eq!(stored(&stack).await, (100, 100));
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_stop() {
    let mut stack = ingest_alone().start().await;
    let client = stack.ingest();
    post(&client, event("one").to_json()).await.expect(202);
    let mut ingest = stack.ingests.remove(0);
    let status = ingest.terminate(std::time::Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0), "{}", ingest.log());
    drop(client);
}

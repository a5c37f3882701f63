//! What the other tests stand on.

use std::time::Duration;

use bytes::Bytes;
use testkit::receiver::Gate;
use testkit::{DEADLINE, HttpClient, Receiver, Reply, TestDatabase, TestQueues, eventually};

#[tokio::test]
async fn a_test_database_is_migrated_and_gone_at_the_end() {
    let database = TestDatabase::create().await;
    let other = TestDatabase::create().await;
    database.store().check_schema().await.unwrap();
    let name: String =
        database.connect().await.query_one("SELECT current_database()", &[]).await.unwrap().get(0);
    assert_ne!(database.url(), other.url());
    drop(database);
    let databases = "SELECT count(*) FROM pg_database WHERE datname = $1";
    let count: i64 = other.connect().await.query_one(databases, &[&name]).await.unwrap().get(0);
    assert_eq!(count, 0);
}

#[tokio::test]
async fn an_empty_database_has_no_schema() {
    let database = TestDatabase::create_empty().await;
    database.store().check_schema().await.unwrap_err();
}

#[tokio::test]
async fn a_tests_queues_are_gone_at_the_end() {
    let queues = TestQueues::reserve(vec![Duration::from_millis(200)], Duration::from_secs(1)).await;
    let broker = testkit::queues::connect(queues.topology());
    broker.ready().await;
    let name = queues.names().deliver_queue();
    assert_eq!(broker.inspector().depth(&name).await.unwrap(), Some(0));
    drop(queues);
    assert_eq!(broker.inspector().depth(&name).await.unwrap(), None);
    broker.close(DEADLINE).await;
}

fn post(url: &str, body: &'static str) -> http::Request<Bytes> {
    http::Request::post(url)
        .header("X-Mixed-Case", "1")
        .body(Bytes::from_static(body.as_bytes()))
        .expect("valid")
}

#[tokio::test]
async fn a_receiver_records_requests_and_answers_as_told() {
    let receiver = Receiver::start().await;
    receiver.answer(Reply::status(204));
    receiver.answer_next(Reply::status(500).body("no"));
    receiver.answer_next(Reply::redirect("http://127.0.0.1:1/"));
    let http = HttpClient::default();
    let url = receiver.url("/hook?a=1");
    assert_eq!(http.send(post(&url, "{}")).await.expect(500).text(), "no");
    assert_eq!(
        http.send(post(&url, "two")).await.expect(302).header("location"),
        Some("http://127.0.0.1:1/")
    );
    http.send(post(&url, "")).await.expect(204);

    let first = receiver.expect_request().await;
    assert_eq!((first.method.as_str(), first.target.as_str(), first.text()), ("POST", "/hook?a=1", "{}"));
    assert_eq!(receiver.expect_request().await.text(), "two");
    assert_eq!(receiver.until(3).await.len(), 3);
    assert_eq!(receiver.requests_to("/hook?a=1").len(), 3);
}

#[tokio::test]
async fn a_receiver_can_fail_in_every_way() {
    let receiver = Receiver::start().await;
    let http = HttpClient::default();
    receiver.answer_next(Reply::close());
    receiver.answer_next(Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort"));
    receiver.answer_next(Reply::raw("nonsense\r\n\r\n"));
    for _ in 0..3 {
        http.try_send(post(&receiver.url("/"), "{}")).await.unwrap_err();
    }
    receiver.answer(Reply::hang());
    let hanging = http.try_send(post(&receiver.url("/"), "{}"));
    assert!(tokio::time::timeout(Duration::from_millis(50), hanging).await.is_err());
}

#[tokio::test]
async fn answers_wait_behind_a_gate() {
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.answer(Reply::status(200).when_open(&gate));
    let url = receiver.url("/");
    let mut answer = tokio::spawn(async move { HttpClient::default().send(post(&url, "{}")).await });
    receiver.until(1).await;
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut answer).await.is_err());
    gate.open();
    answer.await.unwrap().expect(200);
}

#[tokio::test]
#[should_panic(expected = "three: not within")]
async fn a_condition_that_does_not_come_true_is_named() {
    let mut count = 0;
    eventually("two", DEADLINE, async || {
        count += 1;
        (count == 2).then_some(())
    })
    .await;
    eventually("three", Duration::from_millis(20), async || None::<()>).await;
}

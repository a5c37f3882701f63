//! Starting, losing what is needed, and stopping.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{ApiClient, Binary, DEADLINE, HttpClient, Stack, TestDatabase, eventually_ok};

use crate::{api_alone, given, guides_webhook, problem};

/// The environment of an API that would start, without a stack behind it.
fn environment(database: &TestDatabase) -> BTreeMap<String, String> {
    let secret = "x".repeat(32);
    [
        ("LOK__DATABASE__URL", database.url()),
        ("LOK__AMQP__URL", "amqp://127.0.0.1:1"),
        ("LOK__API__LISTEN", "127.0.0.1:0"),
        ("LOK__ADMIN__LISTEN", "127.0.0.1:0"),
        ("LOK__AUTH__HS256_SECRET", &secret),
        ("LOK__SECRETS__KEYS", testkit::database::SECRET_KEYS),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

#[tokio::test]
async fn what_is_not_configured_is_told_with_exit_code_2() {
    let nothing = Binary::new("management-api").output().await;
    assert_eq!(nothing.code, Some(2), "{}", nothing.stderr);
    for key in
        ["database.url", "amqp.url", "secrets.keys", "auth.hs256_secret or auth.jwks_file or auth.jwks_url"]
    {
        assert!(nothing.stderr.contains(key), "{key} in {}", nothing.stderr);
    }
}

#[tokio::test]
async fn a_schema_of_another_version_is_refused() {
    let database = TestDatabase::create_empty().await;
    let output = Binary::new("management-api").envs(&environment(&database)).output().await;
    assert_eq!(output.code, Some(1), "{}", output.stdout);
    assert!(output.stdout.contains("lokctl migrate"), "{}", output.stdout);

    let database = TestDatabase::create().await;
    let newer = "INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')";
    database.connect().await.execute(newer, &[]).await.unwrap();
    let output = Binary::new("management-api").envs(&environment(&database)).output().await;
    assert_eq!(output.code, Some(1), "{}", output.stdout);
    assert!(output.stdout.contains("newer than this program"), "{}", output.stdout);
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_refused() {
    let database = TestDatabase::create().await;
    for (name, value, told) in [
        ("LOK__AUTH__JWKS_FILE", "/nowhere/keys.json", "/nowhere/keys.json"),
        ("LOK__AUTH__JWKS_URL", "http://example.com/jwks", "auth.jwks_url must start with https://"),
        (
            "LOK__AUTH__JWKS_URL",
            "https://user:hunter2@example.com/jwks",
            "auth.jwks_url must not have a user",
        ),
        ("LOK__AUTH__HS256_SECRET", "", "auth.hs256_secret has 0 bytes"),
        ("LOK__AUTH__HS256_SECRET", "hunter2", "auth.hs256_secret has 7 bytes"),
        ("LOK__SECRETS__KEYS", "k1:abc", "secrets.keys"),
    ] {
        let binary = Binary::new("management-api").envs(&environment(&database)).env(name, value);
        let output = binary.output().await;
        assert_eq!(output.code, Some(2), "{}", output.stderr);
        assert!(output.stderr.contains(told), "{}", output.stderr);
    }
}

#[tokio::test]
async fn without_the_database_answers_are_503_until_it_is_back() {
    let mut stack = api_alone().await;
    let api = stack.api("user_1");
    let (path, _) = given(&api).await;
    let admin = stack.api.as_mut().unwrap().admin_url().await;
    let (control, connection) =
        tokio_postgres::connect(testkit::servers::database_url().as_str(), tokio_postgres::NoTls)
            .await
            .unwrap();
    tokio::spawn(connection);
    let name = stack.database.url().rsplit('/').next().unwrap().to_owned();
    let allow = async |allowed: bool| {
        control.execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}"), &[]).await.unwrap();
    };

    allow(false).await;
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    control.execute(terminate, &[&name]).await.unwrap();
    for answer in [
        api.get("/api/webhooks").await,
        api.get(&path).await,
        api.post("/api/webhooks", &guides_webhook()).await,
        api.put(&path, &json!({ "active": false })).await,
        api.post(&format!("{path}/test"), &json!({})).await,
        api.get(&format!("{path}/deliveries")).await,
    ] {
        assert_eq!(answer.header("retry-after"), Some("5"));
        assert_eq!(problem(answer, 503), "service_unavailable");
    }
    api.get("/api/event-types").await.expect(200);
    let http = HttpClient::default();
    eventually_ok("the API is not ready", DEADLINE, async || {
        let answer = http.get(&format!("{admin}/readyz")).await;
        if answer.status == 503 { Ok(()) } else { Err(answer.text()) }
    })
    .await;

    allow(true).await;
    stack.wait_ready().await;
    let webhook = stack.api("user_1").get(&path).await.expect(200).json();
    assert_eq!(webhook["active"], true);
}

#[tokio::test]
async fn a_test_event_that_the_broker_does_not_take_is_ended_and_may_be_tried_again() {
    let database = TestDatabase::create().await;
    let environment = environment(&database);
    let mut service = Binary::new("management-api").envs(&environment).spawn();
    let token = testkit::token::hs256(&environment["LOK__AUTH__HS256_SECRET"], "user_1");
    let api = ApiClient::new(HttpClient::default(), service.url().await).bearer(&token);
    let (path, _) = given(&api).await;

    let answer = api.post(&format!("{path}/test"), &json!({})).await;
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(problem(answer, 503), "service_unavailable");
    let history = api.get(&format!("{path}/deliveries")).await.expect(200).json();
    assert_eq!(history["statistics"], json!({ "total": 1, "success": 0, "failed": 1, "pending": 0 }));

    let readiness = HttpClient::default().get(&format!("{}/readyz", service.admin_url().await)).await;
    assert_eq!(readiness.status, 503);
    assert_eq!(readiness.json()["checks"]["database"], "pass", "{}", readiness.text());
    assert_ne!(readiness.json()["checks"]["broker"], "pass", "{}", readiness.text());
}

#[tokio::test]
async fn metrics_know_routes_and_no_ids() {
    let mut stack = api_alone().await;
    let (path, _) = given(&stack.api("user_1")).await;
    stack.api("user_1").get(&path).await.expect(200);
    stack.api("user_1").get("/no/such/path").await.expect(404);
    let admin = stack.api.as_mut().unwrap().admin_url().await;
    let metrics = HttpClient::default().get(&format!("{admin}/metrics")).await.expect(200).text();
    let shown = r#"http_requests_total{method="GET",route="/api/webhooks/{id}",status="200"} 1"#;
    assert!(metrics.contains(shown), "{metrics}");
    assert!(
        metrics.contains(r#"http_requests_total{method="GET",route="unknown",status="404"} 1"#),
        "{metrics}"
    );
    assert!(metrics.contains(r#"http_request_duration_seconds_bucket{route="/api/webhooks","#), "{metrics}");
    assert!(!metrics.contains("webhook_") && !metrics.contains("no/such"), "{metrics}");
}

#[tokio::test]
async fn it_stops_at_once_when_nothing_is_under_way_though_connections_are_open() {
    let mut stack = Stack::builder().ingests(0).dispatchers(0).start().await;
    stack.api("user_1").get("/api/webhooks").await.expect(200);
    let started = Instant::now();
    let status = stack.api.as_mut().unwrap().terminate(DEADLINE).await;
    assert!(status.success(), "{status}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

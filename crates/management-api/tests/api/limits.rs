//! How often one may call.

use bytes::Bytes;
use http::Method;
use serde_json::json;
use testkit::{Answer, ApiClient, Stack, StackBuilder, eventually_ok};

use crate::{given, guides_webhook, problem};

fn builder() -> StackBuilder {
    Stack::builder().ingests(0).dispatchers(0)
}

/// Slow to fill, so that what comes back during a test is next to nothing.
async fn strict() -> Stack {
    let builder = builder().env("LOK__API__USER_RATE", "1").env("LOK__API__USER_BURST", "20");
    builder.env("LOK__API__ADDRESS_RATE", "1").env("LOK__API__ADDRESS_BURST", "61").start().await
}

/// Calls until a call is refused; tells how many were not, and the refusal.
async fn until_refused(api: &ApiClient, path: &str, most: usize) -> (usize, Answer) {
    for served in 0..=most {
        let answer = api.get(path).await;
        if answer.status == 429 {
            return (served, answer);
        }
    }
    panic!("never refused");
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").expect("Retry-After").parse().expect("seconds")
}

#[tokio::test]
async fn a_user_who_asks_too_often_is_told_when_to_ask_again_and_others_are_served() {
    let stack = strict().await;
    let api = stack.api("user_1");
    let first = api.get("/api/webhooks").await.expect(200);
    assert_eq!(first.header("ratelimit-policy"), Some(r#""address";q=61;w=61, "user";q=20;w=20"#));
    let standing = first.header("ratelimit").expect("RateLimit");
    assert!(
        standing.starts_with(r#""address";r="#) && standing.ends_with(r#", "user";r=19;t=1"#),
        "{standing}"
    );

    let (served, refused) = until_refused(&api, "/api/webhooks", 25).await;
    assert!((19..=24).contains(&served), "{served}");
    assert!((1..=2).contains(&retry_after(&refused)), "{refused:?}");
    assert!(refused.header("ratelimit").is_some_and(|it| it.contains(r#", "user";r=0;t="#)), "{refused:?}");
    assert_eq!(problem(refused, 429), "rate_limited");
    let french = api.clone().header("accept-language", "fr").get("/api/webhooks").await;
    assert_eq!(french.json()["title"], "Trop de requêtes");
    stack.api("user_2").get("/api/webhooks").await.expect(200);
    eventually_ok("the user is served again", testkit::DEADLINE, async || {
        let answer = api.get("/api/webhooks").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

#[tokio::test]
async fn changing_counts_more_than_reading_and_a_test_event_most() {
    let stack = strict().await;
    let api = stack.api("user_1");
    let left = |answer: &Answer| -> u32 {
        let line = answer.header("ratelimit").expect("RateLimit");
        let (_, rest) = line.split_once("\"user\";r=").expect("r");
        rest.split(';').next().expect("a number").parse().expect("a number")
    };
    let created = api.post("/api/webhooks", &guides_webhook()).await.expect(201);
    assert_eq!(left(&created), 18);
    let path = created.header("location").unwrap().to_owned();
    // Less than a second passes between two calls, or one comes back.
    let before = left(&api.get(&path).await.expect(200));
    let test = api.post(&format!("{path}/test"), &json!({})).await.expect(202);
    assert!((4..=5).contains(&(before - left(&test))), "{before} {}", left(&test));
}

#[tokio::test]
async fn a_deep_page_counts_as_many_as_it_passes_over_and_others_are_served() {
    let builder = builder().env("LOK__API__USER_RATE", "1").env("LOK__API__USER_BURST", "250");
    let stack = builder.start().await;
    let api = stack.api("user_1");
    let (path, _) = given(&api).await;
    let deep = format!("{path}/deliveries?page=1000&pageSize=100");
    // However the path is written.
    for written in [deep.clone(), deep.replace("deliveries", "deliverie%73")] {
        api.get(&written).await.expect(200);
    }
    let refused = api.get(&deep).await;
    assert!(retry_after(&refused) >= 30, "{refused:?}");
    assert_eq!(problem(refused, 429), "rate_limited");
    api.get(&format!("{path}/deliveries?page=10&pageSize=100")).await.expect(200);
    stack.api("user_2").get("/api/webhooks").await.expect(200);
}

#[tokio::test]
async fn who_guesses_tokens_is_refused_and_nobody_else_at_that_address() {
    let stack = strict().await;
    let guessing = stack.anonymous_api().bearer("a.b.c");
    let (served, refused) = until_refused(&guessing, "/api/webhooks", 20).await;
    assert!((6..=8).contains(&served), "{served} guesses of a burst of 61 at 10 each");
    assert!(retry_after(&refused) <= 10);
    assert_eq!(refused.header("www-authenticate"), None);
    let standing = refused.header("ratelimit").unwrap_or_default();
    assert!(standing.contains(r#""refused_tokens";r="#), "{refused:?}");
    assert_eq!(problem(refused, 429), "rate_limited");
    // Nor does the path or the method help.
    let put = guessing.raw(Method::PUT, "/nowhere", None, Bytes::new()).await;
    assert_eq!(problem(put, 429), "rate_limited");
    assert_eq!(
        problem(guessing.raw(Method::PUT, "/api/webhooks", None, Bytes::new()).await, 429),
        "rate_limited"
    );

    // Others at that address, with good tokens or none, are served as ever.
    stack.api("user_1").get("/api/webhooks").await.expect(200);
    for _ in 0..20 {
        assert_eq!(problem(stack.anonymous_api().get("/api/webhooks").await, 401), "token_missing");
    }
    stack.api("user_2").get("/api/webhooks").await.expect(200);
}

#[tokio::test]
async fn a_refused_token_counts_wherever_it_is_sent() {
    let stack = strict().await;
    let guessing = stack.anonymous_api().bearer("a.b.c");
    for _ in 0..6 {
        assert_eq!(problem(guessing.get("/nowhere").await, 404), "not_found");
    }
    let mut refused = 0;
    for _ in 0..5 {
        refused += usize::from(guessing.get("/api/webhooks").await.status == 429);
    }
    assert!(refused >= 3, "{refused} of 5");
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_stopped_before_tokens_are_looked_at() {
    let stack = strict().await;
    let (served, refused) = until_refused(&stack.anonymous_api(), "/api/webhooks", 80).await;
    assert!((61..=70).contains(&served), "{served} of a burst of 61");
    assert_eq!(refused.header("ratelimit-policy"), Some(r#""address";q=61;w=61"#));
    assert_eq!(problem(refused, 429), "rate_limited");
}

#[tokio::test]
async fn without_a_trusted_proxy_what_clients_say_of_themselves_changes_nothing() {
    let stack = strict().await;
    for number in 0..100 {
        let spoofed = format!("198.51.100.{number}");
        let api = stack.anonymous_api().header("x-forwarded-for", &spoofed);
        let api = api.header("forwarded", &format!("for={spoofed}")).header("x-real-ip", &spoofed);
        if api.bearer("a.b.c").get("/api/webhooks").await.status == 429 {
            return;
        }
    }
    panic!("100 guesses were let through");
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_is_counted_for_itself() {
    let trusting = builder().env("LOK__API__TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8");
    let trusting = trusting.env("LOK__API__TRUSTED_HOPS", "2");
    let strict = trusting.env("LOK__API__ADDRESS_RATE", "1").env("LOK__API__ADDRESS_BURST", "60");
    // One guess is one too many for a minute.
    let stack = strict.env("LOK__API__FAILED_TOKEN_COST", "1000").start().await;
    // The proxy appends whom it got the request from; what stands before it the client wrote.
    let client = |line: &str| stack.anonymous_api().header("x-forwarded-for", line).bearer("a.b.c");
    let mut refused = 0;
    for number in 0..30 {
        let spoofing = client(&format!("198.51.100.{number}, 203.0.113.5, 10.0.0.7"));
        refused += usize::from(spoofing.get("/api/webhooks").await.status == 429);
    }
    assert_eq!(refused, 29);
    assert_eq!(client("203.0.113.5").get("/api/webhooks").await.status, 429);
    assert_eq!(client("203.0.113.5, 198.51.100.9").get("/api/webhooks").await.status, 401, "another client");
    // The addresses of one IPv6 customer are one.
    for number in 0..30 {
        client(&format!("2001:db8:1:2::{number:x}")).get("/api/webhooks").await;
    }
    assert_eq!(client("2001:db8:1:2:ffff::1").get("/api/webhooks").await.status, 429);
    assert_eq!(client("2001:db8:1:3::1").get("/api/webhooks").await.status, 401);
    // The header that this proxy does not write is the client's.
    let forwarded = stack.anonymous_api().header("x-forwarded-for", "203.0.113.5");
    let forwarded = forwarded.header("forwarded", "for=192.0.2.99").bearer("a.b.c");
    assert_eq!(forwarded.get("/api/webhooks").await.status, 429);
}

#[tokio::test]
async fn a_client_with_a_private_address_is_no_proxy_though_its_network_is_trusted() {
    let trusting = builder().env("LOK__API__TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8");
    let stack =
        trusting.env("LOK__API__ADDRESS_RATE", "1").env("LOK__API__ADDRESS_BURST", "20").start().await;
    // The proxy appends whom it got the request from: somebody in a VPN, who writes another address before.
    let mut refused = 0;
    for number in 0..50 {
        let spoofing =
            stack.anonymous_api().header("x-forwarded-for", &format!("198.51.100.{number}, 10.1.2.3"));
        refused += usize::from(spoofing.get("/api/webhooks").await.status == 429);
    }
    assert!(refused >= 20, "{refused} of 50");
    let other = stack.anonymous_api().header("x-forwarded-for", "10.1.2.4");
    assert_eq!(other.get("/api/webhooks").await.status, 401);
}

#[tokio::test]
async fn a_webhook_gets_so_many_test_events_a_minute() {
    let limited = builder().env("LOK__LIMITS__TEST_EVENTS_PER_WEBHOOK", "3");
    let stack = limited.env("LOK__LIMITS__TEST_EVENTS_PER_USER", "4").start().await;
    let api = stack.api("user_1");
    let (path, _) = given(&api).await;
    let test = format!("{path}/test");
    for _ in 0..3 {
        api.post(&test, &json!({})).await.expect(202);
    }
    let refused = api.post(&test, &json!({})).await;
    assert!((30..=60).contains(&retry_after(&refused)), "{refused:?}");
    assert_eq!(problem(refused, 429), "too_many_test_events");
    let history = api.get(&format!("{path}/deliveries")).await.expect(200).json();
    assert_eq!(history["total"], 3);

    // Nor does another webhook help beyond what the user may have.
    let (other, _) = given(&api).await;
    api.post(&format!("{other}/test"), &json!({})).await.expect(202);
    assert_eq!(problem(api.post(&format!("{other}/test"), &json!({})).await, 429), "too_many_test_events");
    let (others, _) = given(&stack.api("user_2")).await;
    stack.api("user_2").post(&format!("{others}/test"), &json!({})).await.expect(202);
}

#[tokio::test]
async fn a_user_uses_so_many_idempotency_keys_a_day() {
    let stack = builder().env("LOK__LIMITS__IDEMPOTENCY_KEYS_PER_USER", "2").start().await;
    let create = async |user: &str, key: &str| {
        stack.api(user).header("idempotency-key", key).post("/api/webhooks", &guides_webhook()).await
    };
    create("user_1", "a").await.expect(201);
    create("user_1", "b").await.expect(201);
    let refused = create("user_1", "c").await;
    assert!(retry_after(&refused) > 3600, "{refused:?}");
    assert_eq!(problem(refused, 429), "too_many_idempotency_keys");
    create("user_1", "a").await.expect(201);
    create("user_2", "c").await.expect(201);
    stack.api("user_1").post("/api/webhooks", &guides_webhook()).await.expect(201);
}

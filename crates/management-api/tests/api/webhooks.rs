//! Creating, listing, changing and deleting webhooks, with the guide's bodies.

use std::sync::Arc;

use domain::signature::WebhookSecret;
use serde_json::{Value, json};
use testkit::Stack;

use crate::{api_alone, given, guides_webhook, members, problem};

#[tokio::test]
async fn the_guides_calls_give_the_guides_answers() {
    let stack = api_alone().await;
    let api = stack.api("user_1");

    let created = api.post("/api/webhooks", &guides_webhook()).await.expect(201);
    let webhook = created.json();
    let id = webhook["id"].as_str().unwrap();
    let path = format!("/api/webhooks/{id}");
    assert_eq!(created.header("location"), Some(path.as_str()));
    assert_eq!(created.header("cache-control"), Some("no-store"));
    assert_eq!(created.header("content-type"), Some("application/json"));
    assert_eq!(members(&webhook), ["active", "createdAt", "events", "id", "secret", "updatedAt", "url"]);
    assert!(id.starts_with("webhook_"), "{id}");
    assert_eq!(webhook["url"], guides_webhook()["url"]);
    assert_eq!(webhook["events"], guides_webhook()["events"]);
    assert_eq!(webhook["active"], true);
    assert!(WebhookSecret::parse(webhook["secret"].as_str().unwrap()).is_ok(), "{webhook}");
    assert_eq!(webhook["createdAt"], webhook["updatedAt"]);
    let created_at = webhook["createdAt"].as_str().unwrap();
    assert_eq!((created_at.len(), &created_at[19..20], &created_at[23..]), (24, ".", "Z"), "{created_at}");

    let shown = api.get(&path).await.expect(200).json();
    let mut without_secret = webhook.clone();
    without_secret.as_object_mut().unwrap().remove("secret");
    assert_eq!(shown, without_secret);

    let body = json!({ "events": ["booking.created", "booking.cancelled"], "active": true });
    let changed = api.put(&path, &body).await.expect(200).json();
    assert_eq!(changed["events"], body["events"]);
    assert_eq!(changed["url"], webhook["url"]);
    assert_eq!(changed["createdAt"], webhook["createdAt"]);
    assert_ne!(changed["updatedAt"], webhook["updatedAt"]);
    assert_eq!(changed["secret"], Value::Null);

    let regenerated = api.post(&format!("{path}/regenerate-secret"), &json!({})).await.expect(200);
    assert_eq!(regenerated.header("cache-control"), Some("no-store"));
    let regenerated = regenerated.json();
    assert!(WebhookSecret::parse(regenerated["secret"].as_str().unwrap()).is_ok(), "{regenerated}");
    assert_ne!(regenerated["secret"], webhook["secret"]);
    assert_eq!(regenerated["id"], webhook["id"]);

    let deleted = api.delete(&path).await.expect(204);
    assert!(deleted.body.is_empty());
    assert_eq!(problem(api.get(&path).await, 404), "not_found");
    assert_eq!(problem(api.delete(&path).await, 404), "not_found");
}

#[tokio::test]
async fn what_is_left_out_stays_and_a_description_can_be_removed() {
    let stack = api_alone().await;
    let api = stack.api("user_1");
    let mut body = guides_webhook();
    body["description"] = "première".into();
    let webhook = api.post("/api/webhooks", &body).await.expect(201).json();
    assert_eq!(webhook["description"], "première");
    let path = format!("/api/webhooks/{}", webhook["id"].as_str().unwrap());

    let nothing = api.put(&path, &json!({})).await.expect(200).json();
    assert_eq!(nothing["updatedAt"], webhook["updatedAt"]);
    assert_eq!(nothing["description"], "première");

    let off = api.put(&path, &json!({ "active": false })).await.expect(200).json();
    assert_eq!((&off["active"], &off["description"]), (&json!(false), &json!("première")));

    let url = json!({ "url": "https://example.com/other?x=1", "description": null });
    let moved = api.put(&path, &url).await.expect(200).json();
    assert_eq!(moved["url"], url["url"]);
    assert!(!members(&moved).contains(&"description"), "{moved}");
    assert_eq!(moved["active"], false);
}

#[tokio::test]
async fn lists_are_pages_newest_first_without_secrets() {
    let stack = api_alone().await;
    let api = stack.api("user_1");
    let empty = api.get("/api/webhooks").await.expect(200).json();
    let nothing = json!({ "webhooks": [], "page": 1, "pageSize": 20, "total": 0, "pageCount": 0 });
    assert_eq!(empty, nothing);

    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(given(&api).await.1["id"].clone());
    }
    ids.reverse();
    let answer = api.get("/api/webhooks?page=1&pageSize=2").await.expect(200);
    assert!(!answer.text().contains("whsec_"), "{}", answer.text());
    let page = answer.json();
    assert_eq!(members(&page), ["page", "pageCount", "pageSize", "total", "webhooks"]);
    assert_eq!((&page["total"], &page["pageCount"], &page["pageSize"]), (&json!(5), &json!(3), &json!(2)));
    let listed = |page: &Value| -> Vec<Value> {
        page["webhooks"].as_array().unwrap().iter().map(|webhook| webhook["id"].clone()).collect()
    };
    assert_eq!(listed(&page), ids[..2]);
    let last = api.get("/api/webhooks?page=3&pageSize=2").await.expect(200).json();
    assert_eq!(listed(&last), ids[4..]);
    let beyond = api.get("/api/webhooks?page=4&pageSize=2").await.expect(200).json();
    assert_eq!(listed(&beyond), [] as [Value; 0]);
    assert_eq!(beyond["total"], 5);
}

#[tokio::test]
async fn someone_elses_webhook_is_as_absent_as_none() {
    let stack = api_alone().await;
    let (owner, other) = (stack.api("user_1"), stack.api("user_2"));
    let (path, webhook) = given(&owner).await;
    let absent = path.replace(&path[path.len() - 4..], "0000");
    for path in
        [path.as_str(), &absent, "/api/webhooks/webhook_123", "/api/webhooks/%00", "/api/webhooks/%ff"]
    {
        let answers = [
            other.get(path).await,
            other.put(path, &json!({ "active": false })).await,
            other.delete(path).await,
            other.post(&format!("{path}/regenerate-secret"), &json!({})).await,
            other.post(&format!("{path}/test"), &json!({})).await,
            other.get(&format!("{path}/deliveries")).await,
        ];
        let first = answers[0].text();
        for answer in answers {
            assert_eq!(answer.text(), first, "all absences look the same");
            assert_eq!(problem(answer, 404), "not_found");
        }
    }
    let listed = other.get("/api/webhooks").await.expect(200).json();
    assert_eq!(listed["total"], 0);
    let untouched = owner.get(&path).await.expect(200).json();
    assert_eq!(untouched["updatedAt"], webhook["updatedAt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_is_exact_however_many_create_at_once() {
    let stack = Arc::new(api_alone().await);
    let tasks: Vec<_> = (0..150)
        .map(|_| {
            let api = stack.api("user_1");
            tokio::spawn(async move { api.post("/api/webhooks", &guides_webhook()).await })
        })
        .collect();
    let (mut created, mut refused) = (0, 0);
    for task in tasks {
        let answer = task.await.unwrap();
        if answer.status == 201 {
            created += 1;
        } else {
            assert_eq!(problem(answer, 409), "webhook_limit_reached");
            refused += 1;
        }
    }
    assert_eq!((created, refused), (100, 50));
    let api = stack.api("user_1");
    assert_eq!(api.get("/api/webhooks").await.expect(200).json()["total"], 100);

    let one = api.get("/api/webhooks?pageSize=1").await.json()["webhooks"][0]["id"].clone();
    api.delete(&format!("/api/webhooks/{}", one.as_str().unwrap())).await.expect(204);
    given(&api).await;
    given(&stack.api("user_2")).await;
}

#[tokio::test]
async fn plain_http_and_private_addresses_are_refused_where_the_configuration_does_not_allow_them() {
    let stack = Stack::builder()
        .ingests(0)
        .dispatchers(0)
        .env("LOK__EGRESS__ALLOW_HTTP", "false")
        .env("LOK__EGRESS__ALLOWED_NETWORKS", "")
        .env("LOK__EGRESS__BLOCKED_NETWORKS", "20.30.0.0/16")
        .start()
        .await;
    let api = stack.api("user_1");
    for (url, code) in [
        ("http://example.com/", "url_scheme"),
        ("ftp://example.com/", "url_scheme"),
        ("example.com", "url_not_absolute"),
        ("/relative", "url_not_absolute"),
        ("https://user:password@example.com/", "url_user_info"),
        ("https://example.com/#x", "url_fragment"),
        ("https://127.0.0.1/", "url_blocked_host"),
        ("https://2130706433/", "url_blocked_host"),
        ("https://[::1]/", "url_blocked_host"),
        ("https://[::ffff:10.0.0.1]/", "url_blocked_host"),
        ("https://169.254.169.254/latest/meta-data", "url_blocked_host"),
        ("https://localhost/", "url_blocked_host"),
        ("https://20.30.40.50/", "url_blocked_host"),
        ("https://metadata.google.internal/", "url_blocked_host"),
        ("https://example.com:25/", "url_blocked_port"),
    ] {
        let body = json!({ "url": url, "events": ["booking.created"] });
        let fields = crate::invalid_fields(api.post("/api/webhooks", &body).await);
        assert_eq!(fields, [("url".to_owned(), code.to_owned())], "{url}");
    }
    let long = format!("https://example.com/{}", "a".repeat(2048 - 20));
    let with = |url: &str| json!({ "url": url, "events": ["booking.created"] });
    api.post("/api/webhooks", &with(&long)).await.expect(201);
    let fields = crate::invalid_fields(api.post("/api/webhooks", &with(&format!("{long}a"))).await);
    assert_eq!(fields, [("url".to_owned(), "url_too_long".to_owned())]);
}

#[tokio::test]
async fn the_11_event_types_are_described_in_both_languages() {
    let stack = api_alone().await;
    let english = stack.api("user_1").get("/api/event-types").await.expect(200);
    assert_eq!(english.header("content-language"), Some("en"));
    let english = english.json();
    let french =
        stack.api("user_1").header("accept-language", "fr").get("/api/event-types").await.expect(200);
    assert_eq!(french.header("content-language"), Some("fr"));
    let french = french.json();
    let types = english["eventTypes"].as_array().unwrap();
    assert_eq!(types.len(), 11);
    for (english, french) in types.iter().zip(french["eventTypes"].as_array().unwrap()) {
        assert_eq!(members(english), ["description", "event", "example", "schema"]);
        assert_eq!(english["event"], french["event"]);
        assert_ne!(english["description"], french["description"]);
        assert_eq!(english["schema"]["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(english["example"].is_object());
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_decrypted_hides_no_webhook_and_a_new_one_is_the_way_out() {
    let stack = api_alone().await;
    let api = stack.api("user_1");
    let (broken, webhook) = given(&api).await;
    given(&api).await;
    let id: domain::WebhookId = webhook["id"].as_str().unwrap().parse().unwrap();
    let lose_its_key = "UPDATE webhooks SET secret_key_id = 'gone' WHERE id = $1";
    stack.database.connect().await.execute(lose_its_key, &[&id.uuid()]).await.unwrap();

    assert_eq!(api.get("/api/webhooks").await.expect(200).json()["total"], 2);
    api.get(&broken).await.expect(200);
    api.put(&broken, &json!({ "description": "still mine" })).await.expect(200);
    api.get(&format!("{broken}/deliveries")).await.expect(200);
    let regenerated = api.post(&format!("{broken}/regenerate-secret"), &json!({})).await.expect(200).json();
    assert!(regenerated["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")));
    api.delete(&broken).await.expect(204);
}

//! `Idempotency-Key` on creating a webhook.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::{api_alone, guides_webhook, invalid_fields, problem};

#[tokio::test]
async fn the_same_key_answers_with_the_same_webhook() {
    let stack = api_alone().await;
    let api = stack.api("user_1").header("idempotency-key", "key-1");
    let first = api.post("/api/webhooks", &guides_webhook()).await.expect(201);
    assert_eq!(first.header("idempotency-replayed"), None);

    let spelled = r#"{ "events":["booking.created","booking.confirmed","payment.succeeded"],
                       "url":"https://votre-domaine.com/webhooks/lokroom" }"#;
    let spelled = Bytes::from_static(spelled.as_bytes());
    let again = api.raw(Method::POST, "/api/webhooks", Some("application/json"), spelled).await.expect(201);
    assert_eq!(again.json(), first.json());
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(stack.api("user_1").get("/api/webhooks").await.json()["total"], 1);

    let mut other = guides_webhook();
    other["description"] = "another".into();
    assert_eq!(problem(api.post("/api/webhooks", &other).await, 422), "idempotency_key_reused");

    let of_another_user = stack.api("user_2").header("idempotency-key", "key-1");
    let others = of_another_user.post("/api/webhooks", &guides_webhook()).await.expect(201).json();
    assert_ne!(others["id"], first.json()["id"]);

    api.delete(first.header("location").unwrap()).await.expect(204);
    assert_eq!(problem(api.post("/api/webhooks", &guides_webhook()).await, 422), "idempotency_key_reused");
}

#[tokio::test]
async fn after_a_regeneration_the_same_key_answers_without_the_new_secret() {
    let stack = api_alone().await;
    let api = stack.api("user_1").header("idempotency-key", "key-1");
    let first = api.post("/api/webhooks", &guides_webhook()).await.expect(201);
    let path = first.header("location").unwrap().to_owned();
    let new = stack.api("user_1").post(&format!("{path}/regenerate-secret"), &json!({})).await.expect(200);
    let new = new.json()["secret"].as_str().expect("the new secret").to_owned();

    let again = api.post("/api/webhooks", &guides_webhook()).await.expect(201);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert!(!again.text().contains(&new), "shown once");
    assert!(again.json()["id"] == first.json()["id"] && again.json().get("secret").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_used_many_times_at_once_creates_one_webhook() {
    let stack = Arc::new(api_alone().await);
    let creates: Vec<_> = (0..20)
        .map(|_| {
            let api = stack.api("user_1").header("idempotency-key", "at-once");
            tokio::spawn(async move { api.post("/api/webhooks", &guides_webhook()).await })
        })
        .collect();
    let mut webhooks = Vec::new();
    for create in creates {
        webhooks.push(create.await.unwrap().expect(201).json());
    }
    assert!(webhooks.iter().all(|webhook| *webhook == webhooks[0]), "{webhooks:?}");
    assert_eq!(stack.api("user_1").get("/api/webhooks").await.json()["total"], 1);
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_and_a_refused_request_does_not_use_it_up() {
    let stack = api_alone().await;
    for key in ["", "a b", &"x".repeat(256)] {
        let api = stack.api("user_1").header("idempotency-key", key);
        let fields = invalid_fields(api.post("/api/webhooks", &guides_webhook()).await);
        assert_eq!(fields, [("Idempotency-Key".to_owned(), "idempotency_key_invalid".to_owned())], "{key}");
    }
    let api = stack.api("user_1").header("idempotency-key", "key-2");
    api.post("/api/webhooks", &json!({ "url": 1 })).await.expect(422);
    api.post("/api/webhooks", &guides_webhook()).await.expect(201);
}

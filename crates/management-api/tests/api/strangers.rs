//! Every call there is, by somebody who has no business with it. The calls come from the table that the server is built
//! from: a new one cannot be forgotten.

use bytes::Bytes;
use domain::{DeliveryId, WebhookId};
use http::Method;
use serde_json::{Value, json};
use testkit::{Answer, ApiClient};

use self::routes::{Call, PATHS};
use crate::{given, guides_webhook, problem, unlimited_api};

#[path = "../../src/routes.rs"]
mod routes;

const JSON: Option<&str> = Some("application/json");

/// What a caller sees of an answer, save the time.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Bytes,
}

impl Seen {
    fn of(answer: Answer) -> Self {
        let headers = answer
            .headers
            .iter()
            .filter(|(name, _)| *name != "date" && !name.as_str().starts_with("ratelimit"));
        let mut headers: Vec<_> =
            headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        headers.sort_unstable();
        Self { status: answer.status.as_u16(), headers, body: answer.body }
    }
}

/// Bodies that a call takes, and some that it does not; the first is the one that it succeeds with.
fn bodies(call: Call) -> Vec<(Option<&'static str>, Bytes)> {
    let valid = match call {
        Call::CreateWebhook => guides_webhook(),
        Call::UpdateWebhook => json!({ "active": false, "description": "by a stranger" }),
        Call::SendTestEvent => json!({ "event": "booking.created" }),
        Call::ListWebhooks
        | Call::ShowWebhook
        | Call::DeleteWebhook
        | Call::RegenerateSecret
        | Call::ListDeliveries
        | Call::ListEventTypes => return vec![(None, Bytes::new())],
    };
    let valid = valid.to_string();
    let texts = [valid.as_str(), "{", "[]", r#"{"nonsense":1}"#, r#"{"event":"payment.failed"}"#];
    let mut bodies: Vec<_> = texts.map(|text| (JSON, Bytes::copy_from_slice(text.as_bytes()))).into();
    bodies.push((Some("text/plain"), "x".into()));
    bodies
}

/// Every call with every method that leads to it.
fn calls() -> impl Iterator<Item = (&'static str, Method, Call)> {
    PATHS.iter().flat_map(|path| {
        path.calls.iter().flat_map(move |(method, call)| {
            let head = (*method == "GET").then_some("HEAD");
            let methods = [Some(*method), head].into_iter().flatten();
            methods.map(move |method| (path.pattern, method.parse().expect("a method"), *call))
        })
    })
}

async fn history(owner: &ApiClient, path: &str) -> Value {
    owner.get(&format!("{path}/deliveries")).await.expect(200).json()
}

#[tokio::test]
async fn another_users_webhook_is_as_absent_as_one_that_never_was() {
    let stack = unlimited_api().await;
    let (owner, stranger) = (stack.api("user_1"), stack.api("user_2"));
    let (path, webhook) = given(&owner).await;
    given(&stranger).await;
    let test = owner.post(&format!("{path}/test"), &json!({})).await.expect(202).json();
    let (shown, before) = (owner.get(&path).await.expect(200).json(), history(&owner, &path).await);

    let theirs = webhook["id"].as_str().expect("an id");
    let uuid = theirs.parse::<WebhookId>().expect("a webhook's id").uuid();
    let never_was = WebhookId::from_uuid(uuid::Uuid::from_u128(uuid.as_u128() ^ 1)).to_string();
    let no_ids = [
        "x".to_owned(),
        "webhook_".to_owned(),
        theirs.to_uppercase(),
        format!("{theirs}0"),
        theirs[..theirs.len() - 1].to_owned(),
        theirs.replace("webhook_", ""),
        DeliveryId::from_uuid(uuid).to_string(),
        test["deliveryId"].as_str().expect("an id").to_owned(),
        uuid.to_string(),
        format!("{theirs}%00"),
        format!("%20{theirs}"),
        "%FF".to_owned(),
        "*".to_owned(),
        "0".repeat(1000),
    ];
    let mut tried = 0;
    for (pattern, method, call) in calls().filter(|(pattern, ..)| pattern.contains("{id}")) {
        for (content_type, body) in bodies(call) {
            for query in ["", "?page=2&pageSize=1", "?status=failed&event=booking.created", "?page=0"] {
                let ask = async |id: &str| {
                    let path = format!("{}{query}", pattern.replace("{id}", id));
                    let answer = stranger.raw(method.clone(), &path, content_type, body.clone()).await;
                    assert!(answer.status.is_client_error(), "{method} {path}: {}", answer.status);
                    Seen::of(answer)
                };
                let absent = ask(&never_was).await;
                assert_eq!(ask(theirs).await, absent, "{method} {pattern}{query} {body:?}");
                for id in &no_ids {
                    assert_eq!(ask(id).await, absent, "{method} {pattern}{query} {body:?} with {id}");
                }
                tried += 1;
            }
        }
        // What is right but for whose it is, is a 404.
        let (content_type, body) = bodies(call).remove(0);
        let answer = stranger.raw(method.clone(), &pattern.replace("{id}", theirs), content_type, body).await;
        if method == Method::HEAD {
            answer.expect(404);
        } else {
            assert_eq!(problem(answer, 404), "not_found", "{method} {pattern}");
        }
    }
    assert!(tried >= 60, "{tried}");

    assert_eq!(owner.get(&path).await.expect(200).json(), shown, "nothing has changed");
    assert_eq!(history(&owner, &path).await, before, "nothing was sent");
    let own = stranger.get("/api/webhooks").await.json();
    assert_eq!(own["total"], 1);
    assert!(!own.to_string().contains(theirs), "{own}");

    // The same calls are the owner's to make: `DELETE` last.
    let (last, others): (Vec<_>, Vec<_>) = calls()
        .filter(|(pattern, ..)| pattern.contains("{id}"))
        .partition(|(_, method, _)| method == Method::DELETE);
    for (pattern, method, call) in others.into_iter().rev().chain(last) {
        let (content_type, body) = bodies(call).remove(0);
        let answer = owner.raw(method.clone(), &pattern.replace("{id}", theirs), content_type, body).await;
        assert!(answer.status.is_success(), "{method} {pattern}: {}", answer.text());
    }
}

#[tokio::test]
async fn another_users_idempotency_key_is_as_unused_as_any() {
    let stack = unlimited_api().await;
    let with_key = |user, key| stack.api(user).header("idempotency-key", key);
    let owners = with_key("user_1", "same").post("/api/webhooks", &guides_webhook()).await.expect(201).json();

    let mut other = guides_webhook();
    other["description"] = "another request".into();
    for (user, body) in [("user_2", guides_webhook()), ("user_3", other)] {
        let mut seen = Vec::new();
        for key in ["same", "fresh"] {
            let answer = with_key(user, key).post("/api/webhooks", &body).await.expect(201);
            let created = answer.json();
            assert_ne!(created["id"], owners["id"]);
            assert_ne!(created["secret"], owners["secret"]);
            let names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
            seen.push(names);
        }
        assert_eq!(seen[0], seen[1], "a key that another user has used cannot be told from a fresh one");
    }
}

#[tokio::test]
async fn every_call_needs_a_token_and_says_nothing_without() {
    let stack = unlimited_api().await;
    let (path, webhook) = given(&stack.api("user_1")).await;
    let theirs = webhook["id"].as_str().expect("an id");
    let mut refusals = Vec::new();
    for (pattern, method, call) in calls() {
        for (content_type, body) in bodies(call) {
            for id in [theirs, "webhook_x"] {
                let path = pattern.replace("{id}", id);
                let answer =
                    stack.anonymous_api().raw(method.clone(), &path, content_type, body.clone()).await;
                assert_eq!(answer.status, 401, "{method} {path}");
                let body = answer.body.clone();
                refusals.extend((method != Method::HEAD).then_some(body));
            }
        }
    }
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");
    stack.api("user_1").get(&path).await.expect(200);
}

//! The management API through a socket: real binary, real PostgreSQL, real RabbitMQ.

mod errors;
mod history;
mod hostile;
mod idempotency;
mod jwks;
mod life;
mod limits;
mod patience;
mod raw;
mod strangers;
mod test_event;
mod tokens;
mod webhooks;

use serde_json::{Value, json};
use testkit::{Answer, ApiClient, Stack};

/// A stack of the API alone.
async fn api_alone() -> Stack {
    Stack::builder().ingests(0).dispatchers(0).start().await
}

/// Limits that no test meets, for those that ask a lot.
const UNLIMITED: [(&str, &str); 5] = [
    ("LOK__API__USER_CONCURRENCY", "100000"),
    ("LOK__API__USER_RATE", "100000"),
    ("LOK__API__USER_BURST", "1000000"),
    ("LOK__API__ADDRESS_RATE", "100000"),
    ("LOK__API__ADDRESS_BURST", "1000000"),
];

/// A stack of the API alone, with these limits.
async fn unlimited_api() -> Stack {
    let builder = Stack::builder().ingests(0).dispatchers(0);
    UNLIMITED.into_iter().fold(builder, |builder, (name, value)| builder.env(name, value)).start().await
}

/// The request body of the guide.
fn guides_webhook() -> Value {
    json!({
        "url": "https://votre-domaine.com/webhooks/lokroom",
        "events": ["booking.created", "booking.confirmed", "payment.succeeded"]
    })
}

/// Creates the guide's webhook and returns its path and the answer.
async fn given(api: &ApiClient) -> (String, Value) {
    let webhook = api.post("/api/webhooks", &guides_webhook()).await.expect(201).json();
    (format!("/api/webhooks/{}", webhook["id"].as_str().expect("an id")), webhook)
}

/// The code of a problem, after a check that it is one and complete.
#[track_caller]
fn problem(answer: Answer, status: u16) -> String {
    let answer = answer.expect(status);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text());
    let document = answer.json();
    for member in ["type", "title", "detail", "code"] {
        assert!(document[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {document}");
    }
    assert_eq!(document["status"], status);
    document["code"].as_str().expect("a code").to_owned()
}

/// The fields and codes of a validation problem.
#[track_caller]
fn invalid_fields(answer: Answer) -> Vec<(String, String)> {
    let document = answer.clone().expect(422).json();
    assert_eq!(problem(answer, 422), "validation_failed");
    let errors = document["errors"].as_array().expect("errors");
    let text = |error: &Value, member: &str| error[member].as_str().expect("a text").to_owned();
    errors
        .iter()
        .map(|error| {
            assert!(!text(error, "message").is_empty(), "{error}");
            (text(error, "field"), text(error, "code"))
        })
        .collect()
}

/// The names of an object's members, in alphabetical order.
#[track_caller]
fn members(object: &Value) -> Vec<&str> {
    let mut names: Vec<_> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

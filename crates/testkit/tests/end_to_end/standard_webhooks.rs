//! The public libraries of Standard Webhooks 1.0 verify our requests unchanged.

use std::collections::BTreeMap;

use domain::EventType;
use serde_json::{Value, json};
use testkit::{Binary, Event, Receiver, Request, Stack};

use crate::support::{root, tool};

/// What the libraries get to see.
fn as_json(request: &Request) -> Value {
    let headers: BTreeMap<_, _> =
        request.headers.iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
    json!({ "headers": headers, "body": request.text() })
}

async fn verdicts(library: &Binary, secret: &str, requests: &[Value]) -> Vec<String> {
    let input = json!({ "secret": secret, "requests": requests }).to_string();
    let output = library.clone().input(input).output().await;
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stdout.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_public_libraries_verify_our_requests_and_refuse_changed_ones() {
    let script = |file: &str| {
        let path = root().join("crates/testkit/tests/end_to_end/standard_webhooks").join(file);
        path.to_string_lossy().into_owned()
    };
    let node_folder = tool("node/package.json").to_string_lossy().into_owned();
    let libraries = [
        Binary::program("node", "node").arg(script("verify.js")).arg(node_folder),
        Binary::program("python", tool("python/bin/python")).arg(script("verify.py")),
    ];
    let stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), EventType::ALL).await;
    for event_type in EventType::ALL {
        stack.publish(&Event::example(*event_type).to("user_1").id(format!("order-7/{event_type}"))).await;
    }
    let requests: Vec<_> = receiver.until(EventType::ALL.len()).await.iter().map(as_json).collect();
    let path = format!("{}/regenerate-secret", webhook.path());
    let new = stack.api("user_1").post(&path, &json!({})).await.expect(200).json();
    let new = new["secret"].as_str().expect("a secret").to_owned();
    stack.publish(&Event::example(EventType::BookingCreated).to("user_1")).await;
    let with_both = as_json(&receiver.until(requests.len() + 1).await[requests.len()]);

    for library in &libraries {
        assert_eq!(verdicts(library, &webhook.secret, &requests).await, vec!["ok"; requests.len()]);
        // While two secrets are valid, a receiver that knows either verifies.
        for secret in [&webhook.secret, &new] {
            assert_eq!(verdicts(library, secret, std::slice::from_ref(&with_both)).await, ["ok"]);
        }

        let mut changed = requests[0].clone();
        changed["body"] = format!("{} ", changed["body"].as_str().unwrap()).into();
        assert_ne!(verdicts(library, &webhook.secret, &[changed]).await, ["ok"]);
        assert_ne!(verdicts(library, &new, &requests[..1]).await, ["ok"]);
    }
}

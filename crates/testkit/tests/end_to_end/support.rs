//! What several promises need. Signatures are computed here anew: nothing of the platform's own code checks itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker::{Confirmed, ConsumerConfig};
use ring::hmac;
use serde_json::Value;
use testkit::{DEADLINE, Request, Stack, Webhook, eventually_ok};

/// The guide's signature: lower-case hex HMAC-SHA256 of the body under the whole secret.
pub(crate) fn lok_signature(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::sign(&key, body).as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The Standard Webhooks signature of a request under a secret.
pub(crate) fn standard_signature(secret: &str, request: &Request) -> String {
    let encoded = secret.strip_prefix("whsec_").expect("a secret starts with whsec_");
    let key = STANDARD.decode(encoded).expect("a secret is base64 after whsec_");
    assert_eq!(key.len(), 32);
    let header = |name| request.header(name).unwrap_or_else(|| panic!("{name} is there once"));
    let mut signed = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp")).into_bytes();
    signed.extend_from_slice(&request.body);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    format!("v1,{}", STANDARD.encode(hmac::sign(&key, &signed)))
}

/// The project's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A tool that `make test` installs below `.dev/tools`.
pub(crate) fn tool(path: &str) -> PathBuf {
    let tool = root().join(".dev/tools").join(path);
    assert!(tool.exists(), "{} is not there: `make test` installs it", tool.display());
    tool
}

/// Waits until a webhook's history has `count` deliveries and none is pending; returns the first 100.
pub(crate) async fn settled(stack: &Stack, webhook: &Webhook, count: u64) -> Vec<Value> {
    let what = format!("{} has {count} deliveries and none pending", webhook.id);
    let page = eventually_ok(&what, DEADLINE * 3, async || {
        let page = stack.history(webhook, "pageSize=100").await;
        let statistics = &page["statistics"];
        if statistics["total"] == count && statistics["pending"] == 0 {
            Ok(page)
        } else {
            Err(statistics.to_string())
        }
    })
    .await;
    page["deliveries"].as_array().expect("deliveries is an array").clone()
}

/// Takes every message out of a queue, and forgets it.
pub(crate) async fn lose_all(stack: &Stack, queue: &str, count: usize) {
    let mut lost = 0;
    while lost < count {
        let pulled = stack.broker().inspector().pull(queue, count).await.expect("the queue can be looked at");
        let there = pulled.messages().count();
        for index in 0..there {
            let gone = pulled.remove(index, Confirmed::nothing_to_publish()).await;
            gone.expect("a pulled message can be removed");
        }
        pulled.close().await.expect("the channel closes");
        lost += there;
    }
}

/// Takes all messages of a queue and drops them, as a process that ends does, so many times.
pub(crate) async fn take_and_drop(stack: &Stack, queue: &str, count: usize, times: u64) {
    for time in 0..times {
        let config = ConsumerConfig { prefetch: 1000, tag: "test".to_owned() };
        let mut consumer = stack.broker().consumer(queue, config);
        for _ in 0..count {
            let taken = tokio::time::timeout(DEADLINE, consumer.next()).await;
            let delivery = taken.expect("a message comes").expect("the broker is open");
            assert!(delivery.received.delivery_count >= time, "the broker counts");
        }
    }
}

/// How many requests each event id came with.
pub(crate) fn by_event_id(requests: &[Request]) -> BTreeMap<&str, Vec<&Request>> {
    let mut events: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in requests {
        events.entry(request.event_id()).or_default().push(request);
    }
    events
}

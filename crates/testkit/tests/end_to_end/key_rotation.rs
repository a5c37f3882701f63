//! The key that encrypts secrets at rest is changed while everything goes on.

use std::collections::HashMap;
use std::time::Duration;

use domain::EventType::BookingCreated;
use domain::signature::WebhookSecret;
use domain::{UserId, WebhookId};
use ring::rand::SystemRandom;
use serde_json::json;
use service::Clock;
use store::NewWebhook;
use testkit::database::SECRET_KEYS;
use testkit::{DEADLINE, Event, Receiver, Request, Stack, Webhook, eventually};

use crate::support::{lok_signature, settled, standard_signature};

const NEW_KEY: &str = "new:HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

const WEBHOOKS: usize = 60;

fn user(n: usize) -> String {
    format!("user_{n}")
}

/// A webhook whose secret is under the tests' key, each of a user of its own, with a path that tells which it is.
async fn under_the_old_key(stack: &Stack, receiver: &Receiver, n: usize) -> Webhook {
    let (random, now) = (SystemRandom::new(), Clock::system().now());
    let secret = WebhookSecret::generate(&random).expect("the system gives randomness");
    let new = NewWebhook {
        id: WebhookId::generate(now, &random).expect("the system gives randomness"),
        user: UserId::parse(&user(n)).expect("a user id"),
        url: receiver.url(&format!("/{n}")),
        events: vec![BookingCreated],
        description: None,
        secret: secret.clone(),
        created_at: now,
    };
    let webhook = Webhook {
        id: new.id.to_string(),
        secret: secret.expose().to_owned(),
        user: user(n),
        url: new.url.clone(),
    };
    stack.database.store().create_webhook(new, 1, None).await.expect("it is new");
    webhook
}

/// Whether a request is signed with one of these secrets, in both ways.
fn is_signed_with(request: &Request, secrets: &[String]) -> bool {
    secrets.iter().any(|secret| {
        let standard = request.header("webhook-signature").unwrap_or_default();
        request.header("x-lok-signature") == Some(&lok_signature(secret, &request.body))
            && standard.split(' ').next() == Some(&standard_signature(secret, request))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_encrypted_anew_under_load_and_every_signature_stays_valid() {
    let both = format!("{NEW_KEY},{SECRET_KEYS}");
    let mut stack = Stack::builder().env("LOK__SECRETS__KEYS", &both).start().await;
    let receiver = Receiver::start().await;
    let mut webhooks = Vec::new();
    for n in 0..WEBHOOKS {
        webhooks.push(under_the_old_key(&stack, &receiver, n).await);
    }
    let mut secrets: HashMap<String, Vec<String>> = webhooks
        .iter()
        .enumerate()
        .map(|(n, webhook)| (format!("/{n}"), vec![webhook.secret.clone()]))
        .collect();
    let event =
        |id: String| (0..WEBHOOKS).fold(Event::example(BookingCreated), |event, n| event.to(&user(n))).id(id);
    stack.publish(&event("before".to_owned())).await;
    receiver.until(WEBHOOKS).await;

    let rotation = stack.binary("lokctl").arg("keys").arg("rotate").arg("--batch").arg("2");
    let rotating = async {
        let output = rotation.output().await;
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    };
    let publishing = async {
        for n in 0..20 {
            stack.publish(&event(format!("during-{n}"))).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    let changing = async {
        let mut regenerated = Vec::new();
        for n in (0..WEBHOOKS).step_by(3) {
            let (api, path) = (stack.api(&user(n)), webhooks[n].path());
            let answer = api.post(&format!("{path}/regenerate-secret"), &json!({})).await.expect(200).json();
            regenerated.push((format!("/{n}"), answer["secret"].as_str().expect("a secret").to_owned()));
            stack
                .api(&user(n + 1))
                .put(&webhooks[n + 1].path(), &json!({ "description": "new" }))
                .await
                .expect(200);
        }
        stack.api(&user(2)).delete(&webhooks[2].path()).await.expect(204);
        regenerated
    };
    let ((), (), regenerated) = tokio::join!(rotating, publishing, changing);
    for (path, secret) in regenerated {
        secrets.get_mut(&path).expect("it is there").push(secret);
    }
    for webhook in webhooks.iter().filter(|webhook| webhook.id != webhooks[2].id) {
        settled(&stack, webhook, 21).await;
    }
    for request in receiver.requests() {
        assert!(is_signed_with(&request, &secrets[&request.target]), "{}", request.target);
    }

    // The old key may go: a dispatcher that never knew it delivers to everyone, with the secret that is current.
    let list = stack.binary("lokctl").arg("keys").arg("list").output().await;
    assert!(list.stdout.contains("not used"), "{}", list.stdout);
    stack.dispatchers.clear();
    let mut dispatcher = stack.binary("dispatcher").env("LOK__SECRETS__KEYS", NEW_KEY).spawn();
    dispatcher.wait_ready(DEADLINE).await;
    let before = receiver.requests().len();
    stack.publish(&event("after".to_owned())).await;
    let requests = receiver.until(before + WEBHOOKS - 1).await;
    for request in &requests[before..] {
        let current = secrets[&request.target].last().expect("a secret").clone();
        assert!(is_signed_with(request, &[current]), "{}", request.target);
    }
}

/// The order of the roll-out was not kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_that_does_not_know_the_new_key_goes_on_with_what_it_has_and_holds_up_the_rest() {
    let mut stack = Stack::builder().env("LOK__DELIVERY__PARK_DELAYS", "500ms,30s").start().await;
    let receiver = Receiver::start().await;
    let known = stack.given_webhook("user_1", &receiver.url("/known"), &[BookingCreated]).await;
    stack.publish(&Event::example(BookingCreated).to("user_1")).await;
    receiver.until(1).await;
    let unknown = stack.given_webhook("user_2", &receiver.url("/unknown"), &[BookingCreated]).await;

    let both = format!("{NEW_KEY},{SECRET_KEYS}");
    let rotation = stack.binary("lokctl").env("LOK__SECRETS__KEYS", &both).arg("keys").arg("rotate");
    let output = rotation.output().await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    stack.publish(&Event::example(BookingCreated).to("user_1").to("user_2")).await;
    let request = receiver.until(2).await.pop().expect("two");
    assert!(is_signed_with(&request, std::slice::from_ref(&known.secret)), "{}", request.target);
    let dispatcher = &stack.dispatchers[0];
    eventually("the dispatcher says which key it lacks", DEADLINE, async || {
        dispatcher.log().contains("key `new` is not among secrets.keys").then_some(())
    })
    .await;
    assert_eq!(receiver.requests_to("/unknown").len(), 0);

    stack.dispatchers.clear();
    let mut dispatcher = stack.binary("dispatcher").env("LOK__SECRETS__KEYS", &both).spawn();
    dispatcher.wait_ready(DEADLINE).await;
    settled(&stack, &unknown, 1).await;
    let request = receiver.requests_to("/unknown").pop().expect("it was delivered");
    assert!(is_signed_with(&request, std::slice::from_ref(&unknown.secret)));
}

/// Its key was lost with its backup: nobody will ever read this secret again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_whose_secret_cannot_be_read_stops_nobody_and_lives_again_when_its_owner_regenerates() {
    let stack = Stack::builder().env("LOK__DELIVERY__PARK_DELAYS", "500ms,30s").start().await;
    let receiver = Receiver::start().await;
    let fine = stack.given_webhook("user_1", &receiver.url("/fine"), &[BookingCreated]).await;
    let lost = stack.given_webhook("user_1", &receiver.url("/lost"), &[BookingCreated]).await;
    let client = stack.database.connect().await;
    let sql = "UPDATE webhooks SET secret_key_id = 'lost' WHERE url LIKE '%/lost'";
    assert_eq!(client.execute(sql, &[]).await.expect("it can be changed"), 1);
    stack.publish(&Event::example(BookingCreated).to("user_1")).await;
    receiver.until(1).await;
    settled(&stack, &fine, 1).await;

    let api = stack.api("user_1");
    api.get("/api/webhooks").await.expect(200);
    api.get(&lost.path()).await.expect(200);
    api.put(&lost.path(), &json!({ "description": "mine" })).await.expect(200);
    assert_eq!(stack.history(&lost, "").await["statistics"]["pending"], 1);
    let path = format!("{}/regenerate-secret", lost.path());
    let secret = api.post(&path, &json!({})).await.expect(200).json()["secret"].clone();
    settled(&stack, &lost, 1).await;
    let request = receiver.requests_to("/lost").pop().expect("what waited was delivered");
    assert!(is_signed_with(&request, &[secret.as_str().expect("a secret").to_owned()]));
    assert_eq!(request.header("webhook-signature").map(|it| it.contains(' ')), Some(false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_overlap_one_secret_signs_and_the_other_is_gone_from_the_database() {
    let mut stack = Stack::builder().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    let path = format!("{}/regenerate-secret", webhook.path());
    stack.api("user_1").post(&path, &json!({})).await.expect(200);
    let last = stack.api("user_1").post(&path, &json!({})).await.expect(200).json()["secret"].clone();
    let last = last.as_str().expect("a secret").to_owned();
    stack.publish(&Event::example(BookingCreated).to("user_1")).await;
    let request = receiver.expect_request().await;
    let signatures = request.header("webhook-signature").expect("a signature").split(' ').count();
    assert_eq!(signatures, 2, "the last two, however many there were");
    assert!(is_signed_with(&request, std::slice::from_ref(&last)));

    let client = stack.database.connect().await;
    let over = "UPDATE webhooks SET previous_secret_until = now()";
    client.batch_execute(over).await.expect("it can be changed");
    stack.publish(&Event::example(BookingCreated).to("user_1")).await;
    let request = receiver.expect_request().await;
    assert_eq!(request.header("webhook-signature"), Some(standard_signature(&last, &request).as_str()));

    stack.dispatchers[0].kill9();
    stack.dispatchers[0].restart().await;
    eventually("maintenance forgets the secret", DEADLINE, async || {
        let left = "SELECT count(*) FROM webhooks WHERE previous_secret IS NOT NULL";
        let count: i64 = client.query_one(left, &[]).await.expect("it can be asked").get(0);
        (count == 0).then_some(())
    })
    .await;
}

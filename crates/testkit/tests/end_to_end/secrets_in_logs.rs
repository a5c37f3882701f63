//! Nothing that must stay secret is in any log.

use domain::EventType::BookingCreated;
use serde_json::json;
use testkit::database::SECRET_KEYS;
use testkit::{DEADLINE, Event, Receiver, Reply, Stack, eventually, servers, token};
use url::Url;

use crate::support::settled;

/// Personal data in an event.
const PERSONAL: &str = "Appelez-moi au 06 12 34 56 78";

#[tokio::test]
async fn no_secret_and_no_personal_data_is_in_the_logs_of_a_whole_run() {
    let mut stack =
        Stack::builder().env("RUST_LOG", "debug").env("LOK__DELIVERY__RETRY_DELAYS", "100ms").start().await;
    let receiver = Receiver::start().await;
    let hidden_in_url = "hidden-in-the-query";
    let url = receiver.url(&format!("/?token={hidden_in_url}"));
    let webhook = stack.given_webhook("user_1", &url, &[BookingCreated]).await;

    // Success, failure, duplicate, rejection, over AMQP and HTTP; a new secret; requests with wrong tokens.
    receiver.answer_next(Reply::status(200).body("receivers-answer"));
    let data = BookingCreated.example_text().trim_end().trim_end_matches('}').to_owned();
    let data = format!("{data}, \"note\": \"{PERSONAL}\"}}");
    let event = Event::example(BookingCreated).to("user_1").data(data).id("once");
    stack.publish(&event).await;
    stack.publish(&event).await;
    receiver.until(1).await;
    receiver.answer(Reply::status(500).body("receivers-answer"));
    stack.publish(&event.clone().id("twice")).await;
    let broken = event.clone().id("broken").data(format!("{{\"totalPrice\": \"{PERSONAL}\"}}"));
    stack.publish(&broken).await;
    let ingest = stack.ingest();
    ingest.post_text("/v1/events", event.clone().id("by-http").to_json()).await.expect(202);
    let refused = ingest.post_text("/v1/events", broken.to_json()).await;
    assert!(refused.status.is_client_error(), "{}: {}", refused.status, refused.text());
    let path = format!("{}/regenerate-secret", webhook.path());
    let new = stack.api("user_1").post(&path, &json!({})).await.expect(200).json();
    let wrong_token = token::hs256("some other secret, long enough for HS256", "user_1");
    stack.anonymous_api().bearer(&wrong_token).get("/api/webhooks").await.expect(401);
    settled(&stack, &webhook, 3).await;
    let rejected = stack.queues().names().rejected_queue();
    eventually("the broken event is rejected", DEADLINE, async || {
        (stack.depth(&rejected).await > 0).then_some(())
    })
    .await;

    let password = |url: &str| Url::parse(url).expect("a URL").password().map(str::to_owned);
    let key = SECRET_KEYS.split_once(':').expect("id:key").1;
    let mut secrets = vec![
        ("the webhook's secret", webhook.secret.clone()),
        ("the webhook's new secret", new["secret"].as_str().unwrap().to_owned()),
        ("any webhook's secret", "whsec_".to_owned()),
        ("the HS256 secret", stack.hs256_secret().to_owned()),
        (
            "a bearer token",
            token::hs256(stack.hs256_secret(), "user_1").split('.').next().unwrap().to_owned(),
        ),
        ("a wrong bearer token", wrong_token),
        ("the ingest token", stack.ingest_token().to_owned()),
        ("the key of secrets at rest", key.to_owned()),
        ("personal data of an event", PERSONAL.to_owned()),
        ("the URL's query", hidden_in_url.to_owned()),
        ("what a receiver answered", "receivers-answer".to_owned()),
    ];
    for url in [stack.database.url(), &servers::amqp_url()] {
        if let Some(password) = password(url).filter(|password| password != "guest") {
            secrets.push(("a server's password", password));
        }
    }

    for service in stack.services() {
        assert!(service.terminate(DEADLINE).await.success());
        let log = service.log();
        assert!(log.contains("\"DEBUG\""), "{} logs at debug", service.name());
        for (what, secret) in &secrets {
            let line = log.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{what} is in the log of {}: {line:?}", service.name());
        }
    }
}

//! Every class of error, in both languages.

use bytes::Bytes;
use http::Method;
use serde_json::json;
use testkit::{Answer, ApiClient};

use crate::{api_alone, given, guides_webhook, invalid_fields, members, problem};

const JSON: Option<&str> = Some("application/json");

async fn create(api: &ApiClient, body: impl Into<Bytes>) -> Answer {
    api.raw(Method::POST, "/api/webhooks", JSON, body.into()).await
}

#[tokio::test]
async fn a_body_that_is_not_json_is_a_400_that_tells_where() {
    let stack = api_alone().await;
    let api = stack.api("user_1");
    let answer = create(&api, r#"{"url": "https://example.com/", "events": ["booking.created",]}"#).await;
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("byte 61"), "{detail}");
    assert_eq!(problem(answer, 400), "malformed_json");
    for body in ["", "{", "nonsense", "{\"url\":'x'}", "{} {}", "\u{feff}{}", "{\"a\":01}"] {
        assert_eq!(problem(create(&api, body.to_owned()).await, 400), "malformed_json", "{body}");
    }
    assert_eq!(problem(create(&api, vec![b'"', 0xff, b'"']).await, 400), "malformed_json");
    for deep in ["[", "{\"a\":"] {
        let body = format!("{{\"url\":{}", deep.repeat(10_000));
        assert_eq!(problem(create(&api, body).await, 400), "malformed_json", "{deep}");
    }
    api.get("/api/webhooks").await.expect(200);
}

#[tokio::test]
async fn what_is_json_but_no_webhook_is_a_422_with_every_field() {
    let stack = api_alone().await;
    let api = stack.api("user_1");
    for body in ["[]", "null", "1", "\"x\""] {
        assert_eq!(problem(create(&api, body).await, 422), "not_an_object", "{body}");
    }
    let fields = |answer| -> Vec<String> {
        invalid_fields(answer).into_iter().map(|(field, code)| format!("{field} {code}")).collect()
    };
    assert_eq!(fields(create(&api, "{}").await), ["url required", "events required"]);
    let body = r#"{"url":null,"events":["booking.created","booking.created","nope",7],"secret":"x"}"#;
    let expected = [
        "secret unknown_field",
        "url wrong_type",
        "events[1] duplicate",
        "events[2] unknown_event_type",
        "events[3] wrong_type",
    ];
    assert_eq!(fields(create(&api, body).await), expected);
    let body = r#"{"url":"https://example.com/","events":"booking.created"}"#;
    assert_eq!(fields(create(&api, body).await), ["events wrong_type"]);
    let body = r#"{"url":"https://example.com/","events":["booking.created"],"description":"a\u0000b"}"#;
    assert_eq!(fields(create(&api, body).await), ["description invalid_characters"]);
    let body = r#"{"url":"https://example.com/","events":["booking.created"],"description":"\ud800"}"#;
    assert_eq!(fields(create(&api, body).await), ["description lone_surrogate"]);
    let body = r#"{"url":"https://example.com/","events":[12345678901234567890]}"#;
    assert_eq!(fields(create(&api, body).await), ["events[0] number_out_of_range"]);
    let many = vec!["booking.created"; 21];
    let body = json!({ "url": "https://example.com/", "events": many });
    assert_eq!(fields(api.post("/api/webhooks", &body).await), ["events too_many_events"]);

    let (path, _) = given(&api).await;
    let fields_of_change = fields(api.put(&path, &json!({ "actif": true, "active": "yes" })).await);
    assert_eq!(fields_of_change, ["actif unknown_field", "active wrong_type"]);
    for (parameter, code) in [
        ("page=0", "page not_in_range"),
        ("page=1001", "page not_in_range"),
        ("page=x", "page not_in_range"),
        ("pageSize=0", "pageSize not_in_range"),
        ("pageSize=101", "pageSize not_in_range"),
        ("status=ok", "status unknown_status"),
        ("event=nope", "event unknown_event_type"),
        ("status=failed&status=failed", "status repeated_parameter"),
    ] {
        assert_eq!(fields(api.get(&format!("{path}/deliveries?{parameter}")).await), [code]);
    }
    assert_eq!(fields(api.get("/api/webhooks?page=-1").await), ["page not_in_range"]);
    api.get(&format!("{path}/deliveries?page=1000&pageSize=100&status=pending")).await.expect(200);
}

#[tokio::test]
async fn the_last_of_duplicate_keys_counts() {
    let stack = api_alone().await;
    let body = r#"{"url":"x","url":"https://example.com/last","events":["booking.created"]}"#;
    let webhook = create(&stack.api("user_1"), body).await.expect(201).json();
    assert_eq!(webhook["url"], "https://example.com/last");
}

#[tokio::test]
async fn bodies_have_a_type_and_a_size() {
    let stack = api_alone().await;
    let api = stack.api("user_1");
    let body = Bytes::from(guides_webhook().to_string());
    for json in ["application/json; charset=utf-8", "application/json;charset=\"UTF-8\"", "Application/JSON"]
    {
        api.raw(Method::POST, "/api/webhooks", Some(json), body.clone()).await.expect(201);
    }
    for other in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/json; charset=iso-8859-1"),
    ] {
        let answer = api.raw(Method::POST, "/api/webhooks", other, body.clone()).await;
        assert_eq!(problem(answer, 415), "unsupported_media_type", "{other:?}");
    }
    let compressed = api.clone().header("content-encoding", "gzip");
    assert_eq!(problem(create(&compressed, body.clone()).await, 415), "unsupported_content_encoding");

    let padded = |bytes: usize| [body.clone(), vec![b' '; bytes - body.len()].into()].concat();
    create(&api, padded(64 * 1024)).await.expect(201);
    for bytes in [64 * 1024 + 1, 65 * 1024, 4 * 1024 * 1024] {
        assert_eq!(problem(create(&api, padded(bytes)).await, 413), "body_too_large", "{bytes}");
    }
    api.get("/api/webhooks").await.expect(200);
}

#[tokio::test]
async fn wrong_paths_and_methods_are_told_as_problems() {
    let stack = api_alone().await;
    let api = stack.api("user_1");
    let (path, _) = given(&api).await;
    for unknown in ["/", "/api", "/api/webhook", "/api/webhooks/", "/api/webhooks/x/y", "/healthz"] {
        assert_eq!(problem(api.get(unknown).await, 404), "not_found", "{unknown}");
        assert_eq!(problem(stack.anonymous_api().get(unknown).await, 404), "not_found", "{unknown}");
    }
    for (method, path, allow) in [
        (Method::DELETE, "/api/webhooks".to_owned(), "GET, HEAD, POST"),
        (Method::PATCH, path.clone(), "GET, HEAD, PUT, DELETE"),
        (Method::OPTIONS, path.clone(), "GET, HEAD, PUT, DELETE"),
        (Method::GET, format!("{path}/test"), "POST"),
        (Method::GET, format!("{path}/regenerate-secret"), "POST"),
        (Method::POST, format!("{path}/deliveries"), "GET, HEAD"),
        (Method::from_bytes(b"BREW").unwrap(), "/api/event-types".to_owned(), "GET, HEAD"),
    ] {
        let answer = api.raw(method.clone(), &path, None, Bytes::new()).await;
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        assert_eq!(problem(answer, 405), "method_not_allowed");
    }
    for path in ["/api/webhooks", &path, &format!("{path}/deliveries"), "/api/event-types"] {
        let head = api.raw(Method::HEAD, path, None, Bytes::new()).await.expect(200);
        assert!(head.body.is_empty(), "{path}");
        // A page of deliveries is written while it is sent: nobody knows its length before.
        let has_length = head.header("content-length").is_some_and(|length| length != "0");
        assert_eq!(has_length, !path.ends_with("/deliveries"), "{path}: {head:?}");
        let get = api.get(path).await.expect(200);
        let fields = [head, get].map(|answer| {
            let mut fields = answer.headers;
            // These are others each time.
            fields.remove("date");
            fields.remove("ratelimit");
            fields
        });
        assert_eq!(fields[0], fields[1], "{path}");
    }
}

#[tokio::test]
async fn problems_speak_the_callers_language() {
    let stack = api_alone().await;
    let (path, _) = given(&stack.api("user_1")).await;
    let english = stack.api("user_1").header("accept-language", "en-GB, fr;q=0.5");
    let french = stack.api("user_1").header("accept-language", "en;q=0.5, fr-FR;q=0.8");
    let pairs = [
        (create(&english, "{").await, create(&french, "{").await),
        (create(&english, "{}").await, create(&french, "{}").await),
        (english.get("/nowhere").await, french.get("/nowhere").await),
        (english.delete("/api/webhooks").await, french.delete("/api/webhooks").await),
        (english.get("/api/webhooks?page=0").await, french.get("/api/webhooks?page=0").await),
        (create(&english, vec![b' '; 70_000]).await, create(&french, vec![b' '; 70_000]).await),
        (
            english.raw(Method::PUT, &path, None, Bytes::from_static(b"{}")).await,
            french.raw(Method::PUT, &path, None, Bytes::from_static(b"{}")).await,
        ),
        (
            english.post(&format!("{path}/test"), &json!({ "event": "review.created" })).await,
            french.post(&format!("{path}/test"), &json!({ "event": "review.created" })).await,
        ),
        (english.bearer("x").get(&path).await, french.bearer("x").get(&path).await),
    ];
    for (english, french) in pairs {
        assert_eq!(
            (english.header("content-language"), english.header("vary")),
            (Some("en"), Some("Accept-Language"))
        );
        assert_eq!(french.header("content-language"), Some("fr"));
        let (status, code) = (english.status.as_u16(), problem(english.clone(), english.status.as_u16()));
        assert_eq!(problem(french.clone(), status), code);
        let (english, french) = (english.json(), french.json());
        assert_eq!(members(&english), members(&french));
        for member in ["title", "detail"] {
            assert_ne!(english[member], french[member], "{code}");
        }
        for (english, french) in english["errors"]
            .as_array()
            .iter()
            .flat_map(|errors| errors.iter())
            .zip(french["errors"].as_array().iter().flat_map(|errors| errors.iter()))
        {
            assert_eq!(english["field"], french["field"]);
            assert_ne!(english["message"], french["message"], "{code}");
        }
    }
}

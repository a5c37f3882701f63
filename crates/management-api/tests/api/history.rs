//! The history of deliveries.

use std::time::Duration;

use domain::retry::AttemptNumber;
use serde_json::{Value, json};
use service::Clock;
use store::{AttemptRecord, AttemptResult};

use crate::{api_alone, given, members};

#[tokio::test]
async fn the_history_shows_what_became_of_each_delivery() {
    let stack = api_alone().await;
    let api = stack.api("user_1");
    let (path, _) = given(&api).await;
    let mut ids = Vec::new();
    for event in ["booking.created", "booking.created", "payment.succeeded", "booking.created"] {
        let test = api.post(&format!("{path}/test"), &json!({ "event": event })).await.expect(202).json();
        ids.push(test["deliveryId"].as_str().unwrap().to_owned());
    }
    let now = Clock::system().now();
    let record = |id: &str, result, status, body: Option<&str>, error: Option<&str>| AttemptRecord {
        delivery: id.parse().unwrap(),
        attempt: AttemptNumber::FIRST,
        started_at: now,
        duration: Duration::from_millis(42),
        response_status: status,
        response_body: body.map(str::to_owned),
        error: error.map(str::to_owned),
        result,
    };
    let retry = AttemptResult::Retry { at: now + Duration::from_secs(60) };
    let attempts = [
        record(&ids[0], AttemptResult::Success, Some(200), Some(r#"{"status":"ok"}"#), None),
        record(&ids[1], AttemptResult::Failed, Some(500), Some("Internal error"), Some("status 500")),
        record(&ids[2], retry, None, None, Some("timed out")),
    ];
    assert_eq!(stack.database.store().record_attempts(&attempts).await.unwrap().len(), 3);

    let page = api.get(&format!("{path}/deliveries?page=1&pageSize=20")).await.expect(200).json();
    assert_eq!(members(&page), ["deliveries", "page", "pageCount", "pageSize", "statistics", "total"]);
    assert_eq!(page["statistics"], json!({ "total": 4, "success": 1, "failed": 1, "pending": 2 }));
    assert_eq!((&page["total"], &page["pageCount"]), (&json!(4), &json!(1)));
    let listed = |page: &Value| -> Vec<String> {
        let deliveries = page["deliveries"].as_array().unwrap();
        deliveries.iter().map(|delivery| delivery["id"].as_str().unwrap().to_owned()).collect()
    };
    let newest_first: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(listed(&page), newest_first);

    let of = |id: &str| page["deliveries"].as_array().unwrap().iter().find(|it| it["id"] == id).unwrap();
    let success = of(&ids[0]);
    assert_eq!(
        members(success),
        [
            "attempts",
            "createdAt",
            "durationMs",
            "error",
            "event",
            "id",
            "lastAttempt",
            "nextAttempt",
            "response",
            "responseStatus",
            "status"
        ]
    );
    assert_eq!(success["response"], json!({ "status": "ok" }));
    assert_eq!((&success["status"], &success["attempts"]), (&json!("success"), &json!(1)));
    assert_eq!((&success["responseStatus"], &success["durationMs"]), (&json!(200), &json!(42)));
    assert_eq!(success["lastAttempt"], domain::timestamp::format(now));
    assert_eq!((&success["error"], &success["nextAttempt"]), (&Value::Null, &Value::Null));
    let failed = of(&ids[1]);
    assert_eq!((&failed["response"], &failed["error"]), (&json!("Internal error"), &json!("status 500")));
    let retried = of(&ids[2]);
    assert_eq!((&retried["status"], &retried["response"]), (&json!("pending"), &Value::Null));
    assert_eq!(retried["nextAttempt"], domain::timestamp::format(now + Duration::from_secs(60)));
    let waiting = of(&ids[3]);
    assert_eq!((&waiting["attempts"], &waiting["lastAttempt"]), (&json!(0), &Value::Null));

    for (filter, expected) in [
        ("status=failed", vec![&ids[1]]),
        ("status=pending", vec![&ids[3], &ids[2]]),
        ("event=payment.succeeded", vec![&ids[2]]),
        ("event=booking.created&status=success", vec![&ids[0]]),
        ("event=review.created", vec![]),
    ] {
        let page = api.get(&format!("{path}/deliveries?{filter}")).await.expect(200).json();
        assert_eq!(listed(&page).iter().collect::<Vec<_>>(), expected, "{filter}");
        assert_eq!(page["total"], expected.len(), "{filter}");
        assert_eq!(page["statistics"]["total"], 4, "{filter}");
    }
    let second = api.get(&format!("{path}/deliveries?page=2&pageSize=3")).await.expect(200).json();
    assert_eq!(listed(&second), ids[..1]);
    assert_eq!((&second["total"], &second["pageCount"], &second["page"]), (&json!(4), &json!(2), &json!(2)));
}

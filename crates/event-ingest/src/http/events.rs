//! `POST /v1/events`.

use std::panic::AssertUnwindSafe;

use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use domain::event::{AcceptedEvent, NotAccepted, Rejection};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use wire::published::essence;

use crate::counted::{Outcome, Source};
use crate::http::body::Body;
use crate::http::items::Items;
use crate::http::problem::Problem;
use crate::http::{Endpoint, Waiting, auth};
use crate::pipeline::Receipt;

/// Larger bodies are checked on a thread for blocking work: others are served by this one.
const BLOCKING_BYTES: usize = 64 * 1024;

/// Takes one event or an array of them. Answers when all that are acceptable are durable: 202 with what became of
/// each, or the [`Problem`] why none was taken.
pub(crate) async fn post(
    request: HttpRequest,
    payload: web::Payload,
    endpoint: web::Data<Endpoint>,
) -> Result<HttpResponse, Problem> {
    auth::check(endpoint.tokens.as_ref(), request.headers())?;
    check_media_type(request.headers())?;
    let deadline = Instant::now() + endpoint.time_limit;
    let Body { bytes, share } = endpoint.bodies.read(request.headers(), payload, deadline).await?;

    let checked = check_all(&endpoint, bytes).await?;
    let waiting = |event| Waiting { event, deadline, share: share.clone() };
    let taking = join_all(checked.into_iter().map(|event| take(&endpoint, event.map(waiting))));
    let taken = timeout_at(deadline, taking).await.map_err(|_| Problem::Unavailable)?;
    let receipts = taken.into_iter().collect::<Option<Vec<_>>>().ok_or(Problem::Unavailable)?;
    answer(receipts)
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let is_json = essence(text(CONTENT_TYPE).unwrap_or_default()).eq_ignore_ascii_case(wire::JSON);
    let is_plain = text(CONTENT_ENCODING).is_none_or(|encoding| encoding.eq_ignore_ascii_case("identity"));
    if is_json && is_plain { Ok(()) } else { Err(Problem::UnsupportedMediaType) }
}

/// An event of a request that may be stored, or why not.
type Checked = Result<AcceptedEvent, Rejection>;

/// The body is gone afterwards: events hold what they need of it, and may have to wait.
async fn check_all(endpoint: &web::Data<Endpoint>, body: web::Bytes) -> Result<Vec<Checked>, Problem> {
    if body.len() <= BLOCKING_BYTES {
        return check(endpoint, &body);
    }
    let endpoint = endpoint.clone();
    web::block(move || check(&endpoint, &body)).await.map_err(|_| Problem::Unavailable)?
}

fn check(endpoint: &Endpoint, body: &[u8]) -> Result<Vec<Checked>, Problem> {
    let Items(items) = Items::of(body, endpoint.max_events)?;
    let check = |item: &str| match endpoint.decoder.decode_json(item.as_bytes()) {
        Ok(event) => Ok(Ok(event)),
        Err(NotAccepted::Rejected(rejection)) => Ok(Err(rejection)),
        Err(NotAccepted::NoRandomness(_)) => Err(Problem::Unavailable),
    };
    items.into_iter().map(check).collect()
}

/// Makes an event durable, together with whatever others there are; `None` if that was not possible, or not in time.
async fn take(endpoint: &Endpoint, event: Result<Waiting, Rejection>) -> Option<Receipt> {
    match event {
        Ok(event) => {
            // A panic of the group is no answer to anybody in it.
            let taken = AssertUnwindSafe(endpoint.intake.submit(event)).catch_unwind().await;
            taken.ok()?.ok()?
        }
        Err(rejection) => Some(Receipt::Refused(rejection)),
    }
}

fn answer(receipts: Vec<Receipt>) -> Result<HttpResponse, Problem> {
    let (mut accepted, mut duplicates, mut rejected) = (0, 0, 0);
    let mut events = Vec::with_capacity(receipts.len());
    for (index, receipt) in receipts.into_iter().enumerate() {
        let event = match receipt {
            Receipt::Stored(id) => {
                accepted += 1;
                Source::Http.count(Outcome::Accepted);
                json!({ "index": index, "status": "accepted", "id": id.as_str() })
            }
            Receipt::Duplicate(id) => {
                duplicates += 1;
                Source::Http.count(Outcome::Duplicate);
                json!({ "index": index, "status": "duplicate", "id": id.as_str() })
            }
            Receipt::Refused(rejection) => {
                rejected += 1;
                Source::Http.count_rejected(rejection.code());
                rejected_event(index, &rejection)
            }
        };
        events.push(event);
    }
    if accepted + duplicates == 0 {
        return Err(Problem::NothingAccepted { errors: events });
    }
    let document = json!({
        "accepted": accepted,
        "duplicates": duplicates,
        "rejected": rejected,
        "events": events,
    });
    Ok(HttpResponse::Accepted().content_type(wire::JSON).body(document.to_string()))
}

fn rejected_event(index: usize, rejection: &Rejection) -> Value {
    let errors = rejection
        .errors()
        .map(|error| json!({ "field": error.field, "code": error.code.as_str(), "message": error.message }));
    let errors: Vec<_> = errors.collect();
    json!({ "index": index, "status": "rejected", "code": rejection.code().as_str(), "errors": errors })
}

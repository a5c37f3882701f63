//! The history of deliveries (guide, *Historique des livraisons*).

use std::iter::{once, once_with};

use actix_web::http::Method;
use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use domain::timestamp;
use futures_util::stream;
use serde::Serialize;
use serde_json::value::RawValue;
use store::{Delivery, DeliveryPage, Page, Statistics};

use crate::answers::Share;
use crate::api::Api;
use crate::auth::Caller;
use crate::database::bounded;
use crate::problem::Problem;
use crate::query::DeliveriesQuery;
use crate::webhooks::webhook_id;

/// A delivery as the guide shows it, and what the contract adds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryDocument<'a> {
    id: String,
    event: &'a str,
    status: &'static str,
    attempts: u32,
    last_attempt: Option<String>,
    response: Option<Response<'a>>,
    created_at: String,
    response_status: Option<u16>,
    error: Option<&'a str>,
    duration_ms: Option<u32>,
    next_attempt: Option<String>,
}

impl<'a> DeliveryDocument<'a> {
    fn new(delivery: &'a Delivery) -> Self {
        Self {
            id: delivery.id.to_string(),
            event: &delivery.event_type,
            status: delivery.status.as_str(),
            attempts: delivery.attempts,
            last_attempt: delivery.last_attempt_at.map(timestamp::format),
            response: delivery.response_body.as_deref().map(Response::read),
            created_at: timestamp::format(delivery.created_at),
            response_status: delivery.response_status,
            error: delivery.error.as_deref(),
            duration_ms: delivery.duration_ms,
            next_attempt: delivery.next_attempt_at.map(timestamp::format),
        }
    }
}

/// What a receiver answered: its JSON as it wrote it, or its text.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Response<'a> {
    Json(Box<RawValue>),
    Text(&'a str),
}

impl<'a> Response<'a> {
    fn read(body: &'a str) -> Self {
        // Read as a value first: that bounds nesting and numbers, which the raw text does not.
        let readable = serde_json::from_str::<serde_json::Value>(body).is_ok();
        match serde_json::from_str(body) {
            Ok(json) if readable => Self::Json(json),
            _ => Self::Text(body),
        }
    }
}

#[derive(Debug, Serialize)]
struct StatisticsDocument {
    total: u64,
    success: u64,
    failed: u64,
    pending: u64,
}

impl From<Statistics> for StatisticsDocument {
    fn from(statistics: Statistics) -> Self {
        let Statistics { pending, success, failed } = statistics;
        Self { total: statistics.total(), success, failed, pending }
    }
}

/// What stands behind the deliveries.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PageEnd {
    statistics: StatisticsDocument,
    page: u32,
    page_size: u32,
    total: u64,
    page_count: u64,
}

impl PageEnd {
    fn new(found: &DeliveryPage, page: Page) -> Self {
        Self {
            statistics: found.statistics.into(),
            page: page.number,
            page_size: page.size,
            total: found.total,
            page_count: found.total.div_ceil(page.size.into()),
        }
    }
}

/// A page as JSON, each delivery when its turn to be sent comes: as JSON a page may be six times as large as it is in memory,
/// and writing all of it at once would keep others waiting.
fn document(
    found: DeliveryPage,
    page: Page,
    share: Option<Share>,
) -> impl Iterator<Item = serde_json::Result<Bytes>> {
    let end = PageEnd::new(&found, page);
    let deliveries = found.deliveries.into_iter().enumerate().map(|(index, delivery)| {
        let mut text = if index == 0 { Vec::new() } else { vec![b','] };
        serde_json::to_writer(&mut text, &DeliveryDocument::new(&delivery))?;
        Ok(text.into())
    });
    let start = once(Ok(Bytes::from_static(br#"{"deliveries":["#)));
    start.chain(deliveries).chain(once_with(move || {
        // Held to here.
        drop(share);
        let end = serde_json::to_string(&end)?;
        Ok(format!("],{}", end.trim_start_matches('{')).into())
    }))
}

/// What a page takes in memory.
fn bytes(page: &DeliveryPage) -> usize {
    let texts = |it: &Delivery| {
        it.response_body.as_deref().map_or(0, str::len) + it.error.as_deref().map_or(0, str::len)
    };
    page.deliveries.iter().map(|delivery| size_of::<Delivery>() + texts(delivery)).sum()
}

/// `GET /api/webhooks/{id}/deliveries`
pub(crate) async fn list(
    Caller(user): Caller,
    query: DeliveriesQuery,
    request: HttpRequest,
    api: web::Data<Api>,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&request)?;
    // Of an answer that has no body nothing needs to be read.
    let is_head = request.method() == Method::HEAD;
    let read = if is_head { Page { size: 0, ..query.page } } else { query.page };
    let found = bounded(api.store.list_deliveries(&user, id, query.filter, read)).await?;
    let found = found.ok_or_else(Problem::not_found)?;
    let share = api.answers.take(&user, bytes(&found))?;
    let document = stream::iter(document(found, query.page, share));
    Ok(HttpResponse::Ok().content_type(ContentType::json()).streaming(document))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(body: &str) -> String {
        serde_json::to_string(&Response::read(body)).unwrap()
    }

    #[test]
    fn a_receivers_json_is_shown_as_it_wrote_it_and_anything_else_as_text() {
        assert_eq!(shown(r#"{"status":"ok"}"#), r#"{"status":"ok"}"#);
        assert_eq!(shown(r#"{"z":1234567890123456789,"a":1.50}"#), r#"{"z":1234567890123456789,"a":1.50}"#);
        assert_eq!(shown("OK"), r#""OK""#);
        assert_eq!(shown(r#"{"cut":"#), r#""{\"cut\":""#);
        assert_eq!(shown(""), r#""""#);
        assert!(shown(&format!("{}{}", "[".repeat(5000), "]".repeat(5000))).starts_with('"'));
    }
}

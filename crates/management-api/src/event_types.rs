//! The 11 event types.

use actix_web::http::header::{CONTENT_LANGUAGE, VARY};
use actix_web::{HttpRequest, HttpResponse};
use domain::EventType;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::auth::Caller;
use crate::language::Language;
use crate::problem::Problem;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListDocument {
    event_types: Vec<EventTypeDocument>,
}

#[derive(Debug, Serialize)]
struct EventTypeDocument {
    event: &'static str,
    description: &'static str,
    /// The JSON Schema (Draft 2020-12) of `data`.
    schema: &'static RawValue,
    /// A `data` that follows the schema.
    example: &'static RawValue,
}

impl EventTypeDocument {
    fn new(event: EventType, language: Language) -> serde_json::Result<Self> {
        let descriptions = event.descriptions();
        let description = match language {
            Language::English => descriptions.english,
            Language::French => descriptions.french,
        };
        Ok(Self {
            event: event.as_str(),
            description,
            schema: serde_json::from_str(event.schema_text())?,
            example: serde_json::from_str(event.example_text())?,
        })
    }
}

/// `GET /api/event-types`
pub(crate) async fn list(_: Caller, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let language = Language::of(&request);
    let documents = EventType::ALL.iter().map(|event| EventTypeDocument::new(*event, language));
    let event_types = documents.collect::<serde_json::Result<_>>().map_err(|_| Problem::internal())?;
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_LANGUAGE, language.tag())).insert_header((VARY, "Accept-Language"));
    Ok(response.json(ListDocument { event_types }))
}

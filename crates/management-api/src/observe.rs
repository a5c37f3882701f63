//! The outermost layer: what was answered is counted, and refusals are put into the caller's language.

use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONNECTION, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use metrics::{counter, histogram};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::api::Api;
use crate::language::Language;
use crate::problem::Problem;
use crate::rate;
use crate::texts::Reason;

/// Longest path and query. The longest that means anything has some 120 bytes.
const MAX_TARGET_BYTES: usize = 4096;

/// Most header fields; browsers behind two proxies send some 30.
const MAX_HEADER_FIELDS: usize = 64;

/// Counts, times, limits and renders.
pub(crate) async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let (language, method) = (Language::of(request.request()), method_label(request.method()));
    let stopping = request.app_data::<web::Data<CancellationToken>>().cloned();
    let api = request.app_data::<web::Data<Api>>();
    let too_many = api.and_then(|api| rate::count_address(&request, &api.rates));
    let refused = too_many.or_else(|| head_refusal(&request));
    let response = match refused {
        Some(problem) => request.error_response(problem),
        None => next.call(request).await?.map_into_boxed_body(),
    };
    let mut response = match refusal(&response) {
        Some(problem) => response.into_response(problem.render(language)),
        None => response,
    };
    rate::tell(&mut response);
    if stopping.is_some_and(|stopping| stopping.is_cancelled()) {
        // Whoever keeps the connection for the next request has to find another replica.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }

    // Never the path itself: metrics have a bounded number of labels, and ids belong to their owners.
    let route = response.request().match_pattern().unwrap_or_else(|| "unknown".to_owned());
    let (status, elapsed) = (response.status().as_u16(), started.elapsed());
    debug!(method, route, status, elapsed_ms = elapsed.as_millis(), "answered");
    counter!("http_requests_total", "method" => method, "route" => route.clone(), "status" => status.to_string())
        .increment(1);
    histogram!("http_request_duration_seconds", "route" => route).record(elapsed);
    Ok(response)
}

/// What a head may not be. Larger heads never come here: see `ingress`.
fn head_refusal(request: &ServiceRequest) -> Option<Problem> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > MAX_TARGET_BYTES {
        return Some(Problem::new(
            StatusCode::URI_TOO_LONG,
            Reason::TargetTooLong { limit: MAX_TARGET_BYTES },
        ));
    }
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    let is_crowded = request.headers().len() > MAX_HEADER_FIELDS;
    is_crowded.then(|| Problem::new(status, Reason::TooManyHeaderFields { limit: MAX_HEADER_FIELDS }))
}

/// The problem to render, for every answer that is none yet.
fn refusal(response: &ServiceResponse<BoxBody>) -> Option<Problem> {
    if let Some(problem) = response.response().error().and_then(|error| error.as_error::<Problem>()) {
        return Some(problem.clone());
    }
    let status = response.status();
    (status.is_client_error() || status.is_server_error()).then(|| Problem::new(status, Reason::Refused))
}

/// Methods are labels: those that somebody made up share one.
fn method_label(method: &Method) -> &'static str {
    const KNOWN: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
    ];
    const LABELS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
    KNOWN.iter().position(|known| known == method).map_or("other", |index| LABELS[index])
}

//! The delivered request (contract, *The delivered request*).

use domain::Timestamp;
use domain::retry::AttemptNumber;
use domain::signature::Signer;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use wire::DeliveryJob;

const LOK_SIGNATURE: HeaderName = HeaderName::from_static("x-lok-signature");
const LOK_EVENT: HeaderName = HeaderName::from_static("x-lok-event");
const LOK_TIMESTAMP: HeaderName = HeaderName::from_static("x-lok-timestamp");
const LOK_ATTEMPT: HeaderName = HeaderName::from_static("x-lok-attempt");
const LOK_EVENT_ID: HeaderName = HeaderName::from_static("x-lok-event-id");
const LOK_DELIVERY_ID: HeaderName = HeaderName::from_static("x-lok-delivery-id");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static("Lokroom-Webhooks/1.0");

/// The headers of an attempt that starts at `now`.
///
/// # Errors
/// A value cannot stand in a header: no accepted event has one.
pub(crate) fn headers(
    job: &DeliveryJob,
    attempt: AttemptNumber,
    body: &[u8],
    signer: &Signer,
    now: Timestamp,
) -> Result<HeaderMap, http::header::InvalidHeaderValue> {
    let event_id = HeaderValue::from_str(job.public_id.as_str())?;
    let mut headers = HeaderMap::with_capacity(11);
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(USER_AGENT, AGENT);
    headers.insert(LOK_SIGNATURE, HeaderValue::try_from(signer.lok_signature(body))?);
    headers.insert(LOK_EVENT, HeaderValue::from_static(job.event_type.as_str()));
    headers.insert(LOK_TIMESTAMP, HeaderValue::from_str(&job.timestamp)?);
    headers.insert(LOK_ATTEMPT, HeaderValue::from(attempt.get()));
    headers.insert(LOK_EVENT_ID, event_id.clone());
    headers.insert(LOK_DELIVERY_ID, HeaderValue::try_from(job.delivery.to_string())?);
    headers.insert(WEBHOOK_ID, event_id);
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(now.timestamp()));
    let signature = signer.standard_signature(&job.public_id, now, body);
    headers.insert(WEBHOOK_SIGNATURE, HeaderValue::try_from(signature)?);
    Ok(headers)
}

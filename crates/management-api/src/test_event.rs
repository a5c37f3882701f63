//! Trying a webhook out (guide, *Tester un webhook*).

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use broker::{Message, PublishError};
use bytes::Bytes;
use domain::js::{Object, Value};
use domain::protocol::{Fence, Ticket};
use domain::retry::AttemptNumber;
use domain::timestamp::PublishedTimestamp;
use domain::{DeliveryId, EventId, EventType, UserId, WebhookId, body};
use serde::Serialize;
use serde_json::value::RawValue;
use store::{NewDelivery, NewEvent, StoreError, TestDeliveryError};
use tokio::time::timeout;
use tracing::{info, warn};
use wire::{DeliveryJob, PROTOBUF};

use crate::api::Api;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::database::bounded;
use crate::fields::Fields;
use crate::problem::Problem;
use crate::texts::{JsonType, Reason};
use crate::webhooks::{own_webhook, webhook_id};

/// The event that is sent where none is named.
const DEFAULT_EVENT: EventType = EventType::BookingCreated;

/// The longest wait for the broker: well below a caller's patience.
const PUBLISH_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    success: bool,
    event: &'static str,
    delivery_id: String,
    test_data: Box<RawValue>,
}

/// `POST /api/webhooks/{id}/test`
pub(crate) async fn send(
    Caller(user): Caller,
    body: JsonBody,
    request: HttpRequest,
    api: web::Data<Api>,
) -> Result<HttpResponse, Problem> {
    let event_type = wanted_event(body.object_or_empty()?)?;
    let id = webhook_id(&request)?;
    let webhook = own_webhook(&api, &user, id).await?;
    if !webhook.active {
        return Err(Problem::unprocessable(Reason::WebhookInactive));
    }
    if !webhook.events.contains(&event_type) {
        return Err(Problem::unprocessable(Reason::NotSubscribed { event: event_type.as_str() }));
    }

    let sample = Sample::new(&api, event_type, &user, id)?;
    let answer = sample.answer()?;
    let now = api.clock.now();
    bounded(api.store.create_test_delivery(&user, &sample.event, sample.delivery, api.manual, now)).await?;
    publish(&api, &sample).await?;
    info!(webhook.id = %id, delivery.id = %sample.delivery.id, event = %event_type, "test event sent");
    Ok(HttpResponse::Accepted().json(answer))
}

fn wanted_event(body: Object<'_>) -> Result<EventType, Problem> {
    let mut fields = Fields::new(body, &["event"]);
    let mut event_type = DEFAULT_EVENT;
    if let Some(value) = fields.take("event") {
        match value.as_str().map(str::parse) {
            Some(Ok(named)) => event_type = named,
            Some(Err(_)) => fields.refuse("event", Reason::UnknownEventType),
            None => fields.refuse_type("event", JsonType::String),
        }
    }
    fields.finish()?;
    Ok(event_type)
}

/// A sample event and its one delivery.
struct Sample {
    event: NewEvent,
    delivery: NewDelivery,
    data: Object<'static>,
}

impl Sample {
    fn new(api: &Api, event_type: EventType, user: &UserId, webhook: WebhookId) -> Result<Self, Problem> {
        let now = api.clock.now();
        let timestamp = PublishedTimestamp::at(now);
        let data = body::test_data(event_type);
        let id = EventId::generate(now, &api.random).map_err(StoreError::from)?;
        let event = NewEvent {
            id,
            publisher_id: None,
            event_type,
            recipients: vec![user.clone()],
            timestamp: timestamp.as_str().to_owned(),
            body: Bytes::from(body::build(event_type, &timestamp, &data)),
        };
        let delivery = NewDelivery { id: DeliveryId::of(id, webhook), webhook, event: id, event_type };
        Ok(Self { event, delivery, data })
    }

    fn answer(&self) -> Result<Accepted, Problem> {
        let mut data = String::new();
        Value::Object(self.data.clone()).write(&mut data);
        Ok(Accepted {
            success: true,
            event: self.event.event_type.as_str(),
            delivery_id: self.delivery.id.to_string(),
            test_data: RawValue::from_string(data).map_err(|_| Problem::internal())?,
        })
    }

    fn job(&self, inline_body: usize) -> DeliveryJob {
        DeliveryJob {
            delivery: self.delivery.id,
            webhook: self.delivery.webhook,
            event: self.event.id,
            public_id: self.event.public_id(),
            event_type: self.event.event_type,
            timestamp: self.event.timestamp.clone(),
            ticket: Ticket { attempt: AttemptNumber::FIRST, fence: Fence::FIRST },
            body: (self.event.body.len() <= inline_body).then(|| self.event.body.clone()),
            body_bytes: u32::try_from(self.event.body.len()).unwrap_or(u32::MAX),
        }
    }
}

/// Hands the delivery to the dispatchers. If the broker does not take it, it is ended: the caller is told to try
/// again, and must not get two.
async fn publish(api: &Api, sample: &Sample) -> Result<(), Problem> {
    let job = sample.job(api.inline_body).encode();
    let queue = api.names.of_webhook(sample.delivery.webhook).deliver_queue();
    let message = Message::to_queue(queue, job).content_type(PROTOBUF);
    let published = timeout(PUBLISH_WAIT, api.publisher.publish(message)).await;
    let error = match published {
        Ok(Ok(_confirmed)) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => PublishError::Timeout(PUBLISH_WAIT),
    };
    let delivery = sample.delivery.id;
    warn!(delivery.id = %delivery, %error, "a test event was not published");
    let abandoned = [(delivery, "the test event could not be sent: message broker not available")];
    bounded(api.store.abandon_deliveries(&abandoned)).await?;
    Err(Problem::unavailable())
}

impl From<TestDeliveryError> for Problem {
    fn from(error: TestDeliveryError) -> Self {
        match error {
            // Deleted, turned off or changed between the look at it and now.
            TestDeliveryError::NotTaken => Self::unprocessable(Reason::WebhookInactive),
            TestDeliveryError::TooMany { wait } => Self::too_many(Reason::TooManyTestEvents, wait),
            TestDeliveryError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::FieldError;

    #[test]
    fn the_event_may_be_left_out_and_is_checked() {
        let wanted = |json: &str| {
            let Value::Object(members) = domain::js::parse(json.as_bytes(), 32).unwrap() else { panic!() };
            wanted_event(members)
        };
        assert_eq!(wanted("{}"), Ok(EventType::BookingCreated));
        assert_eq!(wanted(r#"{"event":"payment.failed"}"#), Ok(EventType::PaymentFailed));
        let unknown = vec![FieldError::new("event", Reason::UnknownEventType)];
        assert_eq!(wanted(r#"{"event":"x"}"#), Err(Problem::invalid(unknown)));
        for wrong in [r#"{"event":null}"#, r#"{"event":1}"#, r#"{"type":"booking.created"}"#] {
            assert!(wanted(wrong).is_err(), "{wrong}");
        }
    }
}

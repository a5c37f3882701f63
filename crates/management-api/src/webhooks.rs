//! Developers' webhooks (guide, *Configuration* and *Gestion des webhooks*).

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, LOCATION};
use actix_web::{HttpRequest, HttpResponse, web};
use domain::protocol::LOOK_HOLDS;
use domain::signature::WebhookSecret;
use domain::{EventType, UserId, WebhookId, timestamp};
use serde::{Serialize, Serializer};
use store::{CreateError, Created, Disclosed, IdempotencyKey, NewWebhook, Webhook, WebhookChanges};
use tracing::info;

use crate::api::Api;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::database::bounded;
use crate::problem::{FieldError, Problem};
use crate::query::PageQuery;
use crate::rules::Rules;
use crate::texts::Reason;

/// How long the secret before a regeneration signs along (contract, *Management API*).
const PREVIOUS_SECRET: Duration = Duration::from_hours(24);

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
const IDEMPOTENCY_REPLAYED: &str = "Idempotency-Replayed";
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// A webhook as the guide shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookDocument<'a> {
    id: String,
    url: &'a str,
    events: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<ShownToOwner<'a>>,
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_reason: Option<&'a str>,
    created_at: String,
    updated_at: String,
}

/// A secret on its way to its owner, once: the one place that writes a secret out.
#[derive(Debug)]
struct ShownToOwner<'a>(&'a WebhookSecret);

impl Serialize for ShownToOwner<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose())
    }
}

impl<'a> WebhookDocument<'a> {
    fn without_secret(webhook: &'a Webhook) -> Self {
        Self {
            id: webhook.id.to_string(),
            url: &webhook.url,
            events: webhook.events.iter().copied().map(EventType::as_str).collect(),
            secret: None,
            active: webhook.active,
            description: webhook.description.as_deref(),
            disabled_reason: webhook.disabled_reason.as_deref(),
            created_at: timestamp::format(webhook.created_at),
            updated_at: timestamp::format(webhook.updated_at),
        }
    }

    fn with_secret(disclosed: &'a Disclosed) -> Self {
        Self { secret: Some(ShownToOwner(&disclosed.secret)), ..Self::without_secret(&disclosed.webhook) }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PageDocument<'a> {
    webhooks: Vec<WebhookDocument<'a>>,
    page: u32,
    page_size: u32,
    total: u64,
    page_count: u64,
}

/// `POST /api/webhooks`
pub(crate) async fn create(
    Caller(user): Caller,
    body: JsonBody,
    request: HttpRequest,
    api: web::Data<Api>,
) -> Result<HttpResponse, Problem> {
    let key = idempotency_key(&request)?;
    let wanted = rules(&api).wanted(body.object()?)?;
    let idempotency = key.map(|key| IdempotencyKey {
        key,
        fingerprint: wanted.fingerprint(),
        most: api.idempotency_keys_per_user,
    });
    let now = api.clock.now();
    let new = NewWebhook {
        id: WebhookId::generate(now, &api.random).map_err(store::StoreError::from)?,
        user,
        url: wanted.url,
        events: wanted.events,
        description: wanted.description,
        secret: WebhookSecret::generate(&api.random).map_err(store::StoreError::from)?,
        created_at: now,
    };
    let created = bounded(api.store.create_webhook(new, api.limits.webhooks_per_user, idempotency)).await?;
    let (webhook, secret, replayed) = match created {
        Created::New(Disclosed { webhook, secret }) => {
            info!(webhook.id = %webhook.id, "webhook created");
            (webhook, Some(secret), false)
        }
        Created::Replayed(webhook, secret) => (webhook, secret, true),
    };
    let mut response = HttpResponse::Created();
    response.insert_header((LOCATION, format!("/api/webhooks/{}", webhook.id)));
    response.insert_header((CACHE_CONTROL, "no-store"));
    if replayed {
        response.insert_header((IDEMPOTENCY_REPLAYED, "true"));
    }
    let secret = secret.as_ref().map(ShownToOwner);
    Ok(response.json(WebhookDocument { secret, ..WebhookDocument::without_secret(&webhook) }))
}

/// `GET /api/webhooks`
pub(crate) async fn list(
    Caller(user): Caller,
    PageQuery(page): PageQuery,
    api: web::Data<Api>,
) -> Result<HttpResponse, Problem> {
    let found = bounded(api.store.list_webhooks(&user, page)).await?;
    Ok(HttpResponse::Ok().json(PageDocument {
        webhooks: found.webhooks.iter().map(WebhookDocument::without_secret).collect(),
        page: page.number,
        page_size: page.size,
        total: found.total,
        page_count: found.total.div_ceil(page.size.into()),
    }))
}

/// `GET /api/webhooks/{id}`
pub(crate) async fn show(
    Caller(user): Caller,
    request: HttpRequest,
    api: web::Data<Api>,
) -> Result<HttpResponse, Problem> {
    let webhook = own_webhook(&api, &user, webhook_id(&request)?).await?;
    Ok(HttpResponse::Ok().json(WebhookDocument::without_secret(&webhook)))
}

/// `PUT /api/webhooks/{id}`
pub(crate) async fn update(
    Caller(user): Caller,
    body: JsonBody,
    request: HttpRequest,
    api: web::Data<Api>,
) -> Result<HttpResponse, Problem> {
    // What was sent is checked first, whatever the id is: an id that cannot be must not show by another answer.
    let changes = rules(&api).changes(body.object()?)?;
    let id = webhook_id(&request)?;
    let webhook = if changes == WebhookChanges::default() {
        own_webhook(&api, &user, id).await?
    } else {
        let updated = bounded(api.store.update_webhook(&user, id, changes, api.clock.now())).await?;
        let webhook = updated.ok_or_else(Problem::not_found)?;
        info!(webhook.id = %webhook.id, webhook.active = webhook.active, "webhook changed");
        until_seen().await;
        webhook
    };
    Ok(HttpResponse::Ok().json(WebhookDocument::without_secret(&webhook)))
}

/// `DELETE /api/webhooks/{id}`
pub(crate) async fn delete(
    Caller(user): Caller,
    request: HttpRequest,
    api: web::Data<Api>,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&request)?;
    if !bounded(api.store.delete_webhook(&user, id)).await? {
        return Err(Problem::not_found());
    }
    info!(webhook.id = %id, "webhook deleted");
    until_seen().await;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /api/webhooks/{id}/regenerate-secret`; a body is not looked at.
pub(crate) async fn regenerate_secret(
    Caller(user): Caller,
    request: HttpRequest,
    api: web::Data<Api>,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&request)?;
    let secret = WebhookSecret::generate(&api.random).map_err(store::StoreError::from)?;
    let now = api.clock.now();
    let regenerated = api.store.regenerate_secret(&user, id, &secret, now + PREVIOUS_SECRET, now);
    let disclosed = bounded(regenerated).await?.ok_or_else(Problem::not_found)?;
    info!(webhook.id = %id, "secret regenerated");
    until_seen().await;
    let mut response = HttpResponse::Ok();
    response.insert_header((CACHE_CONTROL, "no-store"));
    Ok(response.json(WebhookDocument::with_secret(&disclosed)))
}

/// Waits until every request that starts follows a change that was committed. What is answered later is true at once.
async fn until_seen() {
    tokio::time::sleep(LOOK_HOLDS + LOOK_HOLDS / 2).await;
}

/// The id in the path. What is no id is as absent as an id of nothing.
pub(crate) fn webhook_id(request: &HttpRequest) -> Result<WebhookId, Problem> {
    request.match_info().query("id").parse().map_err(|_| Problem::not_found())
}

/// One of the caller's webhooks.
pub(crate) async fn own_webhook(api: &Api, user: &UserId, id: WebhookId) -> Result<Webhook, Problem> {
    bounded(api.store.get_webhook(user, id)).await?.ok_or_else(Problem::not_found)
}

fn rules(api: &Api) -> Rules<'_> {
    Rules { urls: &api.urls, limits: api.limits }
}

fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let mut keys = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(key) = keys.next() else { return Ok(None) };
    let invalid = || Problem::invalid(vec![FieldError::new(IDEMPOTENCY_KEY, Reason::IdempotencyKeyInvalid)]);
    let key = key.as_bytes();
    let valid = (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    if !valid || keys.next().is_some() {
        return Err(invalid());
    }
    String::from_utf8(key.to_vec()).map(Some).map_err(|_| invalid())
}

impl From<CreateError> for Problem {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::LimitReached(limit) => {
                Self::new(StatusCode::CONFLICT, Reason::WebhookLimitReached { limit })
            }
            CreateError::KeyReused => Self::unprocessable(Reason::IdempotencyKeyReused),
            CreateError::TooManyKeys { limit, wait } => {
                Self::too_many(Reason::TooManyIdempotencyKeys { limit }, wait)
            }
            CreateError::Store(error) => error.into(),
        }
    }
}

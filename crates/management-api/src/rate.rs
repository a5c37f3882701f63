//! How many requests a user and an address may send.
//!
//! Addresses are counted before anything of a request is looked at, tokens that are not accepted once more for their address, and
//! users once they are known. Counts are of this process alone: with
//! several replicas a user may send as many times more.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue, X_FORWARDED_FOR};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpRequest, web};
use domain::UserId;
use ingress::{Buckets, ForwardedBy, Network, Proxies, Rate, Slot, Slots, Standing, client_address};
use metrics::counter;
use service::settings::{Api as Settings, ProxyHeader};
use tracing::warn;

use crate::api::Api;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::query::items_before;
use crate::texts::Reason;

/// draft-ietf-httpapi-ratelimit-headers-10.
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// When to ask again whose other requests are still under way.
pub(crate) const TURN: Duration = Duration::from_secs(1);

/// What reading costs a user.
const READ: u32 = 1;

/// So many deliveries before a page cost as much as reading: the database passes over each of them.
const ITEMS_PASSED_OVER: u32 = 1000;

/// What changing something costs a user.
const WRITE: u32 = 2;

/// What a test event costs a user: it becomes rows and a request.
const TEST_EVENT: u32 = 5;

/// The limits.
pub(crate) struct Rates {
    users: Buckets,
    turns: Arc<Slots<UserId>>,
    addresses: Buckets,
    refused_tokens: Buckets,
    refused_token_cost: u32,
    proxies: Proxies,
    has_warned: AtomicBool,
}

/// How a caller stands, for the headers of the answer.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// The name of the policy.
    policy: &'static str,
    rate: Rate,
    standing: Standing,
}

impl Rates {
    pub(crate) fn new(settings: &Settings, now: Instant) -> Self {
        let remembered = usize::try_from(settings.remembered).unwrap_or(usize::MAX);
        let buckets = |per_second, burst| Buckets::new(Rate { per_second, burst }, remembered, now);
        Self {
            users: buckets(settings.user_rate, settings.user_burst),
            turns: Slots::new(settings.user_concurrency),
            addresses: buckets(settings.address_rate, settings.address_burst),
            refused_tokens: buckets(settings.address_rate, settings.address_burst),
            // What costs more than a full bucket would never be answered at all.
            refused_token_cost: settings.failed_token_cost.min(settings.address_burst),
            proxies: Proxies {
                networks: settings.trusted_proxies.0.clone(),
                hops: usize::try_from(settings.trusted_hops).unwrap_or(usize::MAX),
                by: match settings.proxy_header {
                    ProxyHeader::XForwardedFor => ForwardedBy::XForwardedFor,
                    ProxyHeader::Forwarded => ForwardedBy::Forwarded,
                },
            },
            has_warned: AtomicBool::new(false),
        }
    }

    fn address(&self, request: &ServiceRequest) -> Network {
        let Some(peer) = request.peer_addr() else { return Network::unknown() };
        let client = client_address(peer.ip(), request.headers(), &self.proxies);
        self.warn_of_proxies(peer.ip(), client, request.headers());
        Network::of(client)
    }

    /// All clients of a proxy that is not known, or that does not name them, share one bucket, and nobody would know why.
    fn warn_of_proxies(&self, peer: IpAddr, client: IpAddr, headers: &HeaderMap) {
        let peer = peer.to_canonical();
        let is_inside = match peer {
            IpAddr::V4(peer) => peer.is_private() || peer.is_loopback(),
            IpAddr::V6(peer) => peer.is_unique_local() || peer.is_loopback(),
        };
        let what = if self.proxies.include(client) {
            "a trusted proxy names no client, or one with the address of a proxy: such clients are limited as if they were one"
        } else if client == peer && is_inside && headers.contains_key(X_FORWARDED_FOR) {
            "a proxy that api.trusted_proxies does not name: its clients are limited as if they were one"
        } else {
            return;
        };
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            warn!(%peer, %client, "{what}");
        }
    }

    /// One more request of a user, until its answer is taken.
    fn turn(&self, user: &UserId) -> Result<Slot<UserId>, Problem> {
        self.turns.take(user.clone()).ok_or_else(|| {
            counter!("http_requests_limited_total", "per" => "user_at_once").increment(1);
            Problem::too_many(Reason::TooManyRequests, TURN)
        })
    }
}

/// The address that a request came from.
#[derive(Debug, Clone, Copy)]
struct Origin(Network);

/// What a request was counted for, for the headers of its answer.
#[derive(Debug, Default)]
struct Counted(Vec<Told>);

impl Counted {
    /// Remembers how a caller stands. Tells why the request is not served, if it is one too many.
    fn note(request: &ServiceRequest, told: Told) -> Option<Problem> {
        let mut extensions = request.extensions_mut();
        if let Some(Self(counted)) = extensions.get_mut() {
            counted.push(told);
        } else {
            extensions.insert(Self(vec![told]));
        }
        told.refusal()
    }
}

/// Counts a request for its address. Tells why it is not served, if its address sent too many.
pub(crate) fn count_address(request: &ServiceRequest, rates: &Rates) -> Option<Problem> {
    let address = rates.address(request);
    request.extensions_mut().insert(Origin(address));
    Counted::note(request, Told::of("address", &rates.addresses, &address, READ))
}

/// Whom limits per address are counted for: see [`count_address`], which comes before.
pub(crate) fn address_of(request: &HttpRequest) -> Network {
    request.extensions().get().map_or_else(Network::unknown, |Origin(address)| *address)
}

/// Counts a token that is not accepted for its address, apart from everything else: whoever sends many of them is refused,
/// and others at the same address, who have good ones, are not.
pub(crate) fn count_refused_token(request: &ServiceRequest, rates: &Rates) -> Option<Problem> {
    let Origin(address) = request.extensions().get().copied()?;
    let cost = rates.refused_token_cost;
    Counted::note(request, Told::of("refused_tokens", &rates.refused_tokens, &address, cost))
}

/// Tells in an answer how its caller stands.
pub(crate) fn tell(response: &mut ServiceResponse<BoxBody>) {
    let counted = response.request().extensions_mut().remove::<Counted>().unwrap_or_default();
    counted.tell(response.headers_mut());
}

/// Counts a request for its user. Whom nobody knows is somebody else's business: see [`Caller`].
pub(crate) async fn limit_user(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let api = request.app_data::<web::Data<Api>>().cloned();
    if let (Some(api), Ok(Caller(user))) = (api, request.extract::<Caller>().await) {
        let turn = match is_page(&request).then(|| api.rates.turn(&user)).transpose() {
            Ok(turn) => turn,
            Err(problem) => return Ok(request.error_response(problem)),
        };
        let told =
            Told::of("user", &api.rates.users, &user, cost(&request).min(api.rates.users.rate().burst));
        if let Some(problem) = Counted::note(&request, told) {
            return Ok(request.error_response(problem));
        }
        let response = next.call(request).await?.map_into_boxed_body();
        return Ok(api.answers.hold(&user, response, turn));
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// The path by which a request finds its handler: `deliverie%73` is written otherwise and is the same.
fn path(request: &ServiceRequest) -> &str {
    request.match_info().as_str()
}

/// Whether a user may make many large answers of it.
fn is_page(request: &ServiceRequest) -> bool {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    is_read && (path(request).ends_with("/deliveries") || path(request).ends_with("/webhooks"))
}

/// What a request costs its user.
fn cost(request: &ServiceRequest) -> u32 {
    match *request.method() {
        Method::GET | Method::HEAD if path(request).ends_with("/deliveries") => {
            READ + items_before(request.query_string()) / ITEMS_PASSED_OVER
        }
        Method::GET | Method::HEAD | Method::OPTIONS => READ,
        Method::POST if path(request).ends_with("/test") => TEST_EVENT,
        _ => WRITE,
    }
}

impl Told {
    /// Counts a request.
    fn of(policy: &'static str, buckets: &Buckets, key: &impl Hash, cost: u32) -> Self {
        Self { policy, rate: buckets.rate(), standing: buckets.take(key, cost, Instant::now()) }
    }

    fn refusal(self) -> Option<Problem> {
        let wait = self.standing.wait?;
        counter!("http_requests_limited_total", "per" => self.policy).increment(1);
        Some(Problem::too_many(Reason::TooManyRequests, wait))
    }

    fn policy(&self) -> String {
        format!("\"{}\";q={};w={}", self.policy, self.rate.burst, whole_seconds(self.rate.window()))
    }

    fn standing(&self) -> String {
        let Standing { left, full_in, .. } = self.standing;
        format!("\"{}\";r={left};t={}", self.policy, whole_seconds(full_in))
    }
}

impl Counted {
    fn tell(&self, headers: &mut HeaderMap) {
        let list = |member: fn(&Told) -> String| self.0.iter().map(member).collect::<Vec<_>>().join(", ");
        for (name, line) in [(RATELIMIT_POLICY, list(Told::policy)), (RATELIMIT, list(Told::standing))] {
            if let Ok(value) = HeaderValue::from_str(&line) {
                headers.insert(name, value);
            }
        }
    }
}

/// Seconds, at least one: whoever waits that long has waited long enough.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_is_told_as_structured_fields() {
        let rate = Rate { per_second: 20, burst: 400 };
        let standing = Standing { wait: None, left: 397, full_in: Duration::from_millis(150) };
        let mut headers = HeaderMap::new();
        let told = ["address", "user"].map(|policy| Told { policy, rate, standing });
        Counted(told.into()).tell(&mut headers);
        assert_eq!(headers.get(RATELIMIT_POLICY).unwrap(), r#""address";q=400;w=20, "user";q=400;w=20"#);
        assert_eq!(headers.get(RATELIMIT).unwrap(), r#""address";r=397;t=1, "user";r=397;t=1"#);
    }

    #[test]
    fn waits_are_rounded_up() {
        let seconds = [0, 1, 1000, 1001].map(|millis| whole_seconds(Duration::from_millis(millis)));
        assert_eq!(seconds, [1, 1, 1, 2]);
    }
}

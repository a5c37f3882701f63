//! How many requests a user and an address may send.
//!
//! Addresses are counted before anything of a request is looked at, so that guessing tokens has a price, and a token that is
//! not accepted costs its address more. Users are counted once they are known. Counts are of this process alone: with
//! several replicas a user may send as many times more.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue, X_FORWARDED_FOR};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, web};
use domain::UserId;
use ingress::{Buckets, ForwardedBy, Network, Rate, Slot, Slots, Standing, client_address};
use ipnet::IpNet;
use metrics::counter;
use service::settings::{Api as Settings, ProxyHeader};
use tracing::warn;

use crate::api::Api;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::texts::Reason;

/// draft-ietf-httpapi-ratelimit-headers-10.
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// When to ask again whose other requests are still under way.
const TURN: Duration = Duration::from_secs(1);

/// What reading costs a user.
const READ: u32 = 1;

/// What changing something costs a user.
const WRITE: u32 = 2;

/// What a test event costs a user: it becomes rows and a request.
const TEST_EVENT: u32 = 5;

/// The limits.
pub(crate) struct Rates {
    users: Buckets,
    turns: Arc<Slots<UserId>>,
    addresses: Buckets,
    failed_token: u32,
    proxies: Vec<IpNet>,
    named_by: ForwardedBy,
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
            failed_token: settings.failed_token_cost,
            proxies: settings.trusted_proxies.0.clone(),
            named_by: match settings.proxy_header {
                ProxyHeader::XForwardedFor => ForwardedBy::XForwardedFor,
                ProxyHeader::Forwarded => ForwardedBy::Forwarded,
            },
            has_warned: AtomicBool::new(false),
        }
    }

    fn address(&self, request: &ServiceRequest) -> Network {
        let Some(peer) = request.peer_addr() else { return Network::unknown() };
        self.warn_of_unknown_proxy(peer.ip(), request.headers());
        Network::of(client_address(peer.ip(), request.headers(), self.named_by, &self.proxies))
    }

    /// All clients of a proxy that is not known would share one bucket, and nobody would know why.
    fn warn_of_unknown_proxy(&self, peer: IpAddr, headers: &HeaderMap) {
        let peer = peer.to_canonical();
        let is_inside = match peer {
            IpAddr::V4(peer) => peer.is_private() || peer.is_loopback(),
            IpAddr::V6(peer) => peer.is_unique_local() || peer.is_loopback(),
        };
        let is_known = self.proxies.iter().any(|proxy| proxy.contains(&peer));
        if is_inside
            && !is_known
            && headers.contains_key(X_FORWARDED_FOR)
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            warn!(%peer, "a proxy that api.trusted_proxies does not name: its clients are limited as if they were one");
        }
    }

    /// One more request of a user, until its answer is taken.
    fn turn(&self, user: &UserId) -> Result<Slot<UserId>, Problem> {
        self.turns.take(user.clone()).ok_or_else(|| {
            counter!("http_requests_limited_total", "per" => "user_at_once").increment(1);
            Problem::too_many(Reason::TooManyRequests, TURN)
        })
    }

    fn user(&self, user: &UserId, cost: u32) -> Told {
        let standing = self.users.take(user, cost, Instant::now());
        Told { policy: "user", rate: self.users.rate(), standing }
    }
}

/// A request that came in, from the address that it came from.
pub(crate) struct Entry {
    api: web::Data<Api>,
    address: Network,
    told: Told,
}

impl Entry {
    /// Counts a request for its address.
    pub(crate) fn of(request: &ServiceRequest, api: web::Data<Api>) -> Self {
        let address = api.rates.address(request);
        let standing = api.rates.addresses.take(&address, READ, Instant::now());
        let told = Told { policy: "address", rate: api.rates.addresses.rate(), standing };
        Self { api, address, told }
    }

    /// Why the request is not served, if its address sent too many.
    pub(crate) fn refusal(&self) -> Option<Problem> {
        self.told.refusal()
    }

    /// Counts a token that was not accepted, and tells in the answer how its caller stands.
    pub(crate) fn leave(&self, response: &mut ServiceResponse<BoxBody>) {
        let (rates, now) = (&self.api.rates, Instant::now());
        if response.status() == StatusCode::UNAUTHORIZED {
            rates.addresses.charge(&self.address, rates.failed_token.saturating_sub(READ), now);
        }
        let of_user = response.request().extensions().get::<Told>().copied();
        of_user.unwrap_or(self.told).tell(response.headers_mut());
    }
}

/// Counts a request for its user. Whom nobody knows is somebody else's business: see [`Caller`].
pub(crate) async fn limit_user(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let api = request.app_data::<web::Data<Api>>().cloned();
    if let (Some(api), Ok(Caller(user))) = (api, request.extract::<Caller>().await) {
        let turn = match api.rates.turn(&user) {
            Ok(turn) => turn,
            Err(problem) => return Ok(request.error_response(problem)),
        };
        let told = api.rates.user(&user, cost(&request));
        request.extensions_mut().insert(told);
        if let Some(problem) = told.refusal() {
            return Ok(request.error_response(problem));
        }
        let response = next.call(request).await?.map_into_boxed_body();
        return Ok(api.answers.hold(response, turn));
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

fn cost(request: &ServiceRequest) -> u32 {
    match *request.method() {
        Method::GET | Method::HEAD | Method::OPTIONS => READ,
        Method::POST if request.path().ends_with("/test") => TEST_EVENT,
        _ => WRITE,
    }
}

impl Told {
    fn refusal(self) -> Option<Problem> {
        let wait = self.standing.wait?;
        counter!("http_requests_limited_total", "per" => self.policy).increment(1);
        Some(Problem::too_many(Reason::TooManyRequests, wait))
    }

    fn tell(self, headers: &mut HeaderMap) {
        let Self { policy, rate, standing } = self;
        let policy_line = format!("\"{policy}\";q={};w={}", rate.burst, whole_seconds(rate.window()));
        let standing_line = format!("\"{policy}\";r={};t={}", standing.left, whole_seconds(standing.full_in));
        for (name, line) in [(RATELIMIT_POLICY, policy_line), (RATELIMIT, standing_line)] {
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
        Told { policy: "user", rate, standing }.tell(&mut headers);
        assert_eq!(headers.get(RATELIMIT_POLICY).unwrap(), r#""user";q=400;w=20"#);
        assert_eq!(headers.get(RATELIMIT).unwrap(), r#""user";r=397;t=1"#);
    }

    #[test]
    fn waits_are_rounded_up() {
        let seconds = [0, 1, 1000, 1001].map(|millis| whole_seconds(Duration::from_millis(millis)));
        assert_eq!(seconds, [1, 1, 1, 2]);
    }
}

//! Who calls.

use std::future::{Ready, ready};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::middleware::Next;
use actix_web::{Error, FromRequest, HttpMessage as _, HttpRequest, web};
use domain::UserId;

use crate::api::Api;
use crate::problem::Problem;
use crate::rate;
use crate::texts::Reason;

/// The user whom the request's bearer token stands for. As a handler's first argument it refuses everybody else
/// before anything of the body is read.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) UserId);

/// What [`identify`] found out.
#[derive(Debug, Clone)]
struct Identified(Result<Caller, Problem>);

/// Finds out who calls, for [`Caller`]. It refuses only whose address sent too many tokens that are not accepted, with one
/// more of them, whatever the path. A layer of its own because a token may have to wait for its key, and an argument that
/// waits would let the ones behind it speak first.
pub(crate) async fn identify(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let caller = caller(request.request()).await;
    if let (Err(reason), Some(api)) = (&caller, request.app_data::<web::Data<Api>>())
        && is_of_a_refused_token(reason)
        && let Some(problem) = rate::count_refused_token(&request, &api.rates)
    {
        return Ok(request.error_response(problem));
    }
    request.extensions_mut().insert(Identified(caller.map_err(refusal)));
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// Whether there is a token and it may be a guess. One that has had its time was good: its owner has to be told, whatever
/// others at the same address send.
fn is_of_a_refused_token(reason: &Reason) -> bool {
    let was_good = matches!(reason, Reason::TokenExpired | Reason::TokenNotYetValid);
    let is_unknown = matches!(reason, Reason::TokenMissing | Reason::TokenKeysUnavailable | Reason::Internal);
    !was_good && !is_unknown
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let identified = request.extensions().get::<Identified>().cloned();
        ready(identified.map_or_else(|| Err(Problem::internal()), |Identified(caller)| caller))
    }
}

async fn caller(request: &HttpRequest) -> Result<Caller, Reason> {
    let Some(api) = request.app_data::<web::Data<Api>>() else { return Err(Reason::Internal) };
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let (Some(header), None) = (headers.next(), headers.next()) else {
        return Err(Reason::TokenMissing);
    };
    let token = header.to_str().ok().and_then(bearer).ok_or(Reason::TokenMissing)?;
    let from = rate::address_of(request);
    api.verifier.verify(token, from, &api.clock).await.map(Caller)
}

/// That a token cannot be judged is not the token's fault: whoever sent it keeps it, and tries again.
fn refusal(reason: Reason) -> Problem {
    let status = match reason {
        Reason::TokenKeysUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::UNAUTHORIZED,
    };
    Problem::new(status, reason)
}

/// The token of a `Bearer` header; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_behind_its_scheme() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for header in ["", "Bearer", "Bearer ", "Basic abc", "abc", " Bearer abc", "Bearer\tabc", "Bearerabc"]
        {
            assert_eq!(bearer(header), None, "{header}");
        }
    }
}

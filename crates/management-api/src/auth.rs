//! Who calls.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{FromRequest, HttpRequest, web};
use domain::UserId;

use crate::api::Api;
use crate::problem::Problem;
use crate::texts::Reason;

/// The user whom the request's bearer token stands for. As a handler's first argument it refuses everybody else
/// before anything of the body is read.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) UserId);

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(caller(request).map_err(|reason| Problem::new(StatusCode::UNAUTHORIZED, reason)))
    }
}

fn caller(request: &HttpRequest) -> Result<Caller, Reason> {
    let Some(api) = request.app_data::<web::Data<Api>>() else { return Err(Reason::Internal) };
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let (Some(header), None) = (headers.next(), headers.next()) else {
        return Err(Reason::TokenMissing);
    };
    let token = header.to_str().ok().and_then(bearer).ok_or(Reason::TokenMissing)?;
    api.verifier.verify(token, api.clock.now()).map(Caller)
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
        for header in ["", "Bearer", "Bearer ", "Basic abc", "abc"] {
            assert_eq!(bearer(header), None, "{header}");
        }
    }
}

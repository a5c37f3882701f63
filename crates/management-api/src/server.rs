//! The HTTP server: its limits and its routes.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::{App, Resource, Route, guard, web};
use ingress::Bounds;
use service::settings::Api as Settings;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::auth::identify;
use crate::observe::observe;
use crate::problem::Problem;
use crate::rate::limit_user;
use crate::routes::{Call, PATHS, Path};
use crate::{deliveries, event_types, test_event, webhooks};

/// The port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; api.listen (LOK__API__LISTEN) sets another address")]
pub(crate) struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Binds the port. The server answers once it is awaited or spawned, and stops through its handle, giving requests
/// under way at most `grace`. Answers after `stopping` close their connections.
pub(crate) fn bind(
    api: web::Data<Api>,
    grace: Duration,
    stopping: CancellationToken,
) -> Result<(Server, SocketAddr), ListenError> {
    let (address, bounds) = (api.http.listen.0, bounds(&api.http, grace));
    let stopping = web::Data::new(stopping);
    let (server, bound) = ingress::listen(address, &bounds, move || {
        App::new()
            .app_data(api.clone())
            .app_data(stopping.clone())
            .configure(routes)
            .default_service(web::to(async || Err::<&'static str, _>(Problem::not_found())))
            .wrap(from_fn(limit_user))
            .wrap(from_fn(identify))
            .wrap(from_fn(observe))
    })
    .map_err(|source| ListenError { address, source })?;
    Ok((server, bound))
}

fn bounds(settings: &Settings, grace: Duration) -> Bounds {
    let many = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Bounds {
        workers: many(settings.workers),
        connections: many(settings.max_connections),
        connections_per_address: settings.connections_per_address,
        proxies: settings.trusted_proxies.0.clone(),
        head_bytes: settings.head_limit.0,
        head_timeout: settings.request_timeout.0,
        idle_timeout: settings.idle_timeout.0,
        answer_timeout: settings.answer_timeout.0,
        write_timeout: settings.write_timeout.0,
        grace,
    }
}

fn routes(config: &mut web::ServiceConfig) {
    for path in PATHS {
        config.service(resource(path));
    }
}

/// A path that refuses other methods than its own by naming those.
fn resource(path: &Path) -> Resource {
    let methods = path.calls.iter().map(|(method, _)| if *method == "GET" { "GET, HEAD" } else { method });
    let allow = methods.collect::<Vec<_>>().join(", ");
    let refuse = move || {
        let problem = Problem::method_not_allowed(allow.clone());
        async move { Err::<&'static str, _>(problem) }
    };
    let resource = web::resource(path.pattern).default_service(Route::new().to(refuse));
    path.calls.iter().fold(resource, |resource, (method, call)| {
        let route = match *method {
            "GET" => web::route().guard(guard::Any(guard::Get()).or(guard::Head())),
            other => {
                web::route().guard(guard::fn_guard(move |request| request.head().method.as_str() == other))
            }
        };
        resource.route(handled(*call, route))
    })
}

fn handled(call: Call, route: Route) -> Route {
    match call {
        Call::ListWebhooks => route.to(webhooks::list),
        Call::CreateWebhook => route.to(webhooks::create),
        Call::ShowWebhook => route.to(webhooks::show),
        Call::UpdateWebhook => route.to(webhooks::update),
        Call::DeleteWebhook => route.to(webhooks::delete),
        Call::RegenerateSecret => route.to(webhooks::regenerate_secret),
        Call::SendTestEvent => route.to(test_event::send),
        Call::ListDeliveries => route.to(deliveries::list),
        Call::ListEventTypes => route.to(event_types::list),
    }
}

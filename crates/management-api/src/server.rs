//! The HTTP server: its limits and its routes.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, Resource, Route, guard, web};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::observe::observe;
use crate::problem::Problem;
use crate::{deliveries, event_types, test_event, webhooks};

/// How long a connection without requests is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

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
    let settings = api.http.clone();
    let address = settings.listen.0;
    let stopping = web::Data::new(stopping);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(api.clone())
            .app_data(stopping.clone())
            .configure(routes)
            .default_service(web::to(async || Err::<&'static str, _>(Problem::not_found())))
            .wrap(from_fn(observe))
    })
    .workers(usize::try_from(settings.workers).unwrap_or(1))
    .max_connections(usize::try_from(settings.max_connections).unwrap_or(usize::MAX))
    .client_request_timeout(settings.request_timeout.0)
    .keep_alive(KEEP_ALIVE)
    .shutdown_timeout(grace.as_secs())
    .disable_signals()
    .bind(address)
    .map_err(|source| ListenError { address, source })?;
    let bound = server.addrs().first().copied().unwrap_or(address);
    Ok((server.run(), bound))
}

fn routes(config: &mut web::ServiceConfig) {
    let get = || web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
    let get_put_delete: &[Method] = &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE];
    let get_post: &[Method] = &[Method::GET, Method::HEAD, Method::POST];
    let (get_only, post_only): (&[Method], &[Method]) = (&[Method::GET, Method::HEAD], &[Method::POST]);

    config
        .service(
            resource("/api/webhooks", get_post)
                .route(get().to(webhooks::list))
                .route(web::post().to(webhooks::create)),
        )
        .service(
            resource("/api/webhooks/{id}", get_put_delete)
                .route(get().to(webhooks::show))
                .route(web::put().to(webhooks::update))
                .route(web::delete().to(webhooks::delete)),
        )
        .service(
            resource("/api/webhooks/{id}/regenerate-secret", post_only)
                .route(web::post().to(webhooks::regenerate_secret)),
        )
        .service(resource("/api/webhooks/{id}/test", post_only).route(web::post().to(test_event::send)))
        .service(resource("/api/webhooks/{id}/deliveries", get_only).route(get().to(deliveries::list)))
        .service(resource("/api/event-types", get_only).route(get().to(event_types::list)));
}

/// A path that refuses other methods than these by naming them.
fn resource(path: &str, methods: &[Method]) -> Resource {
    let allow = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let refuse = move || {
        let problem = Problem::method_not_allowed(allow.clone());
        async move { Err::<&'static str, _>(problem) }
    };
    web::resource(path).default_service(Route::new().to(refuse))
}

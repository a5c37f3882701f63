//! `/healthz`, `/readyz` and `/metrics` for operators.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, web};
use ingress::Bounds;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::readiness::Readiness;
use crate::telemetry;

/// The port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; admin.listen (LOK__ADMIN__LISTEN) sets another address")]
pub struct AdminError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Starts the admin server: `/healthz` answers while the process lives, `/readyz` 200 or 503 with each check's
/// state, `/metrics` in Prometheus' text format. The handle stops it; the address is the one that was bound,
/// which tells the port where `address` left it to the system (port 0).
pub fn start(
    address: SocketAddr,
    readiness: Readiness,
    metrics: PrometheusHandle,
) -> Result<(ServerHandle, SocketAddr), AdminError> {
    let (server, bound) = ingress::listen(address, &bounds(), move || {
        App::new()
            .app_data(web::Data::new(readiness.clone()))
            .app_data(web::Data::new(metrics.clone()))
            .route("/healthz", web::get().to(async || HttpResponse::Ok().body("ok\n")))
            .route("/readyz", web::get().to(readyz))
            .route("/metrics", web::get().to(render_metrics))
    })
    .map_err(|source| AdminError { address, source })?;
    let handle = server.handle();
    tokio::spawn(server);
    Ok((handle, bound))
}

/// For a few who ask now and then, all of them ours.
fn bounds() -> Bounds {
    const CONNECTIONS: u16 = 64;
    const PATIENCE: Duration = Duration::from_secs(5);
    Bounds {
        workers: 1,
        connections: CONNECTIONS.into(),
        connections_per_address: CONNECTIONS.into(),
        proxies: Vec::new(),
        head_bytes: 16 * 1024,
        head_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        answer_timeout: PATIENCE,
        write_timeout: PATIENCE,
        grace: Duration::from_secs(1),
    }
}

async fn readyz(readiness: web::Data<Readiness>) -> HttpResponse {
    let (ready, checks) = readiness.report();
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    let body = serde_json::json!({ "ready": ready, "checks": checks });
    response.content_type("application/json").body(body.to_string())
}

async fn render_metrics(metrics: web::Data<PrometheusHandle>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(telemetry::render(&metrics))
}

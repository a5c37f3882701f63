//! Events that come over HTTP: `POST /v1/events`.

mod auth;
mod body;
mod events;
mod items;
mod problem;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, web};
use anyhow::Context as _;
use domain::event::AcceptedEvent;
use group_commit::GroupCommit;
use ingress::Bounds;
use service::{Settings, Shutdown};
use tokio::time::{Instant, timeout_at};
use tracing::info;

use crate::decode::Decoder;
use crate::http::auth::{Tokens, TokensError};
use crate::http::body::{BodyBudget, Share};
use crate::http::problem::Problem;
use crate::pipeline::{Pipeline, Receipt, to_store};
use crate::turns::Turns;

/// Groups of events being made durable at once.
const CONCURRENT_GROUPS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// Events that may wait for a group; their bytes are bounded by [`BodyBudget`].
const WAITING: NonZeroUsize = NonZeroUsize::new(2000).unwrap();

/// Threads that serve requests. They check events; the database and the broker are waited for elsewhere.
const WORKERS: usize = 2;

/// Connections at once, of all threads.
pub(crate) const OPEN_CONNECTIONS: u64 = (WORKERS * MAX_CONNECTIONS) as u64;

/// Connections at once, per thread.
const MAX_CONNECTIONS: usize = 512;

/// The longest wait for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest head of a request.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The longest that a client takes to read its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Events of all requests on their way to be durable; `None` is the answer when they were not in time.
type Intake = GroupCommit<Waiting, Option<Receipt>>;

/// An event on its way to be durable.
struct Waiting {
    event: AcceptedEvent,
    /// When its request is answered at the latest.
    deadline: Instant,
    /// The memory of its request's body, which counts as taken until the last of the request's events is out of it: also
    /// after the request was answered.
    share: Share,
}

/// What requests are served with.
struct Endpoint {
    tokens: Option<Tokens>,
    intake: Intake,
    decoder: Decoder,
    bodies: BodyBudget,
    max_events: usize,
    time_limit: Duration,
}

/// The server that takes events. Stop it before the process ends.
pub(crate) struct Server(ServerHandle);

impl Server {
    /// Takes no more connections, and waits for the requests under way.
    pub(crate) async fn stop(self) {
        self.0.stop(true).await;
    }
}

/// Checks the tokens before anything is started.
pub(crate) fn check(settings: &Settings) -> Result<(), TokensError> {
    Tokens::configured(settings.ingest.token.as_ref()).map(drop)
}

/// Starts the server.
///
/// # Errors
/// The address cannot be bound, or a token is not usable.
pub(crate) fn start(
    settings: &Settings,
    pipeline: Pipeline,
    decoder: Decoder,
    turns: &Turns,
    shutdown: &Shutdown,
) -> anyhow::Result<Server> {
    let ingest = &settings.ingest;
    let time_limit = ingest.http_timeout.0;
    let endpoint = Arc::new(Endpoint {
        tokens: Tokens::configured(ingest.token.as_ref())?,
        intake: intake(pipeline, ingest.batch_events, turns.clone(), shutdown),
        decoder,
        bodies: BodyBudget::new(ingest.http_body_limit.0),
        max_events: ingest.http_max_events as usize,
        time_limit,
    });

    let address = ingest.listen.0;
    let (server, bound) = ingress::listen(address, &bounds(time_limit, shutdown.draining()), move || {
        let events = web::resource("/v1/events")
            .route(web::post().to(events::post))
            .default_service(web::to(async || Problem::MethodNotAllowed));
        App::new()
            .app_data(web::Data::from(endpoint.clone()))
            .service(events)
            .default_service(web::to(async || Problem::NotFound))
    })
    .with_context(|| {
        format!("cannot listen on {address}; ingest.listen (LOK__INGEST__LISTEN) sets another address")
    })?;
    info!(address = %bound, "listening");
    let handle = server.handle();
    tokio::spawn(server);
    Ok(Server(handle))
}

/// What connections may be. The requests' own time limit ends before the server's does.
fn bounds(time_limit: Duration, grace: Duration) -> Bounds {
    Bounds {
        workers: WORKERS,
        connections: MAX_CONNECTIONS,
        // Internal services may come through one proxy.
        connections_per_address: u32::MAX,
        proxies: Vec::new(),
        head_bytes: MAX_HEAD_BYTES,
        head_timeout: HEAD_TIMEOUT,
        idle_timeout: KEEP_ALIVE,
        answer_timeout: time_limit + HEAD_TIMEOUT,
        write_timeout: WRITE_TIMEOUT,
        grace,
    }
}

/// Makes the events of all requests durable in groups. Those whose requests were answered while they waited are left:
/// the publisher was told to publish them again.
fn intake(pipeline: Pipeline, batch_events: u32, turns: Turns, shutdown: &Shutdown) -> Intake {
    let group = NonZeroUsize::new(batch_events as usize).unwrap_or(NonZeroUsize::MIN);
    let bounds = group_commit::Bounds { waiting: WAITING, group, concurrent_groups: CONCURRENT_GROUPS };
    GroupCommit::start(bounds, shutdown.tasks(), move |waiting: Vec<Waiting>| {
        let (pipeline, going) = (pipeline.clone(), turns.go_first(waiting.len()));
        async move {
            let _going = going;
            let now = Instant::now();
            let is_wanted: Vec<_> = waiting.iter().map(|it| it.deadline > now).collect();
            let deadline = waiting.iter().map(|it| it.deadline).max().unwrap_or(now);
            let wanted = waiting.into_iter().filter(|it| it.deadline > now);
            let (wanted, shares): (Vec<_>, Vec<_>) = wanted.map(|it| (to_store(it.event), it.share)).unzip();
            let taken = timeout_at(deadline, pipeline.take(&wanted)).await;
            drop(wanted);
            drop(shares);
            let receipts = taken.ok().and_then(Result::ok).map(|(receipts, _confirmed)| receipts);
            let mut receipts = receipts.unwrap_or_default().into_iter();
            is_wanted.into_iter().map(|is_wanted| if is_wanted { receipts.next() } else { None }).collect()
        }
    })
}

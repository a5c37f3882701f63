//! A third-party developer's endpoint that does what the test tells it.

mod connection;
mod reply;
mod request;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::eventually::DEADLINE;

pub use reply::{Gate, Reply};
pub use request::Request;

/// Requests one receiver records; more are a mistake of the test.
const MAX_REQUESTS: usize = 200_000;

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

/// An HTTP/1.1 server on 127.0.0.1 that records every request as it came over the wire, answers as told (200 unless
/// told otherwise), and is gone when dropped.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&self.address).finish()
    }
}

struct Shared {
    state: Mutex<State>,
    /// The number of requests recorded.
    recorded: watch::Sender<usize>,
}

struct State {
    /// Whether requests are kept.
    records: bool,
    requests: Vec<Request>,
    /// How many [`Receiver::expect_request`] has given out.
    expected: usize,
    next: VecDeque<Reply>,
    script: Arc<Script>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Lists are whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request and decides on its answer.
    fn take(&self, request: Request) -> Reply {
        let mut state = self.lock();
        if state.requests.len() >= MAX_REQUESTS {
            return Reply::status(507);
        }
        let reply = state.next.pop_front().unwrap_or_else(|| (state.script.clone())(&request));
        if !state.records {
            return reply;
        }
        state.requests.push(request);
        self.recorded.send_replace(state.requests.len());
        reply
    }
}

impl Receiver {
    /// Starts listening on a port that the system chooses.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = State {
            records: true,
            requests: Vec::new(),
            expected: 0,
            next: VecDeque::new(),
            script: Arc::new(|_| Reply::status(200)),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), recorded: watch::Sender::new(0) });
        let server = tokio::spawn(serve(listener, shared.clone()));
        Self { address, shared, server }
    }

    /// The URL of a path (`/hook`) on this receiver.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers every request like this from now on.
    pub fn answer(&self, reply: Reply) {
        self.answer_with(move |_| reply.clone());
    }

    /// Answers the next request like this, before anything else; several calls are a script.
    pub fn answer_next(&self, reply: Reply) {
        self.shared.lock().next.push_back(reply);
    }

    /// Lets a function decide from now on.
    pub fn answer_with(&self, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        self.shared.lock().script = Arc::new(script);
    }

    /// Keeps no request from now on: for more than fit into memory, which the function of
    /// [`Receiver::answer_with`] sees and keeps what it needs of.
    pub fn record_nothing(&self) {
        self.shared.lock().records = false;
    }

    /// Every request so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// Every request to a path so far, in the order of arrival.
    pub fn requests_to(&self, path: &str) -> Vec<Request> {
        self.shared.lock().requests.iter().filter(|request| request.target == path).cloned().collect()
    }

    /// The next request that no call of this has given out yet, within [`DEADLINE`].
    pub async fn expect_request(&self) -> Request {
        self.expect_request_within(DEADLINE).await
    }

    /// The next request that no call of this has given out yet.
    pub async fn expect_request_within(&self, deadline: Duration) -> Request {
        let index = {
            let mut state = self.shared.lock();
            state.expected += 1;
            state.expected - 1
        };
        self.wait_for(index + 1, deadline).await;
        self.shared.lock().requests[index].clone()
    }

    /// Waits until there were `count` requests, within [`DEADLINE`], and returns all.
    pub async fn until(&self, count: usize) -> Vec<Request> {
        self.until_within(count, DEADLINE).await
    }

    /// Waits until there were `count` requests and returns all.
    pub async fn until_within(&self, count: usize, deadline: Duration) -> Vec<Request> {
        self.wait_for(count, deadline).await;
        self.requests()
    }

    async fn wait_for(&self, count: usize, deadline: Duration) {
        let mut recorded = self.shared.recorded.subscribe();
        let enough = recorded.wait_for(|recorded| *recorded >= count);
        if timeout_at(Instant::now() + deadline, enough).await.is_err() {
            let requests = self.requests();
            let newest = requests.iter().rev().take(20).rev();
            let lines: Vec<_> = newest.map(|request| format!("  {}", request.summary())).collect();
            panic!(
                "{} of {count} requests came to {} within {deadline:?}; the newest are:\n{}",
                requests.len(),
                self.address,
                lines.join("\n"),
            );
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let shared = shared.clone();
                    connections.spawn(connection::serve(stream, move |request| shared.take(request)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

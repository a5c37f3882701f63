//! A stack under a fault: what has to hold during it and after it, whichever it is.

use std::time::Duration;

use domain::EventType::BookingCreated;
use serde_json::Value;
use testkit::receiver::Gate;
use testkit::{
    DEADLINE, Event, HttpClient, Receiver, Reply, Service, Stack, StackBuilder, Webhook, eventually_ok,
};
use tokio::time::Instant;

use crate::support::{by_event_id, settled};

/// The longest that a service may take to notice that a server is back.
const RECOVERY: Duration = Duration::from_secs(30);

/// The longest wait of an HTTP request for its events to be durable.
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);

/// The most of a processor that a service may take that has nothing to do but to try again. An unoptimised build with
/// eight connections to lose takes some.
const CPU_SHARE: f64 = 0.2;

/// Lines of warning that a fault may cost a service, however long it lasts and however much is under way: one for each
/// connection, consumer, publisher and check that changed its state.
const WARNINGS: usize = 15;

/// A stack with a webhook, what was published to it, and what its services have said and used so far.
pub(crate) struct Trial {
    pub(crate) stack: Stack,
    pub(crate) receiver: Receiver,
    pub(crate) webhook: Webhook,
    published: usize,
    warnings: Vec<usize>,
}

/// What services have used since they were looked at.
pub(crate) struct Effort {
    since: Instant,
    cpu: Vec<Duration>,
}

impl Trial {
    /// One process of each service, impatient ones.
    pub(crate) fn builder() -> StackBuilder {
        Stack::builder()
            .env("LOK__INGEST__HTTP_TIMEOUT", "2s")
            .env("LOK__DATABASE__ACQUIRE_TIMEOUT", "3s")
            .env("LOK__DATABASE__CONNECT_TIMEOUT", "3s")
            .env("LOK__AMQP__PUBLISH_TIMEOUT", "2s")
            .env("LOK__AMQP__CONNECT_TIMEOUT", "3s")
            .env("LOK__AMQP__HEARTBEAT", "1s")
    }

    pub(crate) async fn start(builder: StackBuilder) -> Self {
        let mut stack = builder.start().await;
        let receiver = Receiver::start().await;
        let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
        let warnings = stack.services().map(|service| warnings(service).len()).collect();
        let mut trial = Self { stack, receiver, webhook, published: 0, warnings };
        // What works has been seen to work.
        trial.publish(20).await;
        trial.all_are_delivered().await;
        trial
    }

    /// How many events were published.
    pub(crate) fn published(&self) -> usize {
        self.published
    }

    /// The next events, not published yet.
    fn next_events(&mut self, count: usize) -> Vec<Event> {
        let from = self.published;
        self.published += count;
        (from..self.published)
            .map(|n| Event::example(BookingCreated).to("user_1").id(format!("event-{n}")))
            .collect()
    }

    /// Publishes events over AMQP, past the proxies, until they are confirmed.
    pub(crate) async fn publish(&mut self, count: usize) {
        let events = self.next_events(count);
        self.stack.publish_all(&events).await;
    }

    /// Publishes an event over HTTP again and again until it is taken; gives the answers before that.
    pub(crate) async fn publish_over_http(&mut self) -> Vec<Value> {
        let body = self.next_events(1)[0].to_json();
        let ingest = self.stack.ingest();
        let mut refusals = Vec::new();
        eventually_ok("the event is taken over HTTP", RECOVERY, async || {
            let answer = ingest.post_text("/v1/events", body.clone()).await;
            if answer.status == 202 {
                return Ok(());
            }
            refusals.push(answer.json());
            Err(answer.text())
        })
        .await;
        refusals
    }

    /// Over HTTP nothing is taken, and that is said in time, with the time to come again.
    pub(crate) async fn expect_back_pressure(&self) {
        let body = Event::example(BookingCreated).to("user_2").to_json();
        let ingest = self.stack.ingest();
        let asking = (0..20).map(|_| async {
            let start = Instant::now();
            let answer = ingest.post_text("/v1/events", body.clone()).await.expect(503);
            assert!(start.elapsed() < HTTP_TIMEOUT * 2, "{:?}", start.elapsed());
            assert!(
                answer.header("retry-after").is_some_and(|value| value.parse::<u32>().is_ok()),
                "{answer:?}"
            );
            assert_eq!(answer.json()["code"], "unavailable");
        });
        futures_util::future::join_all(asking).await;
    }

    /// Publishes events whose requests are then on the wire until the gate opens; answered with `status`.
    pub(crate) async fn with_requests_on_the_wire(&mut self, count: usize, status: u16) -> Gate {
        let gate = Gate::default();
        for _ in 0..count {
            self.receiver.answer_next(Reply::status(status).when_open(&gate));
        }
        let before = self.receiver.requests().len();
        self.publish(count).await;
        self.receiver.until(before + count).await;
        gate
    }

    /// Waits until event-ingest and dispatchers are not ready, `check` being what they say why.
    pub(crate) async fn expect_not_ready(&mut self, check: &str) {
        for service in self.stack.ingests.iter_mut().chain(&mut self.stack.dispatchers) {
            expect_not_ready(service, check).await;
        }
    }

    /// Waits until event-ingest says that what it has does not get through: the database may answer, but takes nothing.
    pub(crate) async fn expect_events_stuck(&mut self) {
        expect_not_ready(&mut self.stack.ingests[0], "events get through").await;
    }

    /// Waits until the dispatcher says that what it has does not get through.
    pub(crate) async fn expect_deliveries_stuck(&mut self) {
        expect_not_ready(&mut self.stack.dispatchers[0], "deliveries get through").await;
    }

    /// Waits until every service is ready by itself.
    pub(crate) async fn expect_ready(&mut self) {
        for service in self.stack.services() {
            service.wait_ready(RECOVERY).await;
        }
    }

    pub(crate) fn effort(&mut self) -> Effort {
        Effort { since: Instant::now(), cpu: self.stack.services().map(|service| cpu(service)).collect() }
    }

    /// Lets the fault last for so long after services were looked at; none may be busy meanwhile.
    pub(crate) async fn expect_calm(&mut self, effort: Effort, time: Duration) {
        tokio::time::sleep_until(effort.since + time).await;
        let elapsed = effort.since.elapsed();
        for (service, before) in self.stack.services().zip(effort.cpu) {
            let used = cpu(service).saturating_sub(before);
            let share = used.as_secs_f64() / elapsed.as_secs_f64();
            assert!(
                share < CPU_SHARE,
                "{} used {used:?} of {elapsed:?} while there was nothing to do",
                service.name()
            );
        }
    }

    /// Waits until everything published is delivered.
    pub(crate) async fn all_are_delivered(&self) {
        settled(&self.stack, &self.webhook, self.published as u64).await;
        let requests = self.receiver.requests();
        assert_eq!(by_event_id(&requests).len(), self.published, "an event was lost");
    }

    /// After the fault: what was published is delivered, and new events are; nothing was set aside, and few words were
    /// made.
    pub(crate) async fn expect_recovered(&mut self) {
        self.expect_recovered_from(1).await;
    }

    /// The same after several faults.
    pub(crate) async fn expect_recovered_from(&mut self, faults: usize) {
        self.expect_ready().await;
        self.publish(20).await;
        let _ = self.publish_over_http().await;
        self.all_are_delivered().await;
        let rejected = self.stack.queues().names().rejected_queue();
        assert_eq!(self.stack.depth(&rejected).await, 0, "a message was set aside");
        for (service, before) in self.stack.services().zip(&self.warnings) {
            let lines = warnings(service).split_off(*before);
            assert!(
                lines.len() <= WARNINGS * faults,
                "{} warned too often:\n{}",
                service.name(),
                lines.join("\n")
            );
        }
    }
}

async fn expect_not_ready(service: &mut Service, check: &str) {
    let url = format!("{}/readyz", service.admin_url().await);
    let what = format!("{} is not ready: {check}", service.name());
    eventually_ok(&what, DEADLINE, async || {
        let answer = HttpClient::default().get(&url).await;
        let reason = answer.json()["checks"][check].as_str().unwrap_or("pass").to_owned();
        if answer.status == 503 && reason != "pass" { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

/// The lines that an operator would look at.
fn warnings(service: &Service) -> Vec<String> {
    let lines = service.log_lines();
    let is_warning = |line: &Value| line["level"] == "WARN" || line["level"] == "ERROR";
    lines.into_iter().filter(is_warning).map(|line| line.to_string()).collect()
}

/// The processor time that a process has used.
fn cpu(service: &Service) -> Duration {
    /// Linux counts in hundredths of a second for user space, whatever the kernel's own tick.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", service.pid())).expect("the process runs");
    // After the name, which may hold anything, in brackets: state is field 3, utime 14 and stime 15.
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks =
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u32>().expect("a number"));
    TICK * ticks.sum::<u32>()
}

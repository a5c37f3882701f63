//! Receivers that succeed, fail, hang and reset, and remember what came.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use chrono::DateTime;
use domain::signature::{Signer, WebhookSecret};
use domain::{PublicEventId, Timestamp};
use testkit::{Receiver, Reply, Request};

use crate::world::{EventPlan, Manner, mix};

/// What a receiver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This status, and the arrival's number in the body.
    Status(u16),
    /// Nothing, until the sender gave up.
    Nothing,
    /// The connection was reset.
    Reset,
}

/// A request that came to a receiver.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// Unique; the answer's body tells it.
    pub(crate) number: u64,
    /// To which of the webhooks.
    pub(crate) webhook: usize,
    /// When it was complete.
    pub(crate) at: Timestamp,
    /// `X-Lok-Event-Id`.
    pub(crate) event: String,
    /// `X-Lok-Delivery-Id`.
    pub(crate) delivery: String,
    /// `X-Lok-Attempt`.
    pub(crate) attempt: u32,
    /// What it was answered.
    pub(crate) answer: Answer,
    /// What is wrong with the request itself: headers, body, signatures.
    pub(crate) wrong: Option<String>,
}

/// Everything that came, to whichever receiver.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<Vec<Arrival>>>);

impl Inbox {
    /// A copy of what came so far, in the order of arrival.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.lock().clone()
    }

    /// How many requests came so far.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arrival>> {
        // Lists are whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiver of one webhook.
#[derive(Debug)]
pub(crate) struct WebhookReceiver {
    receiver: Receiver,
    signer: Arc<OnceLock<Signer>>,
}

impl WebhookReceiver {
    /// Starts to listen for the webhook with this index.
    pub(crate) async fn start(seed: u64, webhook: usize, manner: Manner, inbox: Inbox) -> Self {
        let receiver = Receiver::start().await;
        let signer: Arc<OnceLock<Signer>> = Arc::default();
        let known = signer.clone();
        receiver.record_nothing();
        receiver.answer_with(move |request| take(request, seed, webhook, manner, known.get(), &inbox));
        Self { receiver, signer }
    }

    /// Where the webhook's requests go.
    pub(crate) fn url(&self) -> String {
        self.receiver.url("/hook")
    }

    /// Learns the webhook's secret, which is there once the webhook is.
    pub(crate) fn know(&self, secret: &WebhookSecret) {
        let _ = self.signer.set(Signer::new(secret, None));
    }
}

fn take(
    request: &Request,
    seed: u64,
    webhook: usize,
    manner: Manner,
    signer: Option<&Signer>,
    inbox: &Inbox,
) -> Reply {
    let header = |name| request.header(name).unwrap_or_default().to_owned();
    let (event, attempt) = (header("x-lok-event-id"), header("x-lok-attempt").parse().unwrap_or(0));
    let number_of_event = number_of(&event, seed);
    let dice = mix(&[seed, number_of_event.unwrap_or(u64::MAX), webhook as u64, u64::from(attempt)]);
    let (answer, delay) = behave(manner, dice);
    let wrong = check(request, seed, number_of_event, signer).err();

    let mut arrivals = inbox.lock();
    let number = arrivals.len() as u64;
    let delivery = header("x-lok-delivery-id");
    let at = request.arrived_at;
    arrivals.push(Arrival { number, webhook, at, event, delivery, attempt, answer, wrong });
    match answer {
        Answer::Status(status) => {
            let body = serde_json::json!({ "arrival": number }).to_string();
            Reply::status(status).header("content-type", "application/json").body(body).after(delay)
        }
        Answer::Nothing => Reply::hang(),
        Answer::Reset => Reply::reset(),
    }
}

/// What a receiver of this manner does, and after which time.
fn behave(manner: Manner, dice: u64) -> (Answer, Duration) {
    const ERRORS: [u16; 6] = [500, 503, 429, 404, 400, 302];
    let percent = dice % 100;
    // Some take their time, so that faults find requests on the wire.
    let delay = if (dice >> 8).is_multiple_of(8) { Duration::from_millis(300) } else { Duration::ZERO };
    let answer = match manner {
        Manner::Fails if percent < 35 => Answer::Status(ERRORS[(dice >> 16) as usize % ERRORS.len()]),
        Manner::Hangs if percent < 25 => Answer::Nothing,
        Manner::Resets if percent < 35 => Answer::Reset,
        Manner::Succeeds | Manner::Fails | Manner::Hangs | Manner::Resets => Answer::Status(200),
    };
    (answer, delay)
}

/// The number of one of this run's events, by its id.
fn number_of(event: &str, seed: u64) -> Option<u64> {
    event.strip_prefix(&format!("chaos-{seed}-"))?.parse().ok()
}

/// Whether the request is the event's, signed as the guide says and as Standard Webhooks says.
fn check(request: &Request, seed: u64, number: Option<u64>, signer: Option<&Signer>) -> Result<(), String> {
    let number = number.ok_or("no event of this run")?;
    let event = EventPlan::of(seed, number);
    let signer = signer.ok_or("came before the webhook was answered")?;
    let header = |name: &str| request.header(name).ok_or_else(|| format!("{name} is not there once"));
    let same = |name: &str, expected: &str| match header(name)? {
        found if found == expected => Ok(()),
        found => Err(format!("{name} is `{found}`, not `{expected}`")),
    };
    if request.body != event.body() {
        return Err("the body is not the event's".to_owned());
    }
    same("x-lok-event", event.event_type.as_str())?;
    same("x-lok-signature", &signer.lok_signature(&request.body))?;
    let at =
        header("webhook-timestamp")?.parse().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let at: Timestamp = at.ok_or("webhook-timestamp is no time")?;
    let id = PublicEventId::parse(header("webhook-id")?).map_err(|error| error.to_string())?;
    if id.as_str() != event.id {
        return Err(format!("webhook-id is `{}`", id.as_str()));
    }
    same("webhook-signature", &signer.standard_signature(&id, at, &request.body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manner_does_what_it_is_called_and_succeeds_often_enough() {
        for (manner, fault) in [
            (Manner::Succeeds, None),
            (Manner::Fails, Some(Answer::Status(500))),
            (Manner::Hangs, Some(Answer::Nothing)),
            (Manner::Resets, Some(Answer::Reset)),
        ] {
            let answers: Vec<_> = (0..1000).map(|n| behave(manner, mix(&[n])).0).collect();
            let successes = answers.iter().filter(|answer| **answer == Answer::Status(200)).count();
            assert!(successes > 500, "{manner:?}: {successes}");
            assert_eq!(successes == 1000, fault.is_none(), "{manner:?}");
            assert!(fault.is_none_or(|fault| answers.contains(&fault)), "{manner:?}");
        }
    }

    #[test]
    fn an_events_number_is_read_from_its_id_and_from_no_other_runs() {
        assert_eq!(number_of(&EventPlan::of(7, 12).id, 7), Some(12));
        assert_eq!(number_of(&EventPlan::of(7, 12).id, 8), None);
        assert_eq!(number_of("", 7), None);
    }
}

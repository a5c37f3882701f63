//! What has to be so at the end, checked against what the receivers saw and what the history tells.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::EventType;
use testkit::{Receiver, Request};

use crate::account::Account;
use crate::endpoint::Endpoint;
use crate::say;

/// The attempts that the guide promises.
const ATTEMPTS: u64 = 3;

/// What was checked so far.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    checked: usize,
    broken: usize,
}

impl Expectations {
    /// Checks one thing, and tells what was seen where it is not so.
    pub(crate) fn check(&mut self, what: &str, holds: bool, seen: impl FnOnce() -> String) {
        self.checked += 1;
        if holds {
            say(&format!("  yes  {what}"));
        } else {
            self.broken += 1;
            say(&format!("  NO   {what}: {}", seen()));
        }
    }

    /// Whether everything was so; tells the sum.
    pub(crate) fn all_held(&self) -> bool {
        say(&format!("\n{} of {} hold", self.checked - self.broken, self.checked));
        self.broken == 0 && self.checked > 0
    }

    /// The guide's code in this language accepted the signature of every event, once.
    pub(crate) fn took_everything(&mut self, endpoint: &Endpoint, account: &Account<'_>) {
        let name = endpoint.name;
        let accepted = endpoint.answered(200);
        let expected: BTreeSet<&str> = account.event_ids().into_iter().collect();
        let distinct: BTreeSet<&str> = accepted.iter().map(String::as_str).collect();
        let complete = expected.len() == EventType::ALL.len()
            && distinct == expected
            && accepted.len() == expected.len()
            && endpoint.answered(401).is_empty();
        self.check(
            &format!("{name}: the guide's code verified all {} events, each once", EventType::ALL.len()),
            complete,
            || endpoint.lines().join("\n       "),
        );
        let handled = ["handles booking booking_abc123", "handles payment pi_1234567890"];
        self.check(
            &format!("{name}: the guide's handlers got the booking and the payment"),
            handled.iter().all(|line| endpoint.wrote(line)),
            || endpoint.lines().join("\n       "),
        );
        let at_once = |delivery: &&crate::account::Delivery| {
            delivery.status == "success" && delivery.attempts == 1 && delivery.response_status == Some(200)
        };
        let successes = account.of(name).filter(at_once).count();
        self.check(
            &format!("{name}: the history shows {} successes at the first attempt", EventType::ALL.len()),
            successes == EventType::ALL.len() && account.of(name).count() == successes,
            || format!("{successes} of {}", account.of(name).count()),
        );
    }

    /// With another secret, the guide's code refused the same event, and the history says so.
    pub(crate) fn refused_every_signature(&mut self, endpoint: &Endpoint, account: &Account<'_>) {
        let name = endpoint.name;
        let refused = endpoint.answered(401);
        self.check(
            &format!("{name}: the guide's code refused the signature {ATTEMPTS} times and accepted none"),
            refused.len() as u64 == ATTEMPTS && endpoint.answered(200).is_empty(),
            || endpoint.lines().join("\n       "),
        );
        let delivery = account.find(name, EventType::ReviewCreated.as_str());
        self.check(
            &format!("{name}: the history shows it failed with 401 and the receiver's answer"),
            delivery.is_some_and(|delivery| {
                delivery.status == "failed"
                    && delivery.attempts == ATTEMPTS
                    && delivery.response_status == Some(401)
                    && delivery.response == "Invalid signature"
            }),
            || format!("{delivery:?}"),
        );
    }

    /// Two failures, then success: three attempts of one delivery with one body, spaced as configured.
    pub(crate) fn succeeded_at_the_third_attempt(
        &mut self,
        receiver: &Receiver,
        account: &Account<'_>,
        delays: &[Duration],
    ) {
        let requests = receiver.requests();
        self.attempts_of_one_delivery("flaky", &requests);
        let waits: Vec<Duration> =
            requests.windows(2).map(|pair| pair[1].arrived.duration_since(pair[0].arrived)).collect();
        let waited =
            waits.len() == delays.len() && waits.iter().zip(delays).all(|(wait, delay)| wait >= delay);
        self.check("flaky: the attempts kept the waits between them", waited, || {
            format!("{waits:?} instead of at least {delays:?}")
        });
        let delivery = account.find("flaky", EventType::BookingCreated.as_str());
        self.check(
            "flaky: the history shows a success at the third attempt",
            delivery.is_some_and(|delivery| {
                delivery.status == "success"
                    && delivery.attempts == ATTEMPTS
                    && delivery.response_status == Some(200)
            }),
            || format!("{delivery:?}"),
        );
    }

    /// Three failures, then no more.
    pub(crate) fn failed_for_good(&mut self, receiver: &Receiver, account: &Account<'_>) {
        self.attempts_of_one_delivery("broken", &receiver.requests());
        let delivery = account.find("broken", EventType::PaymentFailed.as_str());
        self.check(
            "broken: the history shows it failed after the third attempt",
            delivery.is_some_and(|delivery| {
                delivery.status == "failed"
                    && delivery.attempts == ATTEMPTS
                    && delivery.response_status == Some(503)
            }),
            || format!("{delivery:?}"),
        );
    }

    fn attempts_of_one_delivery(&mut self, name: &str, requests: &[Request]) {
        let seen = || -> Vec<_> {
            let attempt = |request: &Request| request.header("x-lok-attempt").map(str::to_owned);
            requests.iter().map(attempt).collect()
        };
        let numbered = seen() == ["1", "2", "3"].map(|attempt| Some(attempt.to_owned()));
        let same = requests.windows(2).all(|pair| {
            let same_header =
                |name| pair[0].header(name).is_some() && pair[0].header(name) == pair[1].header(name);
            pair[0].body == pair[1].body
                && ["x-lok-delivery-id", "x-lok-event-id", "x-lok-signature"].into_iter().all(same_header)
        });
        self.check(
            &format!("{name}: attempts 1, 2 and 3 of one delivery came, with the same body and signature"),
            numbered && same,
            || format!("attempts {:?}, the same: {same}", seen()),
        );
    }

    /// Nothing came to whom nothing concerns.
    pub(crate) fn heard_nothing(&mut self, receiver: &Receiver, account: &Account<'_>) {
        let heard = receiver.requests().len() + account.of("stranger").count();
        self.check("stranger: another user's webhook got nothing", heard == 0, || format!("{heard} came"));
    }
}

//! Requests do not reach internal addresses, whatever name leads there.

mod support;

use domain::network::AddressPolicy;
use egress::{AttemptError, Outcome};
use support::{Receiver, client, loopback, post};

#[tokio::test]
async fn an_internal_address_is_refused_before_anything_is_connected() {
    let receiver = Receiver::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let client = client(AddressPolicy::default());
    // What a URL's host can be, and what the name server of a stranger could answer for it.
    for host in ["127.0.0.1", "localhost", "LOCALHOST.", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"] {
        let attempt = post(&client, &format!("http://{host}:{}/", receiver.port)).await;
        let blocked = matches!(attempt.outcome, Outcome::Failed(AttemptError::Blocked(_)));
        assert!(blocked, "{host}: {:?}", attempt.outcome);
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn an_excepted_network_is_reached_by_address_and_by_name() {
    let receiver = Receiver::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let client = client(loopback());
    for host in ["127.0.0.1", "localhost"] {
        let attempt = post(&client, &format!("http://{host}:{}/", receiver.port)).await;
        let Outcome::Responded(response) = attempt.outcome else { panic!("{host}: {:?}", attempt.outcome) };
        assert_eq!((response.status, &*response.body), (200, b"ok".as_slice()));
    }
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_told_as_such() {
    let attempt = post(&client(loopback()), "http://no-such-host.invalid/").await;
    assert!(matches!(attempt.outcome, Outcome::Failed(AttemptError::Dns(_))), "{:?}", attempt.outcome);
}

//! What a URL says itself, by an address or a name.

use domain::network::AddressPolicy;
use egress::{AttemptError, Outcome};

use crate::listener::Listener;
use crate::support::{client, loopback, post};

#[tokio::test]
async fn an_internal_address_is_refused_before_anything_is_connected() {
    let listener = Listener::start(["127.0.0.1", "::1"]).await;
    let client = client(AddressPolicy::default());
    for host in ["127.0.0.1", "127.1", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "0", "[::]"] {
        let attempt = post(&client, &format!("http://{host}:{}/", listener.port)).await;
        let blocked = matches!(attempt.outcome, Outcome::Failed(AttemptError::Blocked(_)));
        assert!(blocked, "{host}: {:?}", attempt.outcome);
    }
    assert_eq!(listener.all_connections(), 0);
}

#[tokio::test]
async fn a_name_of_a_local_network_is_not_even_looked_up() {
    let listener = Listener::start(["127.0.0.1", "::1"]).await;
    let client = client(AddressPolicy::default());
    for host in ["localhost", "LOCALHOST.", "a.localhost", "rabbitmq", "db.internal", "no-such-host.invalid"]
    {
        let attempt = post(&client, &format!("http://{host}:{}/", listener.port)).await;
        let blocked = matches!(&attempt.outcome, Outcome::Failed(AttemptError::Url(reason))
            if reason.contains("is not a name of the public DNS"));
        assert!(blocked, "{host}: {:?}", attempt.outcome);
    }
    assert_eq!(listener.all_connections(), 0);
}

#[tokio::test]
async fn a_port_of_another_protocol_is_refused() {
    let client = client(AddressPolicy::default());
    for url in ["http://1.1.1.1:25/", "http://example.com:25/", "https://[2606:4700::1111]:22/"] {
        let attempt = post(&client, url).await;
        let refused = matches!(&attempt.outcome, Outcome::Failed(AttemptError::Url(reason))
            if reason.contains("is not for web servers"));
        assert!(refused, "{url}: {:?}", attempt.outcome);
    }
}

#[tokio::test]
async fn an_excepted_network_is_reached_by_address_and_by_name() {
    let listener = Listener::start(["127.0.0.1", "::1"]).await;
    let client = client(loopback());
    for host in ["127.0.0.1", "localhost", "[::1]", "127.1", "[::ffff:127.0.0.1]"] {
        let attempt = post(&client, &format!("http://{host}:{}/", listener.port)).await;
        let Outcome::Responded(response) = attempt.outcome else { panic!("{host}: {:?}", attempt.outcome) };
        assert_eq!((response.status, &*response.body), (200, b"ok".as_slice()));
    }
    assert_eq!(listener.all_connections(), 5);
}

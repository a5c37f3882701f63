//! What strangers' name servers can answer, and that none of it leads inside.

mod lookups;

use std::net::{IpAddr, Ipv4Addr};

use domain::network::AddressPolicy;
use egress::{Attempt, AttemptError, Client, DnsConfig, Outcome};

use crate::listener::Listener;
use crate::name_server::{NameServer, Says, addresses};
use crate::support;

/// Where the tests' receivers are: as good as public, by an exception.
const GOOD: &str = "127.0.0.2";
/// Where nothing may be sent.
const INTERNAL: &str = "127.0.0.1";

fn only_good() -> AddressPolicy {
    AddressPolicy::with_exceptions(vec!["127.0.0.2/32".parse().unwrap()])
}

fn client_with(server: &NameServer, change: impl FnOnce(&mut DnsConfig)) -> Client {
    crate::client(server.address, only_good(), change)
}

fn client(server: &NameServer) -> Client {
    client_with(server, |_| {})
}

async fn post(client: &Client, name: &str, port: u16) -> Attempt {
    support::post(client, &format!("http://{name}:{port}/hook")).await
}

#[track_caller]
fn assert_delivered(attempt: &Attempt) {
    assert!(matches!(attempt.outcome, Outcome::Responded(_)), "{:?}", attempt.outcome);
}

#[track_caller]
fn assert_blocked(attempt: &Attempt) {
    let Outcome::Failed(error @ AttemptError::Blocked(blocked)) = &attempt.outcome else {
        panic!("{:?}", attempt.outcome);
    };
    // Developers read the error. They must not read in it what only our network's name servers know.
    assert!(!error.to_string().contains(&blocked.address.to_string()), "{error}");
}

#[track_caller]
fn assert_dns_error(attempt: &Attempt, expected: &str) {
    let Outcome::Failed(AttemptError::Dns(reason)) = &attempt.outcome else {
        panic!("{:?}", attempt.outcome);
    };
    assert!(reason.contains(expected), "{reason}");
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_whatever_form_its_addresses_have() {
    let listener = Listener::start([INTERNAL, "::1"]).await;
    let server = NameServer::start().await;
    for (number, address) in [
        INTERNAL,
        "0.0.0.0",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:0.0.0.0",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "2002:7f00:1::1",
        "169.254.169.254",
        "10.0.0.1",
        "fd00:ec2::254",
        "fe80::1",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("a{number}.example.com");
        server.say(&name, [addresses([address], 60)]);
        assert_blocked(&post(&client(&server), &name, listener.port).await);
    }
    assert_eq!(listener.all_connections(), 0);
}

#[tokio::test]
async fn of_a_names_addresses_only_the_allowed_ones_are_connected_to() {
    let listener = Listener::start([GOOD, INTERNAL, "::1"]).await;
    let server = NameServer::start().await;
    server.say("mixed.example.com", [addresses([INTERNAL, "::1", "10.0.0.1", GOOD, "0.0.0.0"], 60)]);
    let client = client(&server);
    for _ in 0..3 {
        assert_delivered(&post(&client, "mixed.example.com", listener.port).await);
    }
    assert_eq!((listener.connections(GOOD), listener.all_connections()), (3, 3));
}

#[tokio::test]
async fn a_port_of_another_protocol_is_judged_where_the_name_leads() {
    let server = NameServer::start().await;
    server
        .say("public.example.com", [addresses(["1.1.1.1"], 60)])
        .say("excepted.example.com", [addresses([GOOD], 60)]);
    let client = client(&server);
    let attempt = post(&client, "public.example.com", 25).await;
    let Outcome::Failed(AttemptError::Url(reason)) = &attempt.outcome else { panic!("{attempt:?}") };
    assert_eq!(reason, "port 25 is not for web servers");
    // Nobody listens there, but it was asked.
    let attempt = post(&client, "excepted.example.com", 25).await;
    assert!(matches!(attempt.outcome, Outcome::Failed(AttemptError::Connect(_))), "{attempt:?}");
}

#[tokio::test]
async fn a_name_that_leads_inside_after_it_was_looked_at_is_caught() {
    let listener = Listener::start([GOOD, INTERNAL]).await;
    let server = NameServer::start().await;
    // Good when the webhook is created and first called, internal ever after.
    server.say("rebind.example.com", [addresses([GOOD], 0), addresses([INTERNAL], 0)]);
    let client = client(&server);
    assert_delivered(&post(&client, "rebind.example.com", listener.port).await);
    for _ in 0..3 {
        assert_blocked(&post(&client, "rebind.example.com", listener.port).await);
    }
    assert_eq!((listener.connections(GOOD), listener.connections(INTERNAL)), (1, 0));
}

#[tokio::test]
async fn what_is_connected_to_is_what_was_checked() {
    let listener = Listener::start([GOOD, INTERNAL]).await;
    let server = NameServer::start().await;
    // Whoever looked up once to check and once to connect would now and then connect inside.
    let by_turns = [GOOD, INTERNAL, GOOD, INTERNAL, GOOD, INTERNAL].map(|address| addresses([address], 0));
    server.say("turns.example.com", by_turns);
    let client = client(&server);
    for number in 0..6 {
        let attempt = post(&client, "turns.example.com", listener.port).await;
        if number % 2 == 0 { assert_delivered(&attempt) } else { assert_blocked(&attempt) }
    }
    assert_eq!((listener.connections(GOOD), listener.connections(INTERNAL)), (3, 0));
}

#[tokio::test]
async fn aliases_are_followed_to_addresses_that_are_checked() {
    let listener = Listener::start([GOOD, INTERNAL, "::1"]).await;
    let server = NameServer::start().await;
    server
        .say("good.example.com", [Says::Alias("one.example.com", 60)])
        .say("one.example.com", [Says::Alias("two.example.com", 60)])
        .say("two.example.com", [addresses([GOOD], 60)])
        .say("bad.example.com", [Says::Alias("db.cluster.internal", 60)])
        .say("db.cluster.internal", [addresses([INTERNAL], 60)])
        .say("self.example.com", [Says::Alias("localhost", 60)])
        .say("loop.example.com", [Says::Alias("pool.example.com", 60)])
        .say("pool.example.com", [Says::Alias("loop.example.com", 60)]);
    let client = client(&server);
    assert_delivered(&post(&client, "good.example.com", listener.port).await);
    assert_blocked(&post(&client, "bad.example.com", listener.port).await);
    assert_blocked(&post(&client, "self.example.com", listener.port).await);
    assert_dns_error(&post(&client, "loop.example.com", listener.port).await, "loop.example.com");
    assert_eq!((listener.connections(GOOD), listener.all_connections()), (1, 1));
}

#[tokio::test]
async fn a_name_whose_servers_do_not_know_ipv6_is_reached() {
    let listener = Listener::start([GOOD]).await;
    let server = NameServer::start().await;
    server.say("old.example.com", [Says::OnlyV4(vec![GOOD.parse().unwrap()], 60)]);
    assert_delivered(&post(&client(&server), "old.example.com", listener.port).await);
}

#[tokio::test]
async fn of_very_many_addresses_eight_are_tried() {
    let listener = Listener::start([GOOD]).await;
    let server = NameServer::start().await;
    let good: IpAddr = GOOD.parse().unwrap();
    // Nobody listens there, so that every try is over at once. Such an answer goes by TCP.
    let dead = |number: u32| IpAddr::V4(Ipv4Addr::from(0x7f01_0000 + number));
    let crowd = |place: usize| {
        let mut addresses: Vec<IpAddr> = (0..1500).map(dead).collect();
        addresses.insert(place, good);
        Says::Addresses(addresses, 60)
    };
    server.say("eighth.example.com", [crowd(7)]).say("ninth.example.com", [crowd(8)]);
    let client = crate::client(server.address, support::loopback(), |_| {});
    assert_delivered(&post(&client, "eighth.example.com", listener.port).await);
    let ninth = post(&client, "ninth.example.com", listener.port).await;
    assert!(matches!(ninth.outcome, Outcome::Failed(AttemptError::Connect(_))), "{:?}", ninth.outcome);
    assert_eq!(listener.all_connections(), 1);
}

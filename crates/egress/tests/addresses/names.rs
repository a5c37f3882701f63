//! What strangers' name servers can answer, and that none of it leads inside.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use domain::network::AddressPolicy;
use egress::{Attempt, AttemptError, Client, DnsConfig, EgressConfig, Outcome, Proxy};
use futures_util::future::join_all;
use hickory_resolver::proto::op::ResponseCode;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::PATIENCE;
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

/// Until something holds, or a generous time has passed.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    timeout(limit, future).await.expect("ends in time")
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
async fn however_many_ask_for_a_name_at_once_it_is_looked_up_once() {
    let listener = Listener::start([GOOD]).await;
    let server = NameServer::start().await;
    server.say("busy.example.com", [addresses([GOOD], 0)]).pause();
    let client = client(&server);
    let posts = join_all((0..30).map(|_| post(&client, "busy.example.com", listener.port)));
    let resume = async {
        eventually("a question", async || server.asked("busy.example.com") > 0).await;
        server.resume();
    };
    let (attempts, ()) = tokio::join!(posts, resume);
    attempts.iter().for_each(assert_delivered);
    assert_eq!(server.asked("busy.example.com"), 1);
}

#[tokio::test]
async fn one_who_gives_up_does_not_end_the_look_up_of_others() {
    let listener = Listener::start([GOOD]).await;
    let server = NameServer::start().await;
    server.say("busy.example.com", [addresses([GOOD], 60)]).pause();
    let client = client(&server);
    let first = tokio::spawn({
        let client = client.clone();
        async move { post(&client, "busy.example.com", 81).await }
    });
    eventually("a question", async || server.asked("busy.example.com") > 0).await;
    let second = post(&client, "busy.example.com", listener.port);
    let give_up = async {
        first.abort();
        server.resume();
    };
    let (attempt, ()) = tokio::join!(second, give_up);
    assert_delivered(&attempt);
}

#[tokio::test]
async fn addresses_are_remembered_as_long_as_their_records_say() {
    let listener = Listener::start([GOOD]).await;
    let server = NameServer::start().await;
    server
        .say("steady.example.com", [addresses([GOOD], 60)])
        .say("fleeting.example.com", [addresses([GOOD], 0)])
        .say("alias.example.com", [Says::Alias("steady.example.com", 0)]);
    let client = client(&server);
    for _ in 0..3 {
        for name in ["steady.example.com", "fleeting.example.com", "alias.example.com"] {
            assert_delivered(&post(&client, name, listener.port).await);
        }
    }
    assert_eq!(server.asked("fleeting.example.com"), 3);
    assert_eq!(server.asked("alias.example.com"), 3);
    // Once for itself, and every time for the alias.
    assert_eq!(server.asked("steady.example.com"), 4);
}

#[tokio::test]
async fn no_record_holds_longer_than_the_configuration_says() {
    let listener = Listener::start([GOOD]).await;
    let server = NameServer::start().await;
    let weeks = u32::MAX >> 1;
    server
        .say("forever.example.com", [addresses([GOOD], weeks), addresses([INTERNAL], weeks)])
        .say("never.example.com", [Says::NoSuchName(weeks), addresses([GOOD], weeks)]);
    let client = client_with(&server, |dns| {
        dns.max_ttl = Duration::from_millis(50);
        dns.max_negative_ttl = Duration::from_millis(50);
    });
    assert_delivered(&post(&client, "forever.example.com", listener.port).await);
    eventually("the new address is seen", async || {
        let attempt = post(&client, "forever.example.com", listener.port).await;
        matches!(attempt.outcome, Outcome::Failed(AttemptError::Blocked(_)))
    })
    .await;
    assert_dns_error(&post(&client, "never.example.com", listener.port).await, "does not exist");
    eventually("the new name is seen", async || {
        matches!(post(&client, "never.example.com", listener.port).await.outcome, Outcome::Responded(_))
    })
    .await;
}

#[tokio::test]
async fn the_lack_of_addresses_is_remembered() {
    let server = NameServer::start().await;
    server
        .say("gone.example.com", [Says::NoSuchName(60)])
        .say("empty.example.com", [addresses([], 60)])
        .say("broken.example.com", [Says::Fails(ResponseCode::ServFail)])
        .say("refused.example.com", [Says::Fails(ResponseCode::Refused)]);
    let client = client(&server);
    for (name, reason) in [
        ("gone.example.com", "gone.example.com does not exist"),
        ("empty.example.com", "empty.example.com has no address"),
        ("broken.example.com", "broken.example.com: "),
        ("refused.example.com", "refused.example.com: "),
    ] {
        assert_dns_error(&post(&client, name, 80).await, reason);
        let asked = server.asked(name);
        for _ in 0..3 {
            assert_dns_error(&post(&client, name, 80).await, reason);
        }
        assert_eq!(server.asked(name), asked, "{name}");
    }
}

#[tokio::test]
async fn a_name_whose_servers_are_silent_costs_its_time_and_nobody_elses() {
    let listener = Listener::start([GOOD]).await;
    let server = NameServer::start().await;
    server.say_of_every_other(Says::Nothing).say("good.example.com", [addresses([GOOD], 0)]);
    let client = client_with(&server, |dns| dns.timeout = Duration::from_millis(500));
    let names: Vec<String> = (0..8).map(|number| format!("silent{number}.example.com")).collect();
    let silent = join_all(names.iter().map(|name| post(&client, name, listener.port)));
    let others = async {
        for _ in 0..5 {
            assert_delivered(&post(&client, "good.example.com", listener.port).await);
        }
    };
    let (silent, ()) = within(Duration::from_secs(20), async { tokio::join!(silent, others) }).await;
    for attempt in silent {
        assert_dns_error(&attempt, "within 500ms");
    }
}

#[tokio::test]
async fn no_more_names_are_looked_up_at_once_than_configured() {
    let listener = Listener::start([GOOD]).await;
    let server = NameServer::start().await;
    server.say_of_every_other(addresses([GOOD], 60)).pause();
    let client = client_with(&server, |dns| dns.max_lookups = 2);
    let names: Vec<String> = (0..6).map(|number| format!("name{number}.example.com")).collect();
    let posts = join_all(names.iter().map(|name| post(&client, name, listener.port)));
    let observe = async {
        eventually("two questions", async || server.names().len() == 2).await;
        // Time for a third, which must not come.
        sleep(Duration::from_millis(100)).await;
        assert_eq!(server.names().len(), 2);
        server.resume();
    };
    let (attempts, ()) = tokio::join!(posts, observe);
    attempts.iter().for_each(assert_delivered);
    assert_eq!(server.names().len(), 6);
}

#[tokio::test]
async fn who_gets_no_turn_in_time_is_told_so() {
    let server = NameServer::start().await;
    server.say_of_every_other(Says::Nothing);
    let client = client_with(&server, |dns| {
        dns.max_lookups = 1;
        dns.timeout = Duration::from_millis(300);
    });
    let names: Vec<String> = (0..4).map(|number| format!("name{number}.example.com")).collect();
    let attempts = join_all(names.iter().map(|name| post(&client, name, 80))).await;
    let waited = |attempt: &&Attempt| matches!(&attempt.outcome, Outcome::Failed(error @ AttemptError::NoTurn) if error.is_ours());
    assert_eq!(attempts.iter().filter(waited).count(), 3, "{attempts:?}");
}

#[tokio::test]
async fn with_more_silent_names_than_turns_a_good_name_is_reached_and_blamed_for_nothing() {
    let listener = Listener::start([GOOD]).await;
    let server = NameServer::start().await;
    server.say_of_every_other(Says::Nothing).say("good.example.com", [addresses([GOOD], 0)]);
    let client = client_with(&server, |dns| {
        dns.max_lookups = 2;
        dns.timeout = Duration::from_secs(1);
    });
    let mut siege = JoinSet::new();
    for number in 0..10 {
        let client = client.clone();
        siege.spawn(async move {
            loop {
                post(&client, &format!("silent{number}.example.com"), 80).await;
                sleep(Duration::from_millis(10)).await;
            }
        });
    }
    eventually("all turns are taken", async || server.names().len() >= 2).await;
    eventually("the good name is reached", async || {
        match post(&client, "good.example.com", listener.port).await.outcome {
            Outcome::Responded(_) => true,
            Outcome::Failed(AttemptError::NoTurn) => false,
            outcome @ Outcome::Failed(_) => panic!("{outcome:?}"),
        }
    })
    .await;
}

#[tokio::test]
async fn the_egress_proxys_own_name_waits_for_no_strangers() {
    let proxy = Listener::start([GOOD]).await;
    let server = NameServer::start().await;
    server.say_of_every_other(Says::Nothing).say("proxy.example.com", [addresses([GOOD], 0)]);
    let dns =
        DnsConfig { name_servers: vec![server.address], timeout: PATIENCE, max_lookups: 1, ..support::dns() };
    let client = Client::new(EgressConfig {
        timeout: PATIENCE * 2,
        connect_timeout: PATIENCE * 2,
        proxy: Some(Proxy::parse(&format!("http://proxy.example.com:{}", proxy.port)).unwrap()),
        dns,
        ..support::config(only_good())
    })
    .unwrap();
    let silent = tokio::spawn({
        let client = client.clone();
        async move { post(&client, "silent.example.com", 80).await }
    });
    eventually("the turn is taken", async || server.names().len() == 1).await;
    // Whatever this listener is: it was connected to.
    let attempt = support::post(&client, &format!("http://{GOOD}/")).await;
    assert!(!matches!(&attempt.outcome, Outcome::Failed(error) if error.is_ours()), "{attempt:?}");
    assert_eq!(proxy.all_connections(), 1);
    assert!(!silent.is_finished());
}

#[tokio::test]
async fn a_silent_name_is_not_asked_for_again_at_once() {
    let server = NameServer::start().await;
    server.say_of_every_other(Says::Nothing);
    let client = client_with(&server, |dns| dns.timeout = Duration::from_millis(200));
    assert_dns_error(&post(&client, "silent.example.com", 80).await, "within 200ms");
    let asked = server.asked("silent.example.com");
    // Longer than other failures are remembered.
    sleep(Duration::from_millis(1500)).await;
    assert_dns_error(&post(&client, "silent.example.com", 80).await, "within 200ms");
    assert_eq!(server.asked("silent.example.com"), asked);
}

#[tokio::test]
async fn without_name_servers_nobody_is_blamed_and_they_are_asked_once_there_are_some() {
    let listener = Listener::start([GOOD]).await;
    let server = NameServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    let client = client_with(&server, |dns| {
        dns.name_servers = Vec::new();
        dns.resolv_conf.clone_from(&file);
        dns.max_negative_ttl = Duration::ZERO;
        dns.timeout = Duration::from_millis(500);
    });
    let attempt = post(&client, "good.example.com", listener.port).await;
    let Outcome::Failed(error @ AttemptError::NameServers(_)) = &attempt.outcome else {
        panic!("{attempt:?}")
    };
    assert!(error.is_ours());
    // Port 53, where nobody answers: what matters is that somebody is asked.
    std::fs::write(&file, "nameserver 127.0.0.3\n").unwrap();
    let attempt = post(&client, "good.example.com", listener.port).await;
    let Outcome::Failed(error) = &attempt.outcome else { panic!("{attempt:?}") };
    assert!(!error.to_string().contains("no connection to any"), "{error}");
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

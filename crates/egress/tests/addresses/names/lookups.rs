//! How often names are looked up, how many at once, and what names whose servers are silent cost others.

use std::future::Future;
use std::time::Duration;

use egress::{Attempt, AttemptError, Client, DnsConfig, EgressConfig, Outcome, Proxy};
use futures_util::future::join_all;
use hickory_resolver::proto::op::ResponseCode;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{GOOD, INTERNAL, assert_delivered, assert_dns_error, client, client_with, only_good, post};
use crate::PATIENCE;
use crate::listener::Listener;
use crate::name_server::{NameServer, Says, addresses};
use crate::support;

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

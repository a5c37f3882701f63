//! With exceptions off, no spelling of an internal address reaches a loopback listener.
//!
//! Every spelling tries both gates: the rules that a webhook's URL is given under, and, as if those had let it through,
//! the client itself. Whatever is taken for a name leads to the listener.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use domain::network::AddressPolicy;
use domain::webhook_url::{Schemes, UrlPolicy, WebhookUrl};
use egress::{AttemptError, Client, Outcome};
use http::Uri;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use tokio::runtime::Runtime;
use url::Url;

use crate::listener::Listener;
use crate::name_server::{NameServer, addresses};
use crate::support;

static LIST: LazyLock<[Vec<String>; 2]> = LazyLock::new(|| {
    let list = include_str!("spellings.txt");
    let (addresses, names) = list.split_once("\n[names]\n").expect("two parts");
    let (_, addresses) = addresses.split_once("\n[addresses]\n").expect("a first part");
    [addresses, names].map(|part| {
        let lines = part.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(unescape).collect()
    })
});

fn unescape(line: &str) -> String {
    let characters = [("{tab}", "\t"), ("{lf}", "\n"), ("{cr}", "\r"), ("{nul}", "\0"), ("{shy}", "\u{ad}")];
    characters.iter().fold(line.to_owned(), |line, (name, character)| line.replace(name, character))
}

/// A listener on loopback, a name server that leads there, and a client that must not.
struct Inside {
    listener: Listener,
    client: Client,
    policy: UrlPolicy,
    /// The name server's tasks end with it.
    _server: NameServer,
}

impl Inside {
    async fn new(addresses_policy: AddressPolicy) -> Self {
        let listener = Listener::start(["127.0.0.1", "::1"]).await;
        let server = NameServer::start().await;
        server.say_of_every_other(addresses(["127.0.0.1", "::1"], 60));
        Self {
            listener,
            client: crate::client(server.address, addresses_policy.clone(), |_| {}),
            policy: UrlPolicy { schemes: Schemes::HttpToo, addresses: addresses_policy },
            _server: server,
        }
    }

    fn with_port(&self, spelling: &str) -> String {
        spelling.replace("PORT", &self.listener.port.to_string())
    }

    fn is_accepted(&self, spelling: &str) -> bool {
        WebhookUrl::parse(&self.with_port(spelling), &self.policy).is_ok()
    }

    /// What comes of requests to a spelling, as it is and as a browser would read it, whether or not it was accepted.
    async fn outcomes(&self, spelling: &str) -> Vec<(Uri, Outcome)> {
        let text = self.with_port(spelling);
        let as_it_is = text.parse::<Uri>().ok();
        let as_read = Url::parse(&text).ok().and_then(|url| url.as_str().parse::<Uri>().ok());
        let mut outcomes = Vec::new();
        for uri in [as_it_is, as_read].into_iter().flatten() {
            let attempt = self.client.post(uri.clone(), http::HeaderMap::new(), bytes::Bytes::new()).await;
            outcomes.push((uri, attempt.outcome));
        }
        outcomes
    }

    /// Tries the client; what is wrong, if it did anything but refuse.
    async fn leak(&self, spelling: &str) -> Option<String> {
        for (uri, outcome) in self.outcomes(spelling).await {
            let is_refused = match &outcome {
                Outcome::Failed(AttemptError::Blocked(_) | AttemptError::Url(_)) => true,
                // No name for TLS: refused before anything is connected.
                Outcome::Failed(AttemptError::Connect(reason)) if reason == "invalid dns name" => true,
                // Not requested at all.
                Outcome::Failed(_) => !matches!(uri.scheme_str(), Some("http" | "https")),
                Outcome::Responded(_) => false,
            };
            if !is_refused || self.listener.all_connections() > 0 {
                return Some(format!("{spelling:?}, requested as {uri}: {outcome:?}"));
            }
        }
        None
    }
}

#[tokio::test]
async fn no_published_spelling_reaches_a_loopback_listener() {
    let inside = Inside::new(AddressPolicy::default()).await;
    let [addresses, names] = &*LIST;
    let accepted: Vec<_> = addresses.iter().filter(|spelling| inside.is_accepted(spelling)).collect();
    assert!(accepted.is_empty(), "accepted: {accepted:?}");
    let refused: Vec<_> = names.iter().filter(|spelling| !inside.is_accepted(spelling)).collect();
    assert!(refused.is_empty(), "refused, so that they test nothing: {refused:?}");
    for spelling in addresses.iter().chain(names) {
        assert_eq!(inside.leak(spelling).await, None);
    }
    assert_eq!(inside.listener.all_connections(), 0);
}

#[tokio::test]
async fn the_same_spellings_do_reach_it_where_loopback_is_excepted() {
    let inside = Inside::new(support::loopback()).await;
    let mut reached = 0;
    for spelling in LIST.iter().flatten().filter(|spelling| spelling.contains("PORT")) {
        let outcomes = inside.outcomes(spelling).await;
        reached += usize::from(outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Responded(_))));
    }
    assert!(reached >= 60, "{reached}");
}

/// A number of an address, in a base.
fn number(value: u32, base: u8, zeros: usize) -> String {
    let zeros = "0".repeat(zeros);
    match base {
        8 => format!("0{zeros}{value:o}"),
        16 => format!("0x{zeros}{value:x}"),
        17 => format!("0X{zeros}{value:X}"),
        _ => value.to_string(),
    }
}

/// Every way to write an IPv4 address with one to four numbers.
fn spelled_v4(address: Ipv4Addr) -> impl Strategy<Value = String> {
    let number_style = (select(vec![8_u8, 10, 10, 16, 17]), 0_usize..4);
    (1_usize..=4, prop::collection::vec(number_style, 4), select(vec!["", "", "", ".", ".."])).prop_map(
        move |(parts, styles, end)| {
            let octets = address.octets();
            let rest = octets[parts - 1..].iter().fold(0_u32, |rest, octet| rest << 8 | u32::from(*octet));
            let values = octets[..parts - 1].iter().map(|octet| u32::from(*octet)).chain([rest]);
            let parts = values.zip(styles).map(|(value, (base, zeros))| number(value, base, zeros));
            parts.collect::<Vec<_>>().join(".") + end
        },
    )
}

fn spelled_v6(address: Ipv4Addr) -> impl Strategy<Value = String> {
    let [a, b, c, d] = address.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let mut forms: Vec<String> =
        ["::1", "0:0:0:0:0:0:0:1", "::", "0::0", "0000::1", "::1%25lo", "::1%lo"].map(str::to_owned).to_vec();
    for prefix in ["::ffff:", "::FFFF:", "0:0:0:0:0:ffff:", "::", "::ffff:0:", "64:ff9b::", "64:ff9b:1::"] {
        forms.push(format!("{prefix}{address}"));
        forms.push(format!("{prefix}{high:x}:{low:x}"));
        forms.push(format!("{prefix}{high:04X}:{low:04X}"));
    }
    forms.push(format!("2002:{high:x}:{low:x}::1"));
    forms.push(format!("2001:0:{high:x}:{low:x}::"));
    forms.push(format!("2001:0:808:808:0:0:{:x}:{:x}", !high, !low));
    forms.push(format!("2a00:1450::5efe:{high:x}:{low:x}"));
    forms.push(Ipv6Addr::from(u128::from(u32::from(address)) | 0xfd00 << 112).to_string());
    select(forms).prop_map(|form| format!("[{form}]"))
}

fn spelled_name() -> impl Strategy<Value = String> {
    let names =
        ["localhost", "LocalHost", "a.localhost", "localhost.", "db.internal", "nas.local", "rabbitmq"];
    select(names.to_vec()).prop_map(str::to_owned)
}

/// The same host in characters that parsers take for the same.
fn disguised(host: String) -> impl Strategy<Value = String> {
    prop::collection::vec(0_u8..24, host.len()).prop_map(move |styles| {
        host.chars().zip(styles).map(|(character, style)| disguise(character, style)).collect()
    })
}

fn disguise(character: char, style: u8) -> String {
    let from = |first: u32, offset: u32| char::from_u32(first + offset).map(String::from);
    let code = u32::from(character);
    let changed = match (style, character) {
        (0, _) => Some(format!("%{code:02x}")),
        (1, '!'..='~') => from(0xff01, code - 0x21),
        (2, '1'..='9') => from(0x2460, code - u32::from('1')),
        (2, '0') => Some("⓪".to_owned()),
        (2, 'a'..='z') => from(0x24d0, code - u32::from('a')),
        (2, '.') => Some("。".to_owned()),
        (3, '0'..='9') => from(0x1d7ce, code - u32::from('0')),
        (3, '.') => Some("｡".to_owned()),
        (4, _) => Some(format!("{character}\u{ad}")),
        (5, _) => Some(character.to_ascii_uppercase().to_string()),
        _ => None,
    };
    changed.unwrap_or_else(|| character.to_string())
}

fn internal_address() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        4 => Just(Ipv4Addr::LOCALHOST),
        2 => Just(Ipv4Addr::UNSPECIFIED),
        1 => any::<[u8; 3]>().prop_map(|[b, c, d]| Ipv4Addr::new(127, b, c, d)),
        1 => any::<[u8; 3]>().prop_map(|[b, c, d]| Ipv4Addr::new(10, b, c, d)),
        1 => Just(Ipv4Addr::new(169, 254, 169, 254)),
    ]
}

fn host() -> impl Strategy<Value = String> {
    internal_address().prop_flat_map(|address| {
        let plain = prop_oneof![
            5 => spelled_v4(address),
            3 => spelled_v6(address),
            1 => spelled_name(),
        ];
        plain.prop_flat_map(|host| prop_oneof![Just(host.clone()), disguised(host)])
    })
}

fn spelling() -> impl Strategy<Value = String> {
    let scheme = select(vec!["http", "http", "http", "https", "HTTP", "hTtPs", "ftp", "ws"]);
    let slashes = select(vec!["://", "://", "://", "://", ":///", ":/", ":", ":\\\\", ":/\\"]);
    let user = select(vec![
        "",
        "",
        "",
        "",
        "",
        "@",
        "user@",
        "user:pass@",
        "example.com@",
        "example.com:80@",
        "example.com\\@",
    ]);
    let port = select(vec![":PORT", ":PORT", ":PORT", ":0PORT", ":000PORT", ""]);
    let rest = select(vec![
        "/",
        "",
        "/hook?a=b",
        "#@example.com/",
        "?@example.com/",
        "\\@example.com/",
        "/\t",
        "\n",
    ]);
    (scheme, slashes, user, host(), port, rest).prop_map(|(scheme, slashes, user, host, port, rest)| {
        format!("{scheme}{slashes}{user}{host}{port}{rest}")
    })
}

#[test]
fn no_generated_spelling_reaches_a_loopback_listener() {
    let runtime = Runtime::new().unwrap();
    let inside = runtime.block_on(Inside::new(AddressPolicy::default()));
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) };
    proptest!(config, |(spelling in spelling())| {
        prop_assert!(!inside.is_accepted(&spelling), "accepted: {:?}", spelling);
        prop_assert_eq!(runtime.block_on(inside.leak(&spelling)), None);
    });
    assert_eq!(inside.listener.all_connections(), 0);
}

#[test]
fn generated_spellings_do_reach_it_where_loopback_is_excepted() {
    let runtime = Runtime::new().unwrap();
    let inside = runtime.block_on(Inside::new(support::loopback()));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let reached = (0..1000).filter(|_| {
        let spelling = spelling().new_tree(&mut runner).unwrap().current();
        let outcomes = runtime.block_on(inside.outcomes(&spelling));
        outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Responded(_)))
    });
    let reached = reached.count();
    assert!(reached >= 60, "{reached}");
}

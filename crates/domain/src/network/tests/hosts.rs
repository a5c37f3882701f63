//! Hosts and ports as they are written.

use proptest::prelude::*;

use super::*;

#[test]
fn ports_of_other_protocols_are_refused_save_in_excepted_networks() {
    assert!(BAD_PORTS.is_sorted(), "they are searched");
    let policy = policy(&["127.0.0.0/8"]);
    let (public, excepted) = (IpAddr::from([1, 1, 1, 1]), IpAddr::from([127, 0, 0, 1]));
    for port in [0, 22, 25, 53, 110, 143, 465, 587, 6000, 6667, 10_080] {
        assert_eq!(policy.check_port(public, port), Err(BlockedPort(port)));
        assert_eq!(policy.check_port(excepted, port), Ok(()));
        let closed = AddressPolicy::default();
        assert!(matches!(closed.check_host("example.com", port), Err(HostError::Port(_))), "{port}");
        assert!(policy.check_host("example.com", port).is_ok(), "it may lead to an excepted network: {port}");
        assert!(matches!(policy.check_host("1.1.1.1", port), Err(HostError::Port(_))), "{port}");
        assert!(policy.check_host("localhost", port).is_ok(), "{port}");
    }
    for port in [80, 443, 3000, 5000, 8000, 8080, 8443, 9000, 49_152, u16::MAX] {
        assert_eq!(policy.check_port(public, port), Ok(()));
    }
}

#[test]
fn a_port_that_the_configuration_opens_is_open_and_no_other() {
    let policy = AddressPolicy::default().with_ports(vec![25]);
    for host in ["1.1.1.1", "example.com"] {
        assert!(policy.check_host(host, 25).is_ok(), "{host}");
        assert!(matches!(policy.check_host(host, 465), Err(HostError::Port(_))), "{host}");
    }
}

#[test]
fn a_name_that_the_configuration_opens_is_open_with_those_below_and_no_other() {
    let names = ["Hooks.internal.", "intra"].map(|name| name.parse().unwrap());
    let policy = AddressPolicy::default().with_names(names.to_vec());
    for name in ["hooks.internal", "a.hooks.internal", "intra", "a.b.intra"] {
        assert_eq!(policy.check_host(name, 443), Ok(Host::Name(name.to_owned())));
        assert!(AddressPolicy::default().check_host("intra", 443).is_err());
    }
    for name in ["internal", "xhooks.internal", "db.internal", "local", "other"] {
        assert!(matches!(policy.check_host(name, 443), Err(HostError::NotPublic(_))), "{name}");
    }
    assert!(policy.check(IpAddr::from([10, 0, 0, 1])).is_err(), "names open no addresses");
}

#[test]
fn a_name_that_would_open_nothing_is_refused() {
    for (text, written) in [
        ("hooks.internal", "hooks.internal"),
        ("HOOKS.Internal.", "hooks.internal"),
        ("intra", "intra"),
        ("_a.b-c.1.xn--t-9fab.lan", "_a.b-c.1.xn--t-9fab.lan"),
    ] {
        assert_eq!(text.parse::<OpenedName>().unwrap().to_string(), written);
        // Every one that is accepted opens something.
        let policy = AddressPolicy::default().with_names(vec![text.parse().unwrap()]);
        for name in [written.to_owned(), format!("a.{written}")] {
            assert_eq!(policy.check_host(&name, 443), Ok(Host::Name(name)));
        }
    }
    for text in [
        "",
        ".",
        ".hooks.internal",
        "hooks.internal..",
        "hooks..internal",
        "*.hooks.internal",
        "*",
        "hooks.internal:443",
        "https://hooks.internal",
        "hooks.internal/",
        "hooks.internal?",
        "user@hooks.internal",
        "hooks.internal other.internal",
        " hooks.internal",
        "été.internal",
        "xn--a.internal",
        "hooks%2einternal",
        "10.0.0.1",
        "1.0x7f",
        "::1",
        "[::1]",
        "10.0.0.0/8",
        &"a".repeat(64),
    ] {
        assert_eq!(text.parse::<OpenedName>(), Err(InvalidName), "{text}");
    }
}

#[test]
fn a_host_is_read_in_every_spelling() {
    let policy = AddressPolicy::default();
    let address = |text: &str| Ok(Host::Address(text.parse().unwrap()));
    let name = |text: &str| Ok(Host::Name(text.to_owned()));
    for (text, host) in [
        ("8.8.8.8", address("8.8.8.8")),
        ("134744072", address("8.8.8.8")),
        ("0x8.8.2056", address("8.8.8.8")),
        ("010.8.8.8.", address("8.8.8.8")),
        ("%38.8.8.8", address("8.8.8.8")),
        ("８。８．８｡８", address("8.8.8.8")),
        ("[2606:4700::1111]", address("2606:4700::1111")),
        ("Hook.EXAMPLE.com.", name("hook.example.com")),
        ("hook.ex\u{ad}ample.com", name("hook.example.com")),
        ("１hook.example.com", name("1hook.example.com")),
        ("été.example", name("xn--t-9fab.example")),
        ("_hook.1.example.com", name("_hook.1.example.com")),
    ] {
        assert_eq!(policy.check_host(text, 443), host, "{text}");
    }
}

#[test]
fn a_name_that_is_none_of_the_public_dns_is_refused() {
    let policy = AddressPolicy::default();
    let long_label = format!("{}.example.com", "a".repeat(64));
    let long_name = format!("{}example.com", "a.".repeat(122));
    for text in [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "ｌｏｃａｌｈｏｓｔ",
        "local\u{ad}host",
        "%6cocalhost",
        "rabbitmq",
        "com",
        "printer.local",
        "metadata.google.internal",
        "router.home.arpa",
        "1.0.0.127.in-addr.arpa",
        "ipv4only.arpa",
        "nas.lan",
        "mail.corp",
        "x.home",
        "x.private",
        "x.intranet",
        "x.localdomain",
        "x.test",
        "x.invalid",
        "x.alt",
        "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local.",
        "a..example.com",
        "example.com..",
        "localhost..",
        "127.0.0.1..",
        ".example.com",
        "a,b.example.com",
        "*.example.com",
        "a'b.example.com",
        &long_label,
        &long_name,
    ] {
        let refused = policy.check_host(text, 443);
        assert!(matches!(refused, Err(HostError::NotPublic(_))), "{text}: {refused:?}");
    }
    for text in [
        "notlocalhost.com",
        "localhost.example.com",
        "local.example",
        "internal.fr",
        "mylan.com",
        "x.example",
    ] {
        assert!(policy.check_host(text, 443).is_ok(), "{text}");
    }
}

#[test]
fn what_is_no_host_in_any_spelling_is_refused() {
    for text in [
        "",
        "[",
        "[::1",
        "::1",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.08",
        "0x100000000",
        "4294967296",
        "example.1",
        "example.0x1",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[::127.0.0.1.]",
        "[::ffff:127.1]",
        "a b",
        "a/b",
        "a@b",
        "a%00b",
        "a%2fb",
        "%",
        "xn--a",
        "1.1.1.1:80",
        "127.0.0.1%0a",
        "ex\u{ff}\u{fffe}ample.com",
    ] {
        let refused = AddressPolicy::default().check_host(text, 443);
        assert!(matches!(refused, Err(HostError::NotAHost(_))), "{text}: {refused:?}");
    }
}

proptest! {
    #[test]
    fn no_host_makes_it_panic(text in "\\PC{0,80}", port: u16) {
        let _ = AddressPolicy::default().check_host(&text, port);
    }
}

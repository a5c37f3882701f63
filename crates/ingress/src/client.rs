//! Whose request it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use actix_http::header::{FORWARDED, HeaderMap, HeaderName, X_FORWARDED_FOR};
use ipnet::IpNet;

/// The header in which trusted proxies name their clients. One of the two: a proxy that writes one passes the other on as the
/// client sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedBy {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl ForwardedBy {
    fn header(self) -> HeaderName {
        match self {
            Self::XForwardedFor => X_FORWARDED_FOR,
            Self::Forwarded => FORWARDED,
        }
    }

    /// The address in one element of the header.
    fn address(self, element: &str) -> Option<IpAddr> {
        match self {
            Self::XForwardedFor => node(element),
            Self::Forwarded => element.split(';').find_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                name.trim().eq_ignore_ascii_case("for").then(|| node(value.trim().trim_matches('"')))?
            }),
        }
    }
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:4711` (RFC 7239 §6).
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|it| it.ip()))
}

/// The proxies before a service.
#[derive(Debug, Clone)]
pub struct Proxies {
    /// Their addresses.
    pub networks: Vec<IpNet>,
    /// How many of them a request passes at most.
    pub hops: usize,
    /// Where they name their clients.
    pub by: ForwardedBy,
}

impl Proxies {
    /// Whether this is the address of a proxy.
    pub fn include(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// The address of the client behind a connection. Only what a proxy says is believed, read from the right: each proxy
/// appends whom it got the request from, so the first address that is not a proxy's is the client's, and whatever stands
/// left of it the client may have made up. Nor is more read than there are proxies in a row: a client whose own address lies
/// in the networks of the proxies would else be believed about another.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, proxies: &Proxies) -> IpAddr {
    let by = proxies.by;
    let mut client = peer.to_canonical();
    if !proxies.include(client) {
        return client;
    }
    let lines: Vec<_> = headers.get_all(by.header()).collect();
    // Unreadable lines count as one unreadable element: what stands left of them is not believed.
    let elements = lines.iter().rev().flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
    for element in elements.take(proxies.hops) {
        let Some(named) = by.address(element) else { break };
        client = named.to_canonical();
        if !proxies.include(client) {
            break;
        }
    }
    client
}

/// Whom limits per address are counted for: an IPv4 address, or the /64 of an IPv6 address, which is the least that one
/// customer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl Network {
    /// The network of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
        }
    }

    /// That of clients whose address the system does not tell.
    pub fn unknown() -> Self {
        Self(Ipv4Addr::UNSPECIFIED.into())
    }
}

#[cfg(test)]
mod tests {
    use actix_http::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn seen(by: ForwardedBy, peer: &str, lines: &[&str]) -> String {
        seen_behind(2, by, peer, lines)
    }

    fn seen_behind(hops: usize, by: ForwardedBy, peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(by.header(), HeaderValue::from_str(line).unwrap());
        }
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|it| it.parse().unwrap()).into();
        let proxies = Proxies { networks, hops, by };
        client_address(peer.parse().unwrap(), &headers, &proxies).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let seen = |peer, lines: &[&str]| seen(ForwardedBy::XForwardedFor, peer, lines);
        assert_eq!(seen("203.0.113.9", &["198.51.100.1"]), "203.0.113.9", "no proxy of ours");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(seen("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(seen("fd00::1", &["2001:db8::7"]), "2001:db8::7");
        assert_eq!(seen("10.0.0.1", &["1.2.3.4, 198.51.100.1"]), "198.51.100.1", "made up by the client");
        assert_eq!(seen("10.0.0.1", &["1.2.3.4", "198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(seen("10.0.0.1", &["10.9.9.9, 198.51.100.1"]), "198.51.100.1", "not past the client");
        assert_eq!(seen("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3", "a client inside");
        for nonsense in ["", "unknown", "_hidden", "1.2.3", "1.2.3.4, ,", "256.0.0.1", "localhost"] {
            assert_eq!(seen("10.0.0.1", &[nonsense]), "10.0.0.1", "{nonsense}");
        }
    }

    #[test]
    fn a_client_whose_address_is_like_a_proxys_cannot_be_somebody_else() {
        let seen = |hops, lines: &[&str]| seen_behind(hops, ForwardedBy::XForwardedFor, "10.0.0.1", lines);
        assert_eq!(seen(1, &["198.51.100.1, 10.1.2.3"]), "10.1.2.3");
        assert_eq!(seen(1, &["198.51.100.1", "10.1.2.3"]), "10.1.2.3");
        assert_eq!(seen(2, &["198.51.100.1, 10.1.2.3, 10.0.0.2"]), "10.1.2.3");
        assert_eq!(seen(2, &["198.51.100.1, 203.0.113.5"]), "203.0.113.5", "past one proxy only");
    }

    #[test]
    fn nodes_are_read_as_proxies_write_them() {
        for (element, address) in [
            ("192.0.2.1", "192.0.2.1"),
            (" 192.0.2.1:4711 ", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
        ] {
            assert_eq!(node(element), Some(address.parse().unwrap()), "{element}");
        }
        let seen = |lines: &[&str]| seen(ForwardedBy::Forwarded, "10.0.0.1", lines);
        assert_eq!(
            seen(&[r#"for=1.2.3.4, For="[2001:db8:cafe::17]:4711";proto=https"#]),
            "2001:db8:cafe::17"
        );
        assert_eq!(seen(&["proto=https;for=192.0.2.60;by=203.0.113.43"]), "192.0.2.60");
        assert_eq!(seen(&["for=192.0.2.60", "for=_secret"]), "10.0.0.1");
        assert_eq!(seen(&["by=192.0.2.60"]), "10.0.0.1");
    }

    proptest! {
        /// A proxy that appends the client's address: whatever the client sent before, it is that address.
        #[test]
        fn what_a_client_writes_itself_changes_nothing(spoofed in "[ -~]{0,80}") {
            let line = format!("{spoofed}, 198.51.100.1");
            prop_assert_eq!(seen(ForwardedBy::XForwardedFor, "10.0.0.1", &[&line]), "198.51.100.1");
            prop_assert_eq!(seen(ForwardedBy::XForwardedFor, "10.0.0.1", &[&spoofed, "198.51.100.1"]), "198.51.100.1");
            prop_assert_eq!(seen(ForwardedBy::XForwardedFor, "203.0.113.9", &[&spoofed]), "203.0.113.9");
        }
    }

    #[test]
    fn one_customers_addresses_count_together() {
        let network = |text: &str| Network::of(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }
}

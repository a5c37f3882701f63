//! Where requests may not go: the special-purpose addresses of the IANA registries.
//!
//! A webhook's URL is chosen by strangers. Whatever address it leads to, a request leaves only to one that is
//! globally reachable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Blocked IPv4 ranges: the IANA IPv4 Special-Purpose Address Registry, multicast and the reserved class E.
const BLOCKED_V4: [(Ipv4Net, &str); 16] = [
    (v4([0, 0, 0, 0], 8), "this network"),
    (v4([10, 0, 0, 0], 8), "private use"),
    (v4([100, 64, 0, 0], 10), "shared address space"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([169, 254, 0, 0], 16), "link local"),
    (v4([172, 16, 0, 0], 12), "private use"),
    (v4([192, 0, 0, 0], 24), "IETF protocol assignments"),
    (v4([192, 0, 2, 0], 24), "documentation"),
    (v4([192, 88, 99, 0], 24), "6to4 relay anycast"),
    (v4([192, 168, 0, 0], 16), "private use"),
    (v4([198, 18, 0, 0], 15), "benchmarking"),
    (v4([198, 51, 100, 0], 24), "documentation"),
    (v4([203, 0, 113, 0], 24), "documentation"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "reserved"),
    (v4([255, 255, 255, 255], 32), "limited broadcast"),
];

/// Blocked IPv6 ranges. Only `2000::/3` is global unicast; what is special within it is listed, and everything
/// outside it is refused whole. Forms that embed an IPv4 address are refused whole too: no receiver needs them.
const BLOCKED_V6: [(Ipv6Net, &str); 10] = [
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), "IPv4/IPv6 translation (NAT64)"),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "IPv4/IPv6 translation (NAT64)"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "IETF protocol assignments (Teredo, ORCHID, benchmarking)"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation"),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "unique local"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link local"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "site local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

/// All global unicast IPv6 addresses there are.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

#[expect(clippy::many_single_char_names, reason = "the eight segments, in order")]
const fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// An address that requests may not go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address {address} is blocked: {range}")]
pub struct BlockedAddress {
    /// The address.
    pub address: IpAddr,
    /// What its range is for.
    pub range: &'static str,
}

/// Which addresses requests may go to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    allowed: Vec<IpNet>,
}

impl AddressPolicy {
    /// Public addresses, and the excepted networks.
    pub fn with_exceptions(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Whether requests may go to an address.
    pub fn check(&self, address: IpAddr) -> Result<(), BlockedAddress> {
        let canonical = address.to_canonical();
        if self.allowed.iter().any(|network| network.contains(&address) || network.contains(&canonical)) {
            return Ok(());
        }
        blocked(address).map_or(Ok(()), |range| Err(BlockedAddress { address, range }))
    }
}

/// What the address's range is for, if it is a special one.
fn blocked(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => blocked_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => blocked_v4(mapped),
            None => blocked_v6(address),
        },
    }
}

fn blocked_v4(address: Ipv4Addr) -> Option<&'static str> {
    BLOCKED_V4.iter().find(|(range, _)| range.contains(&address)).map(|(_, name)| *name)
}

fn blocked_v6(address: Ipv6Addr) -> Option<&'static str> {
    let listed = BLOCKED_V6.iter().find(|(range, _)| range.contains(&address)).map(|(_, name)| *name);
    match listed {
        None if address.is_loopback() => Some("loopback"),
        None if address.is_unspecified() => Some("unspecified"),
        None if !GLOBAL_V6.contains(&address) => Some("not global unicast"),
        listed => listed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(address: &str) -> Result<(), BlockedAddress> {
        AddressPolicy::default().check(address.parse().unwrap())
    }

    #[test]
    fn first_and_last_address_of_every_special_range_are_blocked() {
        for (first, last) in [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "255.255.255.255"),
            ("::", "::1"),
            ("::7f00:1", "::ffff"),
            ("64:ff9b::", "64:ff9b::ffff:ffff"),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"),
            ("100::", "100::ffff:ffff:ffff:ffff"),
            ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            assert!(check(first).is_err(), "{first}");
            assert!(check(last).is_err(), "{last}");
        }
    }

    #[test]
    fn public_addresses_next_to_special_ranges_are_not_blocked() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2606:4700::1111",
            "2a00:1450::1",
            "2003::1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(check(address), Ok(()), "{address}");
        }
    }

    #[test]
    fn an_exception_opens_its_network_only() {
        let policy = AddressPolicy::with_exceptions(vec!["127.0.0.0/8".parse().unwrap()]);
        for open in ["127.0.0.1", "::ffff:127.0.0.1"] {
            assert_eq!(policy.check(open.parse().unwrap()), Ok(()), "{open}");
        }
        for closed in ["::1", "10.0.0.1", "169.254.169.254"] {
            assert!(policy.check(closed.parse().unwrap()).is_err(), "{closed}");
        }
    }

    proptest! {
        #[test]
        fn a_blocked_ipv4_address_is_blocked_in_every_ipv6_form(bits: u32) {
            let address = Ipv4Addr::from(bits);
            let [a, b, c, d] = address.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            let mapped = IpAddr::V6(address.to_ipv6_mapped());
            let policy = AddressPolicy::default();
            prop_assert_eq!(policy.check(mapped).is_err(), policy.check(IpAddr::V4(address)).is_err());
            for embedded in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, high, low, 0, 0, !high, !low),
            ] {
                prop_assert!(policy.check(IpAddr::V6(embedded)).is_err(), "{}", embedded);
            }
        }
    }
}

//! The rules against the registries themselves, as IANA published them (2026-07-18).
//!
//! What is refused is a union of intervals, in the table and in the registries. Two such unions are the same if they
//! agree on both sides of every boundary of both.

mod hosts;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::special::{SPECIAL_V4, SPECIAL_V6};
use super::*;

const REGISTRY_V4: &str = include_str!("registries/iana-ipv4-special-registry.csv");
const REGISTRY_V6: &str = include_str!("registries/iana-ipv6-special-registry.csv");
/// Multicast, IPv6 space that IANA does not give out, and cloud platforms.
const BESIDE: &str = include_str!("registries/beside-the-registries.csv");

const V4_MAX: u128 = u32::MAX as u128;

/// A block of addresses, read without the library that the rules use.
#[derive(Debug, Clone, Copy)]
struct Block {
    is_v4: bool,
    first: u128,
    last: u128,
}

impl Block {
    fn parse(text: &str) -> Self {
        let (address, prefix) = text.split_once('/').unwrap();
        let prefix: u32 = prefix.parse().unwrap();
        let (first, bits) = match address.parse().unwrap() {
            IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        let size = 1_u128.checked_shl(bits - prefix).map_or(u128::MAX, |size| size - 1);
        assert_eq!(first & size, 0, "{text} starts where it says");
        Self { is_v4: bits == 32, first, last: first + size }
    }

    fn contains(&self, number: u128) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// Both sides of both ends.
    fn edges(&self) -> Vec<u128> {
        let max = if self.is_v4 { V4_MAX } else { u128::MAX };
        let before = self.first.checked_sub(1);
        let after = self.last.checked_add(1).filter(|after| *after <= max);
        [before, Some(self.first), Some(self.last), after].into_iter().flatten().collect()
    }
}

fn blocks(csv: &str) -> Vec<Block> {
    csv.lines().skip(1).map(|line| Block::parse(line.split(',').next().unwrap())).collect()
}

fn blocks_of(is_v4: bool) -> Vec<Block> {
    let all = [REGISTRY_V4, REGISTRY_V6, BESIDE].into_iter().flat_map(blocks);
    all.filter(|block| block.is_v4 == is_v4).collect()
}

fn v4(number: u128) -> Ipv4Addr {
    Ipv4Addr::from(u32::try_from(number).unwrap())
}

fn is_open(policy: &AddressPolicy, address: impl Into<IpAddr>) -> bool {
    policy.check(address.into()).is_ok()
}

fn policy(networks: &[&str]) -> AddressPolicy {
    AddressPolicy::with_exceptions(networks.iter().map(|network| network.parse().unwrap()).collect())
}

/// Every IPv6 form that an IPv4 address travels in, save the mapped one.
fn embedded(address: Ipv4Addr) -> Vec<Ipv6Addr> {
    let [a, b, c, d] = address.octets().map(u16::from);
    let (high, low) = (a << 8 | b, c << 8 | d);
    vec![
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 1, 0xffff, 0xffff, 0xffff, high, low),
        Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x2001, 0, high, low, 0, 0, 0x1234, 0x5678),
        Ipv6Addr::new(0x2001, 0, 0x808, 0x808, 0, 0, !high, !low),
        Ipv6Addr::new(0x2a00, 0x1450, 1, 2, 0, 0x5efe, high, low),
        Ipv6Addr::new(0x2a00, 0x1450, 1, 2, 0x200, 0x5efe, high, low),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x5efe, high, low),
    ]
}

#[test]
fn the_registries_are_whole() {
    assert_eq!((blocks(REGISTRY_V4).len(), blocks(REGISTRY_V6).len()), (26, 25));
}

#[test]
fn every_block_of_the_registries_is_refused_from_its_first_address_to_its_last() {
    let policy = AddressPolicy::default();
    for block in blocks_of(true) {
        for number in [block.first, block.first.midpoint(block.last), block.last] {
            assert!(!is_open(&policy, v4(number)), "{}", v4(number));
        }
    }
    for block in blocks_of(false) {
        for number in [block.first, block.first.midpoint(block.last), block.last] {
            let address = Ipv6Addr::from(number);
            // The mapped form of a public IPv4 address is that address.
            if address.to_ipv4_mapped().is_none() {
                assert!(!is_open(&policy, address), "{address}");
            }
        }
    }
}

#[test]
fn nothing_else_is_refused() {
    let default = AddressPolicy::default();

    let registered = blocks_of(true);
    let own = SPECIAL_V4.iter().map(|(network, _)| Block::parse(&network.to_string()));
    let edges: BTreeSet<u128> =
        registered.iter().copied().chain(own).flat_map(|block| block.edges()).collect();
    for number in edges {
        let is_registered = registered.iter().any(|block| block.contains(number));
        assert_eq!(is_open(&default, v4(number)), !is_registered, "{}", v4(number));
    }

    let registered = blocks_of(false);
    let own = SPECIAL_V6.iter().map(|(network, _)| Block::parse(&network.to_string()));
    let edges: BTreeSet<u128> =
        registered.iter().copied().chain(own).flat_map(|block| block.edges()).collect();
    for number in edges {
        let address = Ipv6Addr::from(number);
        let is_registered = registered.iter().any(|block| block.contains(number));
        if address.to_ipv4_mapped().is_none() {
            assert_eq!(is_open(&default, address), !is_registered, "{address}");
        }
    }

    for address in
        ["1.1.1.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "2003::1", "::ffff:8.8.8.8"]
    {
        assert!(is_open(&default, address.parse::<IpAddr>().unwrap()), "{address}");
    }
}

#[test]
fn an_ipv4_address_is_judged_as_such_when_mapped_and_refused_in_every_other_form() {
    let policy = AddressPolicy::default();
    for address in blocks_of(true).iter().flat_map(Block::edges).map(v4) {
        assert_eq!(is_open(&policy, address.to_ipv6_mapped()), is_open(&policy, address), "{address}");
        for form in embedded(address) {
            assert!(!is_open(&policy, form), "{address} as {form}");
        }
    }
}

#[test]
fn no_cloud_gives_out_its_metadata() {
    for address in [
        "169.254.169.254", // AWS, Google, Azure, Oracle, DigitalOcean, OpenStack
        "169.254.170.2",   // AWS ECS
        "169.254.170.23",  // AWS EKS
        "fd00:ec2::254",
        "fd20:ce::254",    // Google
        "100.100.100.200", // Alibaba
        "192.0.0.192",     // Oracle
        "168.63.129.16",   // Azure
    ] {
        assert!(!is_open(&AddressPolicy::default(), address.parse::<IpAddr>().unwrap()), "{address}");
    }
}

#[test]
fn an_exception_opens_its_network_and_no_address_beside_it() {
    let default = AddressPolicy::default();
    for line in REGISTRY_V4.lines().skip(1) {
        let network = line.split(',').next().unwrap();
        let (block, excepted) = (Block::parse(network), policy(&[network]));
        for number in block.edges() {
            let address = v4(number);
            let expected = block.contains(number) || is_open(&default, address);
            assert_eq!(is_open(&excepted, address), expected, "{network}: {address}");
            assert_eq!(is_open(&excepted, address.to_ipv6_mapped()), expected, "{network}: mapped {address}");
            for form in embedded(address) {
                assert!(!is_open(&excepted, form), "{network}: {address} as {form}");
            }
        }
    }
    let excepted = policy(&["::1/128"]);
    assert!(is_open(&excepted, Ipv6Addr::LOCALHOST));
    for closed in ["127.0.0.1", "::", "::2", "::ffff:127.0.0.1"] {
        assert!(!is_open(&excepted, closed.parse::<IpAddr>().unwrap()), "{closed}");
    }
}

#[test]
fn an_exception_of_tunnelled_addresses_opens_those_whose_ipv4_address_is_open() {
    let nat64 = policy(&["64:ff9b::/96"]);
    assert!(is_open(&nat64, "64:ff9b::8.8.8.8".parse::<IpAddr>().unwrap()));
    assert!(!is_open(&nat64, "64:ff9b::10.0.0.1".parse::<IpAddr>().unwrap()));
    assert!(!is_open(&nat64, "64:ff9b::169.254.169.254".parse::<IpAddr>().unwrap()));
    let both = policy(&["64:ff9b::/96", "10.0.0.0/8"]);
    assert!(is_open(&both, "64:ff9b::10.0.0.1".parse::<IpAddr>().unwrap()));

    let every_v6 = policy(&["::/0"]);
    for address in blocks(REGISTRY_V4).iter().flat_map(Block::edges).map(v4) {
        let is_public = is_open(&AddressPolicy::default(), address);
        assert_eq!(is_open(&every_v6, address.to_ipv6_mapped()), is_public, "mapped {address}");
        for form in embedded(address).into_iter().filter(|form| !form.is_unspecified() && !form.is_loopback())
        {
            assert!(!is_open(&every_v6, form) || is_public, "{address} as {form}");
        }
    }
    assert!(is_open(&every_v6, "fd00::1".parse::<IpAddr>().unwrap()));
}

#[test]
fn an_exception_of_mapped_addresses_is_one_of_ipv4_addresses() {
    let mapped = policy(&["::ffff:10.0.0.0/104"]);
    for open in ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"] {
        assert!(is_open(&mapped, open.parse::<IpAddr>().unwrap()), "{open}");
    }
    for closed in ["127.0.0.1", "::ffff:127.0.0.1", "::10.0.0.1"] {
        assert!(!is_open(&mapped, closed.parse::<IpAddr>().unwrap()), "{closed}");
    }
}

#[test]
fn a_network_that_the_configuration_closes_is_closed_whether_public_or_excepted() {
    let closed = ["20.1.0.0/16", "10.0.1.0/24", "2a00:1450:1::/48"].map(|network| network.parse().unwrap());
    let policy = policy(&["10.0.0.0/8", "64:ff9b::/96"]).without(closed.to_vec());
    for address in ["20.1.2.3", "::ffff:20.1.2.3", "10.0.1.1", "2a00:1450:1::1", "64:ff9b::20.1.2.3"] {
        assert!(!is_open(&policy, address.parse::<IpAddr>().unwrap()), "{address}");
    }
    for address in ["20.2.0.0", "10.0.2.1", "2a00:1450:2::1", "64:ff9b::20.2.0.0"] {
        assert!(is_open(&policy, address.parse::<IpAddr>().unwrap()), "{address}");
    }
}

proptest! {
    #[test]
    fn an_address_is_open_if_and_only_if_no_registry_lists_it(bits: u32, segments: [u16; 8]) {
        let policy = AddressPolicy::default();
        let listed = blocks_of(true).iter().any(|block| block.contains(u128::from(bits)));
        prop_assert_eq!(is_open(&policy, Ipv4Addr::from(bits)), !listed);
        let mut address = Ipv6Addr::from(segments);
        for first in [segments[0], 0x2001, 0x2000 | (segments[0] & 0x1fff)] {
            let mut changed = address.segments();
            changed[0] = first;
            address = Ipv6Addr::from(changed);
            let listed = blocks_of(false).iter().any(|block| block.contains(u128::from(address)));
            prop_assert_eq!(is_open(&policy, address), !listed, "{}", address);
        }
    }

    #[test]
    fn no_form_of_an_ipv4_address_but_the_mapped_one_is_open(bits: u32) {
        for form in embedded(Ipv4Addr::from(bits)) {
            prop_assert!(!is_open(&AddressPolicy::default(), form), "{}", form);
        }
    }
}

//! The special addresses: the IANA special-purpose registries, and what lies beside them.
//!
//! The registries call some of their blocks globally reachable (AS112 sinks, AMT and port-control anycast). They are
//! refused too: what answers there belongs to a protocol, or to the network that the request starts from, and is
//! nobody's receiver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Refused IPv4 blocks; where one lies within another, the smaller comes first.
pub(super) const SPECIAL_V4: [(Ipv4Net, &str); 21] = [
    (v4([0, 0, 0, 0], 32), "unspecified"),
    (v4([0, 0, 0, 0], 8), "this network"),
    (v4([10, 0, 0, 0], 8), "private use"),
    (v4([100, 64, 0, 0], 10), "shared address space"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    // Reached from every virtual machine there, it gives out their configuration; the other clouds' lie in blocks above
    // and below.
    (v4([168, 63, 129, 16], 32), "the cloud platform's own"),
    (v4([169, 254, 0, 0], 16), "link local"),
    (v4([172, 16, 0, 0], 12), "private use"),
    (v4([192, 0, 0, 0], 24), "IETF protocol assignments"),
    (v4([192, 0, 2, 0], 24), "documentation"),
    (v4([192, 31, 196, 0], 24), "AS112"),
    (v4([192, 52, 193, 0], 24), "multicast tunnelling (AMT)"),
    (v4([192, 88, 99, 0], 24), "6to4 relay anycast"),
    (v4([192, 168, 0, 0], 16), "private use"),
    (v4([192, 175, 48, 0], 24), "AS112"),
    (v4([198, 18, 0, 0], 15), "benchmarking"),
    (v4([198, 51, 100, 0], 24), "documentation"),
    (v4([203, 0, 113, 0], 24), "documentation"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([255, 255, 255, 255], 32), "limited broadcast"),
    (v4([240, 0, 0, 0], 4), "reserved"),
];

/// Refused IPv6 blocks, those with a name of their own. Forms that embed an IPv4 address are refused whole: no receiver
/// needs them.
pub(super) const SPECIAL_V6: [(Ipv6Net, &str); 18] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "unspecified"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback"),
    (COMPATIBLE, "IPv4-compatible"),
    (TRANSLATED, "IPv4-translated"),
    (NAT64, "IPv4/IPv6 translation (NAT64)"),
    (LOCAL_NAT64, "IPv4/IPv6 translation (NAT64)"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "discard only"),
    (v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64), "dummy prefix"),
    (TEREDO, "Teredo"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "IETF protocol assignments"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation"),
    (SIX_TO_FOUR, "6to4"),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), "AS112"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "unique local"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link local"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "site local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

/// All global unicast addresses that IANA gives out (RFC 4291 §2.4 and IANA's IPv6 address space). Whatever lies
/// outside is refused, also what nobody has a use for yet.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// `::a.b.c.d` (RFC 4291 §2.5.5.1).
const COMPATIBLE: Ipv6Net = v6([0, 0, 0, 0, 0, 0, 0, 0], 96);
/// `::ffff:0:a.b.c.d` (RFC 2765 §2.1).
const TRANSLATED: Ipv6Net = v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96);
/// `64:ff9b::a.b.c.d` (RFC 6052 §2.1).
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
/// `64:ff9b:1:…:a.b.c.d` (RFC 8215).
const LOCAL_NAT64: Ipv6Net = v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48);
/// `2002:a.b.c.d::` (RFC 3056 §2).
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);
/// `2001:0:SERVER:flags:port:CLIENT`, the client's address inverted (RFC 4380 §4).
const TEREDO: Ipv6Net = v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32);

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

#[expect(clippy::many_single_char_names, reason = "the eight segments, in order")]
const fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// What the block of an address is for, if it is a special one. IPv4-mapped addresses must be unwrapped before.
pub(super) fn purpose(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => {
            SPECIAL_V4.iter().find(|(block, _)| block.contains(&address)).map(|(_, purpose)| *purpose)
        }
        IpAddr::V6(address) => {
            let named = SPECIAL_V6.iter().find(|(block, _)| block.contains(&address));
            match named {
                Some((_, purpose)) => Some(*purpose),
                None if !GLOBAL_V6.contains(&address) => Some("not global unicast"),
                None if is_isatap(address) => Some("IPv4 tunnel (ISATAP)"),
                None => None,
            }
        }
    }
}

/// Whether a router takes the last four bytes for an IPv4 address to tunnel to, under whatever prefix (RFC 5214 §6.1).
fn is_isatap(address: Ipv6Addr) -> bool {
    let [.., high, low, _, _] = address.segments();
    // The two bits that may be set say "universal" and "group".
    high & !0x0300 == 0 && low == 0x5efe
}

/// The IPv4 addresses that traffic to an IPv6 address may end at.
pub(super) fn embedded(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let segments = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let last = v4(segments[6], segments[7]);
    if address.is_unspecified() || address.is_loopback() {
        Vec::new()
    } else if TEREDO.contains(&address) {
        vec![v4(segments[2], segments[3]), v4(!segments[6], !segments[7])]
    } else if SIX_TO_FOUR.contains(&address) {
        vec![v4(segments[1], segments[2])]
    } else if [COMPATIBLE, TRANSLATED, NAT64, LOCAL_NAT64].iter().any(|block| block.contains(&address))
        || is_isatap(address)
    {
        vec![last]
    } else {
        Vec::new()
    }
}

//! Where requests may not go.
//!
//! A webhook's URL is chosen by strangers. Whatever name or spelling leads there, a request leaves only to an address
//! that anybody could reach from anywhere. What can be told from the URL is told when it is given; the address itself
//! is checked whenever it is connected to.

mod host;
mod special;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use host::{Host, HostError, InvalidName, OpenedName};

/// Ports that no web server has, and that a request could do harm at: the Fetch Standard's *bad ports*, which browsers
/// do not connect to either. They speak other protocols, some of which take what is sent to them as lines of commands
/// (SMTP, IRC).
const BAD_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103,
    104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514,
    515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723,
    2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10_080,
];

/// All IPv4 addresses, as IPv6 spells them (RFC 4291 §2.5.5.2).
const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

/// An address that requests may not go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address {address} is blocked: {range}")]
pub struct BlockedAddress {
    /// The address.
    pub address: IpAddr,
    /// What its range is for.
    pub range: &'static str,
}

/// A port that requests may not go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("port {0} is not for web servers")]
pub struct BlockedPort(pub u16);

/// Which addresses requests may go to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    allowed: Vec<IpNet>,
    refused: Vec<IpNet>,
    ports: Vec<u16>,
    names: Vec<OpenedName>,
}

impl AddressPolicy {
    /// Public addresses, and the excepted networks.
    ///
    /// An exception opens its network and nothing else: not the other forms that an address within it could be
    /// tunnelled by. One that covers such forms (NAT64's `64:ff9b::/96`) opens those whose IPv4 address is open
    /// too. An exception of everything (`0.0.0.0/0`) is one: it opens every IPv4 address.
    pub fn with_exceptions(allowed: Vec<IpNet>) -> Self {
        Self { allowed: allowed.into_iter().map(canonical).collect(), ..Self::default() }
    }

    /// The same without these networks, whether public or excepted.
    #[must_use]
    pub fn without(self, refused: Vec<IpNet>) -> Self {
        Self { refused: refused.into_iter().map(canonical).collect(), ..self }
    }

    /// The same with these ports, on every address, though they are not for web servers.
    #[must_use]
    pub fn with_ports(self, ports: Vec<u16>) -> Self {
        Self { ports, ..self }
    }

    /// The same with these names and those below them, though they are none of the public DNS. What they lead to is
    /// checked like any address.
    #[must_use]
    pub fn with_names(self, names: Vec<OpenedName>) -> Self {
        Self { names, ..self }
    }

    /// Whether requests may go to an address.
    pub fn check(&self, address: IpAddr) -> Result<(), BlockedAddress> {
        // To the kernel `::ffff:a.b.c.d` is `a.b.c.d`.
        let canonical = address.to_canonical();
        if self.refused.iter().any(|network| network.contains(&canonical)) {
            return Err(BlockedAddress { address, range: "closed by the configuration" });
        }
        if self.is_excepted(canonical) {
            return Ok(());
        }
        special::purpose(canonical).map_or(Ok(()), |range| Err(BlockedAddress { address, range }))
    }

    /// Whether requests to an allowed address may go to a port of it. In excepted networks they may go to every port.
    pub fn check_port(&self, address: IpAddr, port: u16) -> Result<(), BlockedPort> {
        if self.is_bad(port) && !self.is_excepted(address.to_canonical()) {
            return Err(BlockedPort(port));
        }
        Ok(())
    }

    /// Whether a port is one that no web server has.
    fn is_bad(&self, port: u16) -> bool {
        BAD_PORTS.binary_search(&port).is_ok() && !self.ports.contains(&port)
    }

    fn is_excepted(&self, address: IpAddr) -> bool {
        let inner = match address {
            IpAddr::V4(_) => Vec::new(),
            IpAddr::V6(address) => special::embedded(address),
        };
        self.allowed.iter().any(|network| network.contains(&address))
            && inner.into_iter().all(|inner| self.check(IpAddr::V4(inner)).is_ok())
    }
}

/// A network of IPv4-mapped addresses is one of IPv4 addresses.
fn canonical(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(mapped) if MAPPED.contains(&mapped) => mapped
            .addr()
            .to_ipv4_mapped()
            .and_then(|address| Ipv4Net::new(address, mapped.prefix_len() - MAPPED.prefix_len()).ok())
            .map_or(network, IpNet::V4),
        other => other,
    }
}

//! Which hosts a URL may name, as far as that can be told without asking DNS.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use super::{AddressPolicy, BlockedAddress, BlockedPort};

/// Names that are none of the public DNS, with every name below them: what they lead to, if to anything, lies in
/// somebody's own network. `.example` is none of them: software is to treat it like any other (RFC 6761 §6.5), and it
/// leads nowhere.
const NOT_PUBLIC: [&str; 18] = [
    "localhost",   // RFC 6761 §6.3
    "test",        // RFC 6761 §6.2
    "invalid",     // RFC 6761 §6.4
    "local",       // RFC 6762 §3: multicast DNS, and what Kubernetes calls its clusters
    "onion",       // RFC 7686 §2: must not reach DNS
    "alt",         // RFC 9476 §2: other name systems
    "arpa",        // RFC 3172: infrastructure; RFC 8375's `home.arpa` and RFC 7050's `ipv4only.arpa` among it
    "internal",    // ICANN resolution 2024.07.29.06
    "localdomain", // hosts files, this one and the next
    "localdomain6",
    "intranet", // RFC 6762, appendix G, this one to `lan`
    "private",
    "corp",
    "home",
    "lan",
    "mail",      // ICANN resolution 2018.02.04.12: with `corp` and `home` never to be delegated
    "workgroup", // Windows
    "svc",       // short forms of services in a Kubernetes cluster
];

/// Most bytes of a name and of one of its labels (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A URL's host: what it is, in whatever spelling it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An IP address.
    Address(IpAddr),
    /// A name: lower case, without the dot at its end.
    Name(String),
}

/// A host that requests may not go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// No host at all.
    #[error("`{0}` is neither a host name nor an IP address")]
    NotAHost(String),
    /// Not a name of the public DNS.
    #[error("`{0}` is not a name of the public DNS")]
    NotPublic(String),
    /// A blocked address.
    #[error(transparent)]
    Address(#[from] BlockedAddress),
    /// A blocked port.
    #[error(transparent)]
    Port(#[from] BlockedPort),
}

/// A name that a policy opens, with those below it: written as [`Host::Name`] is, or it would match nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedName(String);

/// No host can have such a name, nor one below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a host name such as hooks.internal, which opens those below it too: labels of letters, digits, `-` and \
     `_` between single dots, without scheme, port, path or `*`, and no address"
)]
pub struct InvalidName;

impl FromStr for OpenedName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        // What the URL standard takes for an address is never taken for a name.
        match url::Host::parse(&name) {
            Ok(url::Host::Domain(_)) if is_dns_name(&name) => Ok(Self(name)),
            _ => Err(InvalidName),
        }
    }
}

impl fmt::Display for OpenedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AddressPolicy {
    /// Reads a URL's host and checks what can be told from it; a name's addresses are still to be checked, with the port
    /// if there are exceptions: only they may have ports of other protocols. `localhost`
    /// and the names below it are accepted where loopback addresses are excepted.
    ///
    /// The spelling is the WHATWG URL standard's, which covers what `getaddrinfo` takes for an address too: decimal,
    /// octal and hexadecimal, one to four parts, percent-encoded, full-width, with a dot at the end. A name whose last
    /// label is a number is an address or nothing (URL standard, *ends in a number*).
    pub fn check_host(&self, text: &str, port: u16) -> Result<Host, HostError> {
        match url::Host::parse(text) {
            Ok(url::Host::Ipv4(address)) => self.check_address(IpAddr::V4(address), port),
            Ok(url::Host::Ipv6(address)) => self.check_address(IpAddr::V6(address), port),
            Ok(url::Host::Domain(name)) => self.check_name(&name, port),
            Err(_) => Err(HostError::NotAHost(text.to_owned())),
        }
    }

    fn check_address(&self, address: IpAddr, port: u16) -> Result<Host, HostError> {
        self.check(address)?;
        self.check_port(address, port)?;
        Ok(Host::Address(address))
    }

    fn check_name(&self, name: &str, port: u16) -> Result<Host, HostError> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_below = |parent: &str| {
            name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let is_ours = is_below("localhost") && self.check(IpAddr::V4(Ipv4Addr::LOCALHOST)).is_ok()
            || self.names.iter().any(|parent| is_below(&parent.0));
        if !is_dns_name(name) || !is_ours && (!name.contains('.') || NOT_PUBLIC.into_iter().any(is_below)) {
            return Err(HostError::NotPublic(name.to_owned()));
        }
        if self.is_bad(port) && self.allowed.is_empty() {
            return Err(HostError::Port(BlockedPort(port)));
        }
        Ok(Host::Name(name.to_owned()))
    }
}

/// Labels of letters, digits and hyphens (RFC 1123 §2.1), and the underscores that some names have nevertheless. URLs take
/// more, resolvers differ on it.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= MAX_NAME
        && name.split('.').all(is_label)
        && last.bytes().any(|byte| byte.is_ascii_alphabetic())
}

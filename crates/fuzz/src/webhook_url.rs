//! The rules for webhooks' URLs, against every other reading of the same text.

use std::net::{IpAddr, Ipv4Addr};

use domain::limits::MAX_URL_CHARS;
use domain::network::AddressPolicy;
use domain::webhook_url::{UrlPolicy, WebhookUrl};
use http::Uri;

use crate::Verdict;

/// Checks a URL as it is checked at creation.
pub fn check(input: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::Refused("not UTF-8".to_owned()) };
    let policy = UrlPolicy::default();
    let url = match WebhookUrl::parse(text, &policy) {
        Ok(url) => url,
        Err(error) => {
            assert!(error.to_string().len() <= 1024 + text.len(), "errors are bounded");
            return Verdict::Refused(error.code().to_owned());
        }
    };
    assert_eq!(url.as_str(), text, "it is kept as it was written");
    let requested = url.url();
    assert_eq!(requested.scheme(), "https");
    assert!(requested.username().is_empty() && requested.password().is_none(), "no user name, no password");
    assert_eq!(requested.fragment(), None);

    // Read again as it is requested, it is the same; what had to be escaped may make it longer than a developer's may be.
    if requested.as_str().len() <= MAX_URL_CHARS {
        let again = WebhookUrl::parse(requested.as_str(), &policy);
        let again = again.unwrap_or_else(|error| panic!("refused when it is read again: {error}"));
        assert_eq!(again.url(), requested);
    }

    // The request is made with another parser's reading of it.
    let uri: Uri = requested.as_str().parse().unwrap_or_else(|error| panic!("cannot be requested: {error}"));
    assert_eq!(uri.scheme_str(), Some("https"));
    assert_eq!(uri.host(), requested.host_str(), "the same host for both parsers");
    assert_eq!(uri.port_u16(), requested.port(), "the same port for both parsers");
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    assert!(!authority.contains('@'), "no user name in {authority}");

    check_host(uri.host().unwrap_or_default());
    Verdict::Accepted
}

/// The host is a public address or a name that can only be one: no reading of it is an internal address.
fn check_host(host: &str) {
    assert!(!host.is_empty() && host.is_ascii(), "{host:?}");
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let readings = [bare.parse().ok(), ipv4_as_old_parsers_read_it(bare).map(IpAddr::V4)];
    for address in readings.into_iter().flatten() {
        if let Err(blocked) = AddressPolicy::default().check(address) {
            panic!("{host} leads to {blocked}");
        }
    }
    if host.starts_with('[') || readings.iter().any(Option::is_some) {
        return;
    }
    assert!(!host.contains(['%', '[', ']', ':', '/', '\\', '?', '#', '@', ' ']), "{host} is no name");
    let labels: Vec<_> = host.trim_end_matches('.').split('.').collect();
    assert!(labels.len() >= 2, "{host} has no meaning outside of a network");
    let last = labels.last().copied().unwrap_or_default().to_ascii_lowercase();
    assert!(
        !["localhost", "local", "internal", "lan", "localdomain"].contains(&last.as_str()),
        "{host} is internal"
    );
    let hexadecimal = last.strip_prefix("0x").unwrap_or("-").bytes().all(|byte| byte.is_ascii_hexdigit());
    let decimal = last.bytes().all(|byte| byte.is_ascii_digit());
    assert!(!hexadecimal && !decimal, "{host} ends like an address");
}

/// `inet_aton(3)`: one to four numbers, decimal, octal or hexadecimal; the last fills the remaining bytes.
fn ipv4_as_old_parsers_read_it(text: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> =
        text.strip_suffix('.').unwrap_or(text).split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) {
        return None;
    }
    let free_bits = 32 - 8 * u32::try_from(first.len()).ok()?;
    if u64::from(*last) >= 1 << free_bits {
        return None;
    }
    let high = first.iter().zip([24, 16, 8]).fold(0, |bits, (part, shift)| bits | part << shift);
    Some(Ipv4Addr::from(high | last))
}

fn number(text: &str) -> Option<u32> {
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None; // `parse` takes a sign
    }
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match (hexadecimal, text.strip_prefix('0')) {
        (Some(digits), _) => u32::from_str_radix(digits, 16).ok(),
        (None, Some(digits)) if !digits.is_empty() => u32::from_str_radix(digits, 8).ok(),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_inet_aton_reads_them() {
        for (text, address) in [
            ("127.0.0.1", Some([127, 0, 0, 1])),
            ("127.1", Some([127, 0, 0, 1])),
            ("0x7f.0.1", Some([127, 0, 0, 1])),
            ("0177.0.0.01", Some([127, 0, 0, 1])),
            ("2130706433", Some([127, 0, 0, 1])),
            ("0", Some([0, 0, 0, 0])),
            ("10.256", Some([10, 0, 1, 0])),
            ("256.1", None),
            ("1.2.3.256", None),
            ("1.2.3.4.5", None),
            ("example.com", None),
            ("", None),
        ] {
            assert_eq!(ipv4_as_old_parsers_read_it(text), address.map(Ipv4Addr::from), "{text}");
        }
    }

    #[test]
    #[should_panic(expected = "loopback")]
    fn a_name_that_old_parsers_read_as_loopback_is_found() {
        check_host("0x7f.1");
    }
}

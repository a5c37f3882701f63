//! Which URLs a webhook may have (contract, *Validation*).

use std::fmt;

use url::Url;

use crate::limits::MAX_URL_CHARS;
use crate::network::{AddressPolicy, BlockedAddress, BlockedPort, HostError};

/// The schemes that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schemes {
    /// `https` alone.
    #[default]
    HttpsOnly,
    /// `https`, and `http` for development.
    HttpToo,
}

/// What a webhook's URL may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlPolicy {
    /// The schemes that are accepted.
    pub schemes: Schemes,
    /// The addresses that are accepted.
    pub addresses: AddressPolicy,
}

/// Where events go: a URL that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    as_given: String,
    url: Url,
}

/// A URL that no webhook may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Longer than 2048 characters.
    #[error("must have at most {MAX_URL_CHARS} characters")]
    TooLong,
    /// Not an absolute URL.
    #[error("must be an absolute URL such as https://example.com/webhooks")]
    NotAbsolute,
    /// Not `https`.
    #[error("must start with https://")]
    Scheme,
    /// Has a user name or a password.
    #[error("must not contain a user name or a password")]
    UserInfo,
    /// Has a fragment.
    #[error("must not contain a fragment (#…)")]
    Fragment,
    /// Leads into a blocked network.
    #[error("must lead to a public address: {0}")]
    BlockedAddress(BlockedAddress),
    /// Is a name of a local network, or of none.
    #[error("must lead to a public host: `{0}` is not a name of the public DNS")]
    NotPublic(String),
    /// Leads to a port that no web server has.
    #[error("must lead to a web server: {0}")]
    BlockedPort(BlockedPort),
}

impl From<HostError> for UrlError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::NotAHost(_) => Self::NotAbsolute,
            HostError::NotPublic(name) => Self::NotPublic(name),
            HostError::Address(blocked) => Self::BlockedAddress(blocked),
            HostError::Port(blocked) => Self::BlockedPort(blocked),
        }
    }
}

impl UrlError {
    /// The code that programs go by.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong => "url_too_long",
            Self::NotAbsolute => "url_not_absolute",
            Self::Scheme => "url_scheme",
            Self::UserInfo => "url_user_info",
            Self::Fragment => "url_fragment",
            Self::BlockedAddress(_) | Self::NotPublic(_) => "url_blocked_host",
            Self::BlockedPort(_) => "url_blocked_port",
        }
    }
}

impl WebhookUrl {
    /// Checks a developer's URL, as the WHATWG URL standard reads it.
    pub fn parse(text: &str, policy: &UrlPolicy) -> Result<Self, UrlError> {
        if text.chars().count() > MAX_URL_CHARS {
            return Err(UrlError::TooLong);
        }
        // The parser would quietly drop white space and control characters.
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(UrlError::NotAbsolute);
        }
        let url = Url::parse(text).map_err(|_| UrlError::NotAbsolute)?;
        match (url.scheme(), policy.schemes) {
            ("https", _) | ("http", Schemes::HttpToo) => {}
            _ => return Err(UrlError::Scheme),
        }
        if authority(text, url.scheme()).ok_or(UrlError::NotAbsolute)?.contains('@') {
            return Err(UrlError::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(UrlError::Fragment);
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(UrlError::NotAbsolute);
        };
        policy.addresses.check_host(host, port)?;
        Ok(Self { as_given: text.to_owned(), url })
    }

    /// The URL as the developer wrote it.
    pub fn as_str(&self) -> &str {
        &self.as_given
    }

    /// The URL as it is requested.
    pub fn url(&self) -> &Url {
        &self.url
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_given)
    }
}

/// What stands between `://` and the path, as written. None in forms that this parser mends and others read
/// differently: without `//`, with more slashes, with backslashes.
fn authority<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let rest = text.get(scheme.len()..)?.strip_prefix("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    (!authority.is_empty() && !text.contains('\\')).then_some(authority)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String, UrlError> {
        WebhookUrl::parse(text, &UrlPolicy::default()).map(|url| url.as_str().to_owned())
    }

    fn development() -> UrlPolicy {
        let loopback = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        UrlPolicy { schemes: Schemes::HttpToo, addresses: AddressPolicy::with_exceptions(loopback) }
    }

    #[test]
    fn public_https_urls_are_kept_as_written() {
        for text in [
            "https://votre-domaine.com/webhooks/lokroom",
            "https://example.com",
            "https://EXAMPLE.com:8443/a?b=c%20d",
            "https://1.1.1.1/hook",
            "https://[2606:4700::1111]/",
            "https://été.example/",
        ] {
            assert_eq!(parse(text), Ok(text.to_owned()));
        }
    }

    #[test]
    fn every_rule_has_its_error() {
        for (text, code) in [
            ("", "url_not_absolute"),
            ("/webhooks", "url_not_absolute"),
            ("example.com/x", "url_not_absolute"),
            ("https://", "url_not_absolute"),
            ("https://exa mple.com", "url_not_absolute"),
            ("https://example.com/\n", "url_not_absolute"),
            ("http://example.com", "url_scheme"),
            ("ftp://example.com", "url_scheme"),
            ("javascript:alert(1)", "url_scheme"),
            ("https://user@example.com", "url_user_info"),
            ("https://user:pass@example.com", "url_user_info"),
            ("https://example.com/#top", "url_fragment"),
            ("https://localhost/", "url_blocked_host"),
            ("https://LOCALHOST./", "url_blocked_host"),
            ("https://api.localhost/", "url_blocked_host"),
            ("https://printer.local/", "url_blocked_host"),
            ("https://metadata.google.internal/", "url_blocked_host"),
            ("https://rabbitmq/", "url_blocked_host"),
            ("https:example.com/", "url_not_absolute"),
            ("https:/example.com/", "url_not_absolute"),
            ("https:///example.com/", "url_not_absolute"),
            ("https:\\\\example.com/", "url_not_absolute"),
            ("https://example.com\\@127.0.0.1/", "url_not_absolute"),
            ("https://@example.com/", "url_user_info"),
            ("https://:@example.com/", "url_user_info"),
            ("https://example.com:25/", "url_blocked_port"),
            ("https://1.1.1.1:22/", "url_blocked_port"),
        ] {
            assert_eq!(parse(text).map_err(|error| error.code()), Err(code), "{text}");
        }
        let long = format!("https://example.com/{}", "x".repeat(2048));
        assert_eq!(parse(&long), Err(UrlError::TooLong));
    }

    #[test]
    fn an_internal_address_is_refused_in_every_spelling() {
        for text in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://0x7f.1/",
            "https://127.0.0.1./",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://0/",
            "https://169.254.169.254/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://192.168.0.1/",
            "https://①②⑦.⓪.⓪.①/",
        ] {
            assert!(matches!(parse(text), Err(UrlError::BlockedAddress(_))), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn the_development_policy_takes_http_and_loopback_but_no_other_internal_host() {
        for text in [
            "http://127.0.0.1:3000/hook",
            "http://localhost:3000",
            "http://api.localhost:3000",
            "http://localhost:25/",
            "http://127.0.0.1:1/",
            "http://[::1]:3000/",
            "https://example.com",
        ] {
            assert!(WebhookUrl::parse(text, &development()).is_ok(), "{text}");
        }
        for text in ["http://10.0.0.1/", "http://printer.local/", "ftp://localhost/"] {
            assert!(WebhookUrl::parse(text, &development()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}") {
            let _ = WebhookUrl::parse(&text, &UrlPolicy::default());
        }

        #[test]
        fn no_spelling_of_a_loopback_address_is_accepted(c: u8, d: u8, e: u8, form in 0_usize..6) {
            let address = u32::from_be_bytes([127, c, d, e]);
            let host = match form {
                0 => format!("127.{c}.{d}.{e}"),
                1 => format!("{address}"),
                2 => format!("{address:#x}"),
                3 => format!("0{address:o}"),
                4 => format!("0x7f.{}", address & 0x00ff_ffff),
                _ => format!("[::ffff:127.{c}.{d}.{e}]"),
            };
            let text = format!("https://{host}/");
            prop_assert!(parse(&text).is_err(), "{}", text);
        }
    }
}

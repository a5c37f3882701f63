//! One fetch of a key set: https, one host, one deadline, a bounded answer.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, LOCATION, USER_AGENT};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use service::settings::Auth;
use tokio::time::timeout;
use url::Url;

use crate::keys::{KeySet, SetError};

/// Most headers of an answer.
const MAX_HEADERS: usize = 100;

/// Most bytes of an answer's head.
const MAX_HEAD: usize = 64 * 1024;

/// Most characters of a redirect's target in an error.
const MAX_SHOWN: usize = 200;

/// What was fetched.
pub(super) struct Fetched {
    pub(super) set: KeySet,
    /// How long the provider lets it be remembered (`Cache-Control`), if it says.
    pub(super) max_age: Option<Duration>,
}

/// A fetch gave no keys, and why.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    #[error("no answer: {0}")]
    Http(String),
    /// Not followed, so that whoever can make the provider redirect does not choose who signs tokens.
    #[error("it redirects to {0}, which is not followed; configure the address that has the keys")]
    Redirect(String),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error("the answer has more than {0} bytes (auth.jwks_size_limit)")]
    TooLarge(usize),
    #[error("the answer is {0}")]
    Set(#[from] SetError),
    /// Not the same as none at all, which is how a provider takes all back.
    #[error(
        "of the answer's {0} keys none can be used; usable are public RSA (RS256, 2048 bits and more), P-256 (ES256) \
         and Ed25519 (EdDSA) keys"
    )]
    NoUsableKey(usize),
}

/// Where the keys are. Operators configure it, and it may be internal: the rules for webhooks' addresses are not its.
pub(super) struct Provider {
    uri: Uri,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    timeout: Duration,
    size_limit: usize,
}

impl Provider {
    /// An error completes a sentence that starts with the key's name.
    pub(super) fn new(url: &str, auth: &Auth) -> Result<Self, String> {
        let uri = check(url, auth.jwks_allow_http)?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls(auth.jwks_ca_file.as_deref())?);
        let connector = if auth.jwks_allow_http { connector.https_or_http() } else { connector.https_only() };
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_headers(MAX_HEADERS)
            .http1_max_buf_size(MAX_HEAD)
            .build(connector.enable_http1().build());
        let (timeout, size_limit) = (auth.jwks_timeout.0, auth.jwks_size_limit.0);
        Ok(Self { uri, client, timeout, size_limit })
    }

    /// Asks for the keys. Ends in time, whatever the provider does.
    pub(super) async fn fetch(&self) -> Result<Fetched, FetchError> {
        timeout(self.timeout, self.answer()).await.map_err(|_| FetchError::Timeout(self.timeout))?
    }

    async fn answer(&self) -> Result<Fetched, FetchError> {
        let request = Request::get(self.uri.clone())
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, "Lokroom-Webhooks/1.0")
            .body(Empty::new())
            .map_err(|error| FetchError::Http(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| http_error(&error))?;
        let (status, headers) = (response.status(), response.headers());
        if status.is_redirection() {
            let target = headers.get(LOCATION).and_then(|target| target.to_str().ok()).unwrap_or("nowhere");
            return Err(FetchError::Redirect(target.chars().take(MAX_SHOWN).collect()));
        }
        if status != StatusCode::OK {
            return Err(FetchError::Status(status.as_u16()));
        }
        let max_age = max_age(headers);
        let body = Limited::new(response.into_body(), self.size_limit).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::TooLarge(self.size_limit)
            } else {
                http_error(error.as_ref())
            }
        })?;
        let set = KeySet::read(&body.to_bytes())?;
        if set.keys.is_empty() && set.left_out > 0 {
            return Err(FetchError::NoUsableKey(set.left_out));
        }
        Ok(Fetched { set, max_age })
    }
}

fn check(text: &str, allow_http: bool) -> Result<Uri, String> {
    let url: Url = text.parse().map_err(|_| "is not a URL".to_owned())?;
    match url.scheme() {
        "https" => {}
        "http" if allow_http => {}
        "http" => return Err("must start with https://; auth.jwks_allow_http is for development".to_owned()),
        _ => return Err("must start with https://".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not have a user name or password".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must not have a fragment".to_owned());
    }
    url.as_str().parse().map_err(|_| "is not a URL".to_owned())
}

fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let unusable = |reason: String| format!("needs auth.jwks_ca_file {}: {reason}", path.display());
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err("needs certificates to trust: install the system's or set auth.jwks_ca_file".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// The innermost cause says most.
fn http_error(error: &(dyn StdError + 'static)) -> FetchError {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    FetchError::Http(cause.to_string())
}

/// RFC 9111 §5.2.2: `max-age`, and nothing where the answer is not to be kept.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<_> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    if directives.iter().any(|name| ["no-store", "no-cache"].iter().any(|no| name.eq_ignore_ascii_case(no))) {
        return Some(Duration::ZERO);
    }
    directives.iter().find_map(|directive| {
        let (name, seconds) = directive.split_once('=')?;
        let is_it = name.trim().eq_ignore_ascii_case("max-age");
        is_it.then(|| seconds.trim().trim_matches('"').parse().map(Duration::from_secs).ok())?
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_an_https_url_without_credentials_is_asked() {
        for (url, allow_http) in [
            ("https://login.lokroom.com/.well-known/jwks.json", false),
            ("https://10.0.0.7:8443/keys?tenant=1", false),
            ("http://127.0.0.1:3000/keys", true),
        ] {
            assert_eq!(check(url, allow_http).map(|uri| uri.to_string()).as_deref(), Ok(url));
        }
        for url in [
            "",
            "keys",
            "/keys",
            "//login/keys",
            "http://login/keys",
            "ftp://login/keys",
            "file:///etc/keys.json",
            "https://",
            "https://user@login/keys",
            "https://user:password@login/keys",
            "https://login/keys#x",
        ] {
            let refused = check(url, false).expect_err(url);
            assert!(!refused.contains("password@"), "{refused}");
        }
        assert!(check("ftp://login/keys", true).is_err());
    }

    #[test]
    fn how_long_keys_are_good_for_is_read_from_cache_control() {
        let read = |value: &str| {
            max_age(&HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_str(value).unwrap())]))
        };
        assert_eq!(max_age(&HeaderMap::new()), None);
        for (value, seconds) in [
            ("max-age=600", Some(600)),
            ("public, Max-Age = 600, must-revalidate", Some(600)),
            ("max-age=\"600\"", Some(600)),
            ("s-maxage=1, max-age=600", Some(600)),
            ("no-store", Some(0)),
            ("max-age=600, No-Cache", Some(0)),
            ("public", None),
            ("max-age=", None),
            ("max-age=-1", None),
            ("max-age=99999999999999999999", None),
        ] {
            assert_eq!(read(value), seconds.map(Duration::from_secs), "{value}");
        }
    }
}

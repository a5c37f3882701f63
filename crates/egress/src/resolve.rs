//! From host names to addresses.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tracing::warn;

use crate::attempt::AttemptError;

/// Names whose addresses are remembered, for as long as their records say.
const CACHED_NAMES: u64 = 10_000;

/// The longest wait for one answer of one name server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks names up as the system's configuration says, without blocking the runtime.
#[derive(Clone)]
pub(crate) struct Resolver(TokioResolver);

impl Resolver {
    pub(crate) fn new() -> Result<Self, String> {
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            warn!(%error, "no usable DNS configuration; only IP addresses and /etc/hosts can be reached");
            let empty = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            TokioResolver::builder_with_config(empty, TokioRuntimeProvider::default())
        });
        let mut builder = builder;
        let options = builder.options_mut();
        options.cache_size = CACHED_NAMES;
        options.timeout = ANSWER_TIMEOUT;
        options.attempts = 2;
        // A receiver's name is whole: it is not tried in the search domains first, whatever `ndots` says there.
        options.ndots = 0;
        builder.build().map(Self).map_err(|error| error.to_string())
    }

    pub(crate) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, AttemptError> {
        let found = self.0.lookup_ip(name).await.map_err(|error| AttemptError::Dns(error.to_string()))?;
        Ok(found.iter().collect())
    }
}

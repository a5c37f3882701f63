//! From host names to addresses.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use moka::Expiry;
use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};
use tracing::{info, warn};

use crate::attempt::{AttemptError, is_exhausted};

/// Where systems keep their name servers' addresses.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Addresses of a family that are used. Names with more have them for load balancing: any eight will do.
const ADDRESSES_PER_FAMILY: usize = 8;

/// How much longer one family is waited for when the other has addresses already: some names' servers answer questions
/// for IPv6 never (RFC 8305 §3 calls it the resolution delay).
const RESOLUTION_DELAY: Duration = Duration::from_millis(250);

/// How long it is remembered that a name's servers failed. RFC 9520 §3.2 asks for at least this.
const FAILURE_TTL: Duration = Duration::from_secs(1);

/// How long it is remembered that a name's servers are silent: longer than it takes to find out, so that their names
/// are not looked up most of the time.
const SILENCE_TTL: Duration = Duration::from_secs(10);

/// How names are looked up.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Name servers to ask instead of the system's.
    pub name_servers: Vec<SocketAddr>,
    /// Where the system says which are its own: [`RESOLV_CONF`].
    pub resolv_conf: PathBuf,
    /// Longest wait for a name's addresses, its turn included.
    pub timeout: Duration,
    /// Names that are looked up at once; one whose servers do not answer takes up to eight sockets.
    pub max_lookups: usize,
    /// Names that are remembered, with their addresses or their lack of any.
    pub cached_names: u64,
    /// Longest time that addresses are remembered, whatever their records say.
    pub max_ttl: Duration,
    /// Longest time that the lack of addresses is remembered.
    pub max_negative_ttl: Duration,
}

/// Looks names up without blocking the runtime: as the system's configuration says, and its hosts file.
#[derive(Clone)]
pub(crate) struct Resolver {
    servers: Arc<Mutex<Servers>>,
    known: Cache<String, Answer>,
    turns: Arc<Semaphore>,
    config: Arc<DnsConfig>,
}

/// Who is asked.
struct Servers {
    resolver: TokioResolver,
    /// The system says so nowhere.
    unknown: bool,
}

/// What became of a question, and how long that holds.
#[derive(Debug, Clone)]
struct Answer {
    addresses: Result<Arc<[IpAddr]>, AttemptError>,
    ttl: Duration,
}

/// Addresses of one family, and how long they hold.
type Family = Result<(Vec<IpAddr>, Duration), NetError>;

struct ForItsTtl;

impl Expiry<String, Answer> for ForItsTtl {
    fn expire_after_create(&self, _: &String, answer: &Answer, _: Instant) -> Option<Duration> {
        Some(answer.ttl)
    }

    fn expire_after_update(
        &self,
        _: &String,
        answer: &Answer,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(answer.ttl)
    }
}

impl Resolver {
    pub(crate) fn new(config: DnsConfig) -> Result<Self, String> {
        let servers = if config.name_servers.is_empty() {
            match system(&config) {
                Ok(resolver) => Servers { resolver, unknown: false },
                Err(reason) => {
                    warn!(
                        reason,
                        "no usable DNS configuration: only IP addresses and the hosts file can be reached"
                    );
                    Servers {
                        resolver: build(&config, TokioResolver::builder_with_config(none(), runtime()))?,
                        unknown: true,
                    }
                }
            }
        } else {
            let servers = config.name_servers.iter().copied().map(name_server).collect();
            let servers = ResolverConfig::from_name_servers(servers);
            let resolver = build(&config, TokioResolver::builder_with_config(servers, runtime()))?;
            Servers { resolver, unknown: false }
        };
        Ok(Self {
            servers: Arc::new(Mutex::new(servers)),
            known: remembered(config.cached_names),
            turns: Arc::new(Semaphore::new(config.max_lookups)),
            config: Arc::new(config),
        })
    }

    /// The same with a memory and a turn of its own, for one name of ours: no stranger's name keeps it waiting.
    pub(crate) fn for_one_name(&self) -> Self {
        Self { known: remembered(1), turns: Arc::new(Semaphore::new(1)), ..self.clone() }
    }

    /// A name's addresses, at most 16, the families by turns. However many ask for a name at once, it is looked up once.
    ///
    /// Cancellation: the look-up goes on if others wait for it.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, AttemptError> {
        let answer = self.known.get_with_by_ref(name, self.look_up(name)).await;
        answer.addresses.map(|addresses| addresses.to_vec())
    }

    async fn look_up(&self, name: &str) -> Answer {
        let Some(whole) = whole(name) else {
            return self.failed(format!("{name} is not a host name"));
        };
        let (end, wait) = (Instant::now() + self.config.timeout, self.config.timeout);
        // Who gets no turn in half of the time would blame the name's servers for what others take.
        let Ok(_turn) = timeout(wait / 2, self.turns.acquire()).await else {
            return self.without(AttemptError::NoTurn, Duration::ZERO);
        };
        match timeout_at(end.into(), self.both_families(whole)).await {
            Ok((v4, v6)) => self.judge(name, v4, v6),
            Err(_) => self.silent(name),
        }
    }

    async fn both_families(&self, name: Name) -> (Family, Family) {
        let mut v4 = pin!(self.family(name.clone(), RecordType::A));
        let mut v6 = pin!(self.family(name, RecordType::AAAA));
        tokio::select! {
            v4 = &mut v4 => { let v6 = other_family(&v4, v6).await; (v4, v6) }
            v6 = &mut v6 => { let v4 = other_family(&v6, v4).await; (v4, v6) }
        }
    }

    async fn family(&self, name: Name, record: RecordType) -> Family {
        let dns = self.dns();
        let found = dns.lookup(name, record).await?;
        let ttl = found.valid_until().saturating_duration_since(Instant::now());
        let addresses = found.answers().iter().filter_map(|record| record.data.ip_addr());
        Ok((addresses.take(ADDRESSES_PER_FAMILY).collect(), ttl))
    }

    /// Where the system did not say whom to ask, it may by now.
    fn dns(&self) -> TokioResolver {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.unknown
            && let Ok(resolver) = system(&self.config)
        {
            info!("there is a usable DNS configuration now");
            *servers = Servers { resolver, unknown: false };
        }
        servers.resolver.clone()
    }

    fn judge(&self, name: &str, v4: Family, v6: Family) -> Answer {
        let error = match (v4, v6) {
            (Ok((v4, v4_ttl)), Ok((v6, v6_ttl))) => return self.found(&v4, &v6, v4_ttl.min(v6_ttl)),
            (Ok((v4, ttl)), Err(_)) => return self.found(&v4, &[], ttl),
            (Err(_), Ok((v6, ttl))) => return self.found(&[], &v6, ttl),
            // The server's failure, rather than the lack of the other family's addresses.
            (Err(NetError::Dns(DnsError::NoRecordsFound(_))), Err(error)) | (Err(error), Err(_)) => error,
        };
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => {
                let reason = match none.response_code {
                    ResponseCode::NXDomain => format!("{name} does not exist"),
                    _ => format!("{name} has no address"),
                };
                let ttl =
                    none.negative_ttl.map_or(FAILURE_TTL, |seconds| Duration::from_secs(seconds.into()));
                self.without(AttemptError::Dns(reason), ttl)
            }
            NetError::Timeout => self.silent(name),
            // What is between us and the servers that we ask. Nothing that a name's own servers do can bring it about.
            NetError::NoConnections => match exhaustion() {
                Some(error) => self.exhausted(&error),
                None => self.unasked("no connection to any of them"),
            },
            NetError::Io(error) if is_exhausted(&error) => self.exhausted(&error),
            NetError::Io(error) if is_unreachable(&error) => self.unasked(&error.to_string()),
            error => self.failed(format!("{name}: {error}")),
        }
    }

    fn found(&self, v4: &[IpAddr], v6: &[IpAddr], ttl: Duration) -> Answer {
        let longer = v4.len().max(v6.len());
        // By turns, so that a family without a route costs one try and not eight (RFC 8305 §4).
        let addresses = (0..longer).flat_map(|at| [v4.get(at), v6.get(at)]).flatten().copied().collect();
        Answer { addresses: Ok(addresses), ttl: ttl.min(self.config.max_ttl) }
    }

    fn failed(&self, reason: String) -> Answer {
        self.without(AttemptError::Dns(reason), FAILURE_TTL)
    }

    fn silent(&self, name: &str) -> Answer {
        let reason = format!("no answer for {name} within {:?}", self.config.timeout);
        self.without(AttemptError::Dns(reason), SILENCE_TTL)
    }

    fn unasked(&self, reason: &str) -> Answer {
        self.without(AttemptError::NameServers(reason.to_owned()), FAILURE_TTL)
    }

    fn exhausted(&self, error: &io::Error) -> Answer {
        self.without(AttemptError::Exhausted(error.to_string()), Duration::ZERO)
    }

    fn without(&self, error: AttemptError, ttl: Duration) -> Answer {
        Answer { addresses: Err(error), ttl: ttl.min(self.config.max_negative_ttl) }
    }
}

/// Waits for the second family: to the end if the first one brought nothing.
async fn other_family(first: &Family, second: impl Future<Output = Family>) -> Family {
    match first {
        Ok((addresses, _)) if !addresses.is_empty() => {
            timeout(RESOLUTION_DELAY, second).await.unwrap_or(Err(NetError::Timeout))
        }
        _ => second.await,
    }
}

/// As the system's configuration says.
fn system(config: &DnsConfig) -> Result<TokioResolver, String> {
    let text = std::fs::read(&config.resolv_conf).map_err(|error| error.to_string())?;
    let (servers, options) = parse_resolv_conf(text).map_err(|error| error.to_string())?;
    if servers.name_servers().is_empty() {
        return Err("it names no server".to_owned());
    }
    build(config, TokioResolver::builder_with_config(servers, runtime()).with_options(options))
}

fn build(
    config: &DnsConfig,
    mut builder: ResolverBuilder<TokioRuntimeProvider>,
) -> Result<TokioResolver, String> {
    limit(builder.options_mut(), config);
    builder.build().map_err(|error| error.to_string())
}

fn none() -> ResolverConfig {
    ResolverConfig::from_name_servers(Vec::new())
}

fn runtime() -> TokioRuntimeProvider {
    TokioRuntimeProvider::default()
}

fn remembered(names: u64) -> Cache<String, Answer> {
    Cache::builder().max_capacity(names).expire_after(ForItsTtl).build()
}

/// Whether it is for want of files that there are no connections: the resolver keeps to itself why it could make none.
fn exhaustion() -> Option<io::Error> {
    let tried = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    tried.err().filter(is_exhausted)
}

fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable};
    [ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable].contains(&error.kind())
}

/// A name as it is: without the dot, the search domains of the system's configuration would be tried too.
fn whole(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

fn limit(options: &mut ResolverOpts, config: &DnsConfig) {
    // Three tries within the whole, each of which asks again a few times and ends before the whole does.
    options.timeout = config.timeout * 3 / 10;
    options.attempts = 2;
    // The servers by turns, those first that answer: each question at once takes up to four sockets.
    options.num_concurrent_reqs = 1;
    // Its cache is bounded by the number of answers, each of which may have 64 KiB: ours has a few addresses a name.
    options.cache_size = 0;
    // On one TCP connection, for answers too long for UDP.
    options.max_active_requests = config.max_lookups.saturating_mul(2);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_search_domain_is_put_after_a_receivers_name() {
        for name in ["example.com", "a.b.example.com"] {
            assert!(whole(name).is_some_and(|whole| whole.is_fqdn()), "{name}");
        }
    }
}

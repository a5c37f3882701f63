//! A name server that says what a test tells it to, by UDP and TCP.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes of an answer by UDP; longer ones are truncated.
const UDP_LIMIT: usize = 1232;

/// What is answered to a question.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    /// These addresses, as far as they are of the family that is asked for, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// The same, but nothing at all to questions for IPv6.
    OnlyV4(Vec<IpAddr>, u32),
    /// Another name, for so many seconds. What that one leads to, the resolver must ask itself.
    Alias(&'static str, u32),
    /// There is no such name; for so many seconds.
    NoSuchName(u32),
    /// An error.
    Fails(ResponseCode),
    /// Nothing.
    Nothing,
}

/// Addresses, for so many seconds.
pub(crate) fn addresses<const N: usize>(addresses: [&str; N], ttl: u32) -> Says {
    Says::Addresses(addresses.map(|address| address.parse().unwrap()).to_vec(), ttl)
}

#[derive(Default)]
struct Script {
    names: HashMap<String, Vec<Says>>,
    every_other: Option<Says>,
    /// By name and type.
    asked: HashMap<(String, RecordType), usize>,
    /// Questions sent once more are not asked once more.
    seen: HashMap<(String, RecordType, u16), Says>,
    /// Names in the order in which they were asked for.
    order: Vec<String>,
}

impl Script {
    fn next(&mut self, name: &str, record: RecordType, id: u16) -> Says {
        if let Some(says) = self.seen.get(&(name.to_owned(), record, id)) {
            return says.clone();
        }
        let asked = self.asked.entry((name.to_owned(), record)).or_default();
        let says = match self.names.get(name) {
            // The last of them stays.
            Some(says) => says[(*asked).min(says.len() - 1)].clone(),
            None => self.every_other.clone().unwrap_or(Says::NoSuchName(0)),
        };
        *asked += 1;
        self.order.push(name.to_owned());
        self.seen.insert((name.to_owned(), record, id), says.clone());
        says
    }
}

pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<Script>>,
    open: watch::Sender<bool>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl NameServer {
    pub(crate) async fn start() -> Self {
        let (udp, tcp) = sockets().await;
        let address = tcp.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let (open, is_open) = watch::channel(true);
        let tasks = [
            tokio::spawn(serve_udp(udp, script.clone(), is_open)),
            tokio::spawn(serve_tcp(tcp, script.clone())),
        ];
        Self { address, script, open, tasks }
    }

    /// Holds answers by UDP back.
    pub(crate) fn pause(&self) {
        self.open.send_replace(false);
    }

    /// Sends what was held back.
    pub(crate) fn resume(&self) {
        self.open.send_replace(true);
    }

    /// What is said of a name, one after another; the last is said from then on.
    pub(crate) fn say<const N: usize>(&self, name: &str, says: [Says; N]) -> &Self {
        self.script.lock().unwrap().names.insert(name.to_owned(), Vec::from(says));
        self
    }

    /// What is said of all names that nothing is said of.
    pub(crate) fn say_of_every_other(&self, says: Says) -> &Self {
        self.script.lock().unwrap().every_other = Some(says);
        self
    }

    /// How often a name's IPv4 addresses were asked for.
    pub(crate) fn asked(&self, name: &str) -> usize {
        self.script.lock().unwrap().asked.get(&(name.to_owned(), RecordType::A)).copied().unwrap_or_default()
    }

    /// All names that were asked for.
    pub(crate) fn names(&self) -> HashSet<String> {
        self.script.lock().unwrap().order.iter().cloned().collect()
    }
}

/// A UDP and a TCP socket with the same number.
async fn sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

async fn serve_udp(socket: UdpSocket, script: Arc<Mutex<Script>>, open: watch::Receiver<bool>) {
    let socket = Arc::new(socket);
    let mut buffer = [0; 4096];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
        let Some(answer) = answer(&buffer[..length], &script) else { continue };
        let mut bytes = answer.to_vec().unwrap();
        if bytes.len() > UDP_LIMIT {
            bytes = answer.truncate().to_vec().unwrap();
        }
        let (socket, mut open) = (socket.clone(), open.clone());
        tokio::spawn(async move {
            let _ = open.wait_for(|open| *open).await;
            let _ = socket.send_to(&bytes, peer).await;
        });
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Mutex<Script>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(serve_connection(stream, script.clone()));
    }
}

async fn serve_connection(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; usize::from(length)];
        if stream.read_exact(&mut question).await.is_err() {
            return;
        }
        let Some(answer) = answer(&question, &script) else { continue };
        let bytes = answer.to_vec().unwrap();
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    }
}

fn answer(question: &[u8], script: &Mutex<Script>) -> Option<Message> {
    let question = Message::from_vec(question).ok()?;
    let query = question.queries.first()?.clone();
    let name = query.name().to_string().to_lowercase();
    let name = name.trim_end_matches('.');
    let says = script.lock().unwrap().next(name, query.query_type(), question.metadata.id);
    reply(question.metadata.id, &query, says)
}

fn reply(id: u16, query: &Query, says: Says) -> Option<Message> {
    let mut message = Message::response(id, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.add_query(query.clone());
    let owner = query.name().clone();
    match says {
        Says::Nothing => return None,
        Says::OnlyV4(..) if query.query_type() != RecordType::A => return None,
        Says::Fails(code) => message.metadata.response_code = code,
        Says::NoSuchName(ttl) => {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.add_authority(authority(ttl));
        }
        Says::Alias(to, ttl) => {
            let target = RData::CNAME(CNAME(Name::from_str(&format!("{to}.")).unwrap()));
            message.add_answer(Record::from_rdata(owner, ttl, target));
        }
        Says::Addresses(addresses, ttl) | Says::OnlyV4(addresses, ttl) => {
            let family = |address: &IpAddr| match query.query_type() {
                RecordType::A => address.is_ipv4(),
                RecordType::AAAA => address.is_ipv6(),
                _ => false,
            };
            for address in addresses.into_iter().filter(family) {
                message.add_answer(Record::from_rdata(owner.clone(), ttl, RData::from(address)));
            }
            if message.answers.is_empty() {
                message.add_authority(authority(ttl));
            }
        }
    }
    Some(message)
}

/// How long the lack of records holds (RFC 2308 §5).
fn authority(ttl: u32) -> Record {
    let name = |text| Name::from_str(text).unwrap();
    let soa = SOA::new(name("ns.test."), name("hostmaster.test."), 1, 3600, 600, 86_400, ttl);
    Record::from_rdata(name("test."), ttl, RData::SOA(soa))
}

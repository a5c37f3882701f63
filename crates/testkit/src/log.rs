//! What a process wrote, kept in memory.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;

/// Most bytes kept; the oldest lines go first.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Lines shown when a test fails.
const SHOWN_LINES: usize = 60;

/// The lines of a process and its restarts. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: usize,
    addresses: Addresses,
}

/// Where the process that runs now says it listens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Addresses {
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) listening: Option<SocketAddr>,
}

impl Log {
    /// Forgets the addresses of the process before.
    pub(crate) fn begin_process(&self) {
        self.lock().addresses = Addresses::default();
    }

    /// Reads lines until the end of the stream, on a thread of its own.
    pub(crate) fn follow(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                log.add(String::from_utf8_lossy(&line).into_owned());
            }
        })
    }

    pub(crate) fn addresses(&self) -> Addresses {
        self.lock().addresses
    }

    /// Everything that was written and is still kept.
    pub(crate) fn text(&self) -> String {
        let state = self.lock();
        let lines: Vec<_> = state.lines.iter().map(String::as_str).collect();
        lines.join("\n")
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> String {
        let state = self.lock();
        let skipped = state.lines.len().saturating_sub(SHOWN_LINES);
        let lines: Vec<_> = state.lines.iter().skip(skipped).map(String::as_str).collect();
        format!("({} lines before)\n{}", skipped + state.dropped, lines.join("\n"))
    }

    fn add(&self, line: String) {
        let mut state = self.lock();
        if let Some(addresses) = addresses_in(&line) {
            state.addresses.admin = addresses.admin.or(state.addresses.admin);
            state.addresses.listening = addresses.listening.or(state.addresses.listening);
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        while state.bytes > MAX_BYTES
            && let Some(oldest) = state.lines.pop_front()
        {
            state.bytes -= oldest.len();
            state.dropped += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Lines are whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses in the lines `starting … admin=…` and `listening address=…`, in either format.
fn addresses_in(line: &str) -> Option<Addresses> {
    if !line.contains("starting") && !line.contains("listening") {
        return None;
    }
    let Ok(line) = serde_json::from_str::<Value>(line) else { return addresses_in_text(line) };
    let address = |field: &str| line[field].as_str()?.parse().ok();
    match line["message"].as_str()? {
        "starting" => Some(Addresses { admin: address("admin"), listening: None }),
        "listening" => Some(Addresses { admin: None, listening: address("address") }),
        _ => None,
    }
}

fn addresses_in_text(line: &str) -> Option<Addresses> {
    let word = |start: &str| line.split(' ').find_map(|word| word.strip_prefix(start)?.parse().ok());
    match (line.contains(": starting "), line.contains(": listening ")) {
        (true, _) => Some(Addresses { admin: word("admin="), listening: None }),
        (_, true) => Some(Addresses { admin: None, listening: word("address=") }),
        _ => None,
    }
}

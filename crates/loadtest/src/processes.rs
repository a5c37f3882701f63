//! CPU time and memory of processes and their children, from proc(5).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

/// Linux tells CPU time to users in hundredths of a second on every platform.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process and its children used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Usage {
    /// Seconds of CPU, user and system, children that ended included.
    pub(crate) cpu_seconds: f64,
    /// The sum of the processes' largest resident sets. Pages that processes share are counted in each.
    pub(crate) peak_rss_bytes: u64,
}

/// One line of /proc/PID/stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    ticks: u64,
}

/// What a process and everything below it used so far; `None` if it does not run.
pub(crate) fn usage(root: u32) -> Option<Usage> {
    let stats = all();
    stats.get(&root)?;
    let mut usage = Usage::default();
    for pid in tree(root, &stats) {
        #[expect(clippy::cast_precision_loss, reason = "exact for a hundred million CPU years")]
        let seconds = stats[&pid].ticks as f64 / TICKS_PER_SECOND;
        usage.cpu_seconds += seconds;
        usage.peak_rss_bytes += peak_rss(pid).unwrap_or(0);
    }
    Some(usage)
}

fn all() -> BTreeMap<u32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parse(&text)?))
    })
    .collect()
}

fn parse(stat: &str) -> Option<Stat> {
    // The name in parentheses may hold spaces.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // Counted from field 3 of proc(5): ppid is 4; utime 14, stime 15, cutime 16, cstime 17.
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>()).sum::<Result<u64, _>>().ok()?;
    Some(Stat { parent: fields.get(1)?.parse().ok()?, ticks })
}

fn tree(root: u32, stats: &BTreeMap<u32, Stat>) -> Vec<u32> {
    let mut tree = vec![root];
    let mut next = 0;
    while next < tree.len() {
        let parent = tree[next];
        tree.extend(stats.iter().filter(|(_, stat)| stat.parent == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    tree
}

fn peak_rss(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The process that listens on a loopback port; `None` where it is on another machine or another user's.
pub(crate) fn listening_on(port: u16) -> Option<u32> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| listening_socket(table, port))
        .collect();
    let entries = fs::read_dir("/proc").ok()?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| holds_one_of(*pid, &sockets)).min()
}

/// The listening socket's name as /proc/PID/fd has it.
fn listening_socket(table: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let text = fs::read_to_string(table).ok()?;
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let is_it = *state == LISTEN && local.ends_with(&format!(":{port:04X}"));
        is_it.then(|| format!("socket:[{inode}]"))
    })
}

fn holds_one_of(pid: u32, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) else {
        return false;
    };
    descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).any(|target| {
        let target = target.to_string_lossy();
        sockets.iter().any(|socket| *socket == target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_process_is_called() {
        let line = "42 (a) b (c) S 7 1 1 0 -1 0 0 0 0 0 10 20 3 4 20 0 1 0 5 6 7";
        assert_eq!(parse(line), Some(Stat { parent: 7, ticks: 37 }));
    }

    #[test]
    fn this_process_uses_memory_and_is_found_by_its_port() {
        assert!(usage(std::process::id()).unwrap().peak_rss_bytes > 0);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listening_on(port), Some(std::process::id()));
    }
}

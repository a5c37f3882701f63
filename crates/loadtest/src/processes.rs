//! CPU time and memory of processes and their children, from proc(5).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use testkit::servers;

/// Linux tells CPU time to users in hundredths of a second on every platform.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process and its children used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
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
    /// The process's own.
    ticks: u64,
    /// Of its children that ended.
    ended_children: u64,
}

/// This program as it is told among the processes.
const THIS: &str = "loadtest";

/// What these processes, by their names, used so far, and the servers beside them, and this program. Each with
/// everything below it, save this program: it started the services.
pub(crate) fn usages(services: BTreeMap<String, u32>) -> BTreeMap<String, Usage> {
    let stats = all();
    let amqp = url::Url::parse(&servers::amqp_url()).ok().map(|url| url.port().unwrap_or(5672));
    let database = servers::database_url().port().unwrap_or(5432);
    let mut roots = services;
    roots.extend(amqp.and_then(listening_on).map(|pid| ("rabbitmq".to_owned(), pid)));
    roots.extend(listening_on(database).map(|pid| ("postgresql".to_owned(), pid)));
    let mut usages: BTreeMap<String, Usage> =
        roots.into_iter().filter_map(|(name, pid)| Some((name, usage(pid, &stats)?))).collect();
    let this = std::process::id();
    usages.extend(stats.get(&this).map(|stat| (THIS.to_owned(), Usage::of(this, stat.ticks))));
    usages
}

impl Usage {
    fn of(pid: u32, ticks: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "exact for a hundred million CPU years")]
        let cpu_seconds = ticks as f64 / TICKS_PER_SECOND;
        Self { cpu_seconds, peak_rss_bytes: peak_rss(pid).unwrap_or(0) }
    }
}

/// What a process and everything below it used so far; `None` if it does not run.
fn usage(root: u32, stats: &BTreeMap<u32, Stat>) -> Option<Usage> {
    stats.get(&root)?;
    let each = tree(root, stats).into_iter().map(|pid| {
        let stat = stats[&pid];
        Usage::of(pid, stat.ticks + stat.ended_children)
    });
    Some(each.fold(Usage::default(), |sum, one| Usage {
        cpu_seconds: sum.cpu_seconds + one.cpu_seconds,
        peak_rss_bytes: sum.peak_rss_bytes + one.peak_rss_bytes,
    }))
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
    let sum = |fields: &[&str]| fields.iter().map(|field| field.parse::<u64>()).sum::<Result<u64, _>>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        ticks: sum(fields.get(11..13)?)?,
        ended_children: sum(fields.get(13..15)?)?,
    })
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
fn listening_on(port: u16) -> Option<u32> {
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
        assert_eq!(parse(line), Some(Stat { parent: 7, ticks: 30, ended_children: 7 }));
    }

    #[test]
    fn this_process_uses_memory_and_is_found_by_its_port() {
        let this = std::process::id();
        assert!(usage(this, &all()).unwrap().peak_rss_bytes > 0);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listening_on(port), Some(this));
    }

    #[test]
    fn a_processs_children_count_with_it() {
        let stat = |parent, ticks, ended_children| Stat { parent, ticks, ended_children };
        let stats = BTreeMap::from([
            (u32::MAX - 3, stat(1, 100, 50)),
            (u32::MAX - 2, stat(u32::MAX - 3, 200, 0)),
            (u32::MAX - 1, stat(u32::MAX - 2, 25, 25)),
            (u32::MAX, stat(1, 7, 7)),
        ]);
        let seconds = usage(u32::MAX - 3, &stats).map(|usage| usage.cpu_seconds);
        assert_eq!(seconds, Some(4.0));
        assert_eq!(usage(1, &stats), None);
    }
}

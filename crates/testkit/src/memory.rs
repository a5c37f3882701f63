//! How much memory a process takes.

use std::fs;

/// A process's memory, in bytes, as the system counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What it takes now: `VmRSS`.
    pub resident: u64,
    /// The most it ever took: `VmHWM`.
    pub peak: u64,
}

impl Memory {
    /// What the process with this id takes; `None` if there is none.
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self { resident: kib(&status, "VmRSS:")? * 1024, peak: kib(&status, "VmHWM:")? * 1024 })
    }
}

/// The value of a line such as `VmRSS:     1234 kB`.
fn kib(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_takes_is_seen() {
        let before = Memory::of(std::process::id()).unwrap();
        let taken = vec![1_u8; 64 * 1024 * 1024];
        let after = Memory::of(std::process::id()).unwrap();
        assert!(after.resident >= before.resident + taken.len() as u64 / 2, "{before:?} {after:?}");
        assert!(after.peak >= after.resident);
    }

    #[test]
    fn an_ended_process_takes_none() {
        assert_eq!(Memory::of(u32::MAX), None);
    }
}

//! Which CPUs dispatchers run on.

use std::ops::RangeInclusive;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// How many dispatchers there are, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dispatchers {
    /// Wherever there is a CPU free.
    Anywhere(usize),
    /// Each on a half of the CPUs: one or two.
    OnHalves(usize),
}

/// The two halves of the CPUs that this process may use, as `taskset` takes them. Whether two CPUs are threads of one core is
/// not looked at: then the halves may share cores.
pub(crate) fn halves() -> anyhow::Result<[String; 2]> {
    let taskset = Command::new("taskset").arg("--version").output();
    ensure!(
        taskset.is_ok_and(|output| output.status.success()),
        "dispatchers are pinned by `taskset`, which is not there: install util-linux"
    );
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let cpus = list.and_then(|list| parse(list.trim())).context("the system does not tell its CPUs")?;
    ensure!(cpus.len() > 1, "two halves of the machine need two CPUs, and there is one");
    let (first, second) = cpus.split_at(cpus.len() / 2);
    Ok([first, second].map(|half| half.iter().map(u32::to_string).collect::<Vec<_>>().join(",")))
}

/// A list such as `0-3,6`; `None` if it is none.
fn parse(list: &str) -> Option<Vec<u32>> {
    let ranges = list.split(',').map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(RangeInclusive::new(from.parse().ok()?, to.parse().ok()?))
    });
    Some(ranges.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use testkit::Binary;

    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(parse("0-3,6"), Some(vec![0, 1, 2, 3, 6]));
        assert_eq!(parse("5"), Some(vec![5]));
        assert_eq!((parse(""), parse("0-")), (None, None));
    }

    #[tokio::test]
    async fn a_pinned_process_runs_on_its_half_and_nowhere_else() {
        // There is no second half on a machine with one CPU.
        let Ok(halves) = halves() else { return };
        for half in halves {
            assert!(parse(&half).is_some(), "a half has a CPU");
            let status = Binary::program("cat", "cat").arg("/proc/self/status").on_cpus(&half).output().await;
            let list = status.stdout.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            assert_eq!(list.and_then(|list| parse(list.trim())), parse(&half), "{}", status.stderr);
        }
    }
}

//! In a process of its own: the limit is the process's.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use service::open_files;

#[test]
fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum })
        .expect("a lower limit is always allowed");
    for _ in 0..2 {
        assert_eq!(open_files::raise(), maximum.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}

//! `lokctl recover`.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use backends::PutBack;
use domain::Timestamp;
use service::{Clock, Settings};
use store::{Lost, LostCounts, LostEvents};

use crate::cli::Recover;
use crate::connect;
use crate::environment::NotConfigured;

/// The least time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// Finds what has lost its message, and puts it back unless it is only to be counted.
pub(crate) async fn run(arguments: &Recover, settings: &Settings, clock: &Clock) -> anyhow::Result<()> {
    let store = backends::store(settings, "lokctl").map_err(NotConfigured::from)?;
    let now = clock.now();
    let lost = Lost { since: Some(arguments.since.before(now)), before: now - backends::late(settings) };
    let mut session = store.recovery();
    let found = session.count(lost).await.context("the database of database.url was not asked")?;
    if arguments.dry_run {
        tell(&format!("to put back: {}", text(found)));
        return Ok(());
    }

    let broker = connect::to_publish(settings).await?;
    let publisher = connect::publisher(&broker);
    let names = backends::names(settings);
    let mut progress = Progress { found, done: LostCounts::default(), told: Instant::now() };
    let mut put_back = PutBack { session: &mut session, publisher: &publisher, names: &names, clock };
    let not_all = "not everything was put back; run it again for the rest";
    for which in [LostEvents::Overdue, LostEvents::SetAside] {
        loop {
            match put_back.events(lost, which).await.context(not_all)? {
                0 => break,
                count => progress.done.events += count as u64,
            }
            progress.tell();
        }
    }
    loop {
        match put_back.deliveries(lost).await.context(not_all)? {
            0 => break,
            count => progress.done.deliveries += count as u64,
        }
        progress.tell();
    }
    drop(publisher);
    connect::close(broker).await;
    tell(&format!("put back {}", text(progress.done)));
    Ok(())
}

/// A moment, said as such or as so long ago.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Since {
    /// RFC 3339.
    Moment(Timestamp),
    /// Counted back from now.
    Ago(Duration),
}

impl Since {
    fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Moment(moment) => moment,
            Self::Ago(ago) => now - ago,
        }
    }
}

struct Progress {
    found: LostCounts,
    done: LostCounts,
    told: Instant,
}

impl Progress {
    /// Tells how far it is, to whoever waits.
    #[expect(clippy::print_stderr, reason = "a person may be waiting")]
    fn tell(&mut self) {
        if self.told.elapsed() < PROGRESS {
            return;
        }
        self.told = Instant::now();
        eprintln!("put back so far: {} (found: {})", text(self.done), text(self.found));
    }
}

fn text(counts: LostCounts) -> String {
    format!("events not fanned out: {}, deliveries: {}", counts.events, counts.deliveries)
}

#[expect(clippy::print_stdout, reason = "what was done is the command's output")]
fn tell(line: &str) {
    println!("{line}");
}

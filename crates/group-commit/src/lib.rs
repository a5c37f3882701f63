#![doc = include_str!("../README.md")]

use std::future::Future;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, resume_unwind};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// How much may be on the way.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Items that may wait for a group; more make `submit` wait.
    pub waiting: NonZeroUsize,
    /// Items in one group.
    pub group: NonZeroUsize,
    /// Groups that may be under way at once.
    pub concurrent_groups: NonZeroUsize,
}

/// The group's task ended before it answered: the process is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("work is no longer taken")]
pub struct Stopped;

/// Commits items in groups. Clones feed the same groups.
#[derive(Debug)]
pub struct GroupCommit<I, O> {
    entries: mpsc::Sender<Entry<I, O>>,
}

#[derive(Debug)]
struct Entry<I, O> {
    item: I,
    reply: oneshot::Sender<Result<O, Panicked>>,
}

/// The commit of a group panicked.
#[derive(Debug)]
struct Panicked;

impl<I, O> Clone for GroupCommit<I, O> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone() }
    }
}

impl<I: Send + 'static, O: Send + 'static> GroupCommit<I, O> {
    /// Starts the task that groups items and has `commit` commit them. `commit` answers for every item,
    /// in order. The task ends when every clone is dropped and what was submitted is committed.
    pub fn start<C, F>(bounds: Bounds, tasks: &TaskTracker, commit: C) -> Self
    where
        C: Fn(Vec<I>) -> F + Send + Sync + 'static,
        F: Future<Output = Vec<O>> + Send + 'static,
    {
        let (entries, queue) = mpsc::channel(bounds.waiting.get());
        tasks.spawn(run(queue, bounds, commit));
        Self { entries }
    }

    /// Has an item committed with the others that wait now.
    ///
    /// Cancellation: dropping the future gives up the answer; an item that already waits is still committed.
    ///
    /// # Panics
    /// The commit of the item's group panicked. Nobody knows which item is guilty; other groups go on.
    pub async fn submit(&self, item: I) -> Result<O, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.entries.send(Entry { item, reply }).await.map_err(|_| Stopped)?;
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            // The panic was told where it happened; it goes on in everyone whose work it was.
            Ok(Err(Panicked)) => resume_unwind(Box::new("the commit of a group panicked")),
            Err(_) => Err(Stopped),
        }
    }
}

async fn run<I, O, C, F>(mut queue: mpsc::Receiver<Entry<I, O>>, bounds: Bounds, commit: C)
where
    C: Fn(Vec<I>) -> F,
    F: Future<Output = Vec<O>>,
{
    let mut groups = FuturesUnordered::new();
    let mut entries = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = groups.next(), if !groups.is_empty() => {}
            taken = queue.recv_many(&mut entries, bounds.group.get()),
                if groups.len() < bounds.concurrent_groups.get() =>
            {
                if taken == 0 {
                    break;
                }
                groups.push(commit_group(std::mem::take(&mut entries), &commit));
            }
        }
    }
    while groups.next().await.is_some() {}
}

async fn commit_group<I, O, C, F>(entries: Vec<Entry<I, O>>, commit: &C)
where
    C: Fn(Vec<I>) -> F,
    F: Future<Output = Vec<O>>,
{
    let (items, replies): (Vec<_>, Vec<_>) =
        entries.into_iter().map(|entry| (entry.item, entry.reply)).unzip();
    // Whoever gave up waiting does not want the answer.
    match AssertUnwindSafe(async { commit(items).await }).catch_unwind().await {
        Ok(answers) => {
            debug_assert_eq!(answers.len(), replies.len(), "commit answers for every item");
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(Ok(answer));
            }
        }
        Err(_) => {
            for reply in replies {
                let _ = reply.send(Err(Panicked));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    fn bounds(waiting: usize, group: usize, concurrent_groups: usize) -> Bounds {
        let bound = |n| NonZeroUsize::new(n).unwrap();
        Bounds { waiting: bound(waiting), group: bound(group), concurrent_groups: bound(concurrent_groups) }
    }

    /// Commits by adding one, as often as the gate lets it, and remembers the groups.
    struct Gated {
        gate: Arc<Semaphore>,
        groups: Arc<Mutex<Vec<Vec<u32>>>>,
        commit: GroupCommit<u32, u32>,
        tasks: TaskTracker,
    }

    fn gated(bounds: Bounds) -> Gated {
        let (gate, groups) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let tasks = TaskTracker::new();
        let commit = GroupCommit::start(bounds, &tasks, {
            let (gate, groups) = (gate.clone(), groups.clone());
            move |items: Vec<u32>| {
                let (gate, groups) = (gate.clone(), groups.clone());
                async move {
                    groups.lock().unwrap().push(items.clone());
                    gate.acquire().await.unwrap().forget();
                    items.into_iter().map(|item| item + 1).collect()
                }
            }
        });
        Gated { gate, groups, commit, tasks }
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        tokio::time::timeout(std::time::Duration::from_secs(5), async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the condition did not come true within 5 s");
    }

    #[tokio::test]
    async fn what_came_while_a_group_was_committed_is_the_next_group() {
        let Gated { gate, groups, commit, .. } = gated(bounds(100, 100, 1));
        let submit = |item| {
            let commit = commit.clone();
            tokio::spawn(async move { commit.submit(item).await })
        };
        let first = submit(0);
        until(|| groups.lock().unwrap().len() == 1).await;
        let rest: Vec<_> = (1..50).map(submit).collect();
        until(|| commit.entries.capacity() == 100 - 49).await;

        gate.add_permits(2);
        assert_eq!(first.await.unwrap(), Ok(1));
        for (answer, item) in join_all(rest).await.into_iter().zip(1..) {
            assert_eq!(answer.unwrap(), Ok(item + 1));
        }
        let sizes: Vec<_> = groups.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 49]);
    }

    #[tokio::test]
    async fn groups_and_their_number_are_bounded() {
        let Gated { gate, groups, commit, .. } = gated(bounds(100, 4, 2));
        let answers = join_all((0..20).map(|item| commit.submit(item)));
        let watch = async {
            until(|| groups.lock().unwrap().len() == 2).await;
            gate.add_permits(100);
        };
        let (answers, ()) = tokio::join!(answers, watch);
        assert!(answers.iter().all(Result::is_ok));
        assert!(groups.lock().unwrap().iter().all(|group| group.len() <= 4));
    }

    #[tokio::test]
    async fn what_was_submitted_is_committed_before_the_task_ends() {
        let Gated { gate, groups, commit, tasks } = gated(bounds(10, 10, 1));
        let waiting = tokio::spawn(async move { commit.submit(1).await });
        until(|| !groups.lock().unwrap().is_empty()).await;
        gate.add_permits(1);
        assert_eq!(waiting.await.unwrap(), Ok(2));
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn a_panic_in_a_commit_is_told_to_its_group_and_the_next_is_committed() {
        let tasks = TaskTracker::new();
        let commit: GroupCommit<u32, u32> =
            GroupCommit::start(bounds(10, 10, 1), &tasks, |items| async move {
                assert!(!items.contains(&13), "on purpose");
                items
            });
        let guilty = tokio::spawn({
            let commit = commit.clone();
            async move { commit.submit(13).await }
        });
        assert!(guilty.await.unwrap_err().is_panic());
        assert_eq!(commit.submit(1).await, Ok(1));
    }
}

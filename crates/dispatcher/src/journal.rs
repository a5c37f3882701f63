//! Statements for many deliveries at once, tried until the database takes them.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;

use backends::{Availability, Chain};
use domain::protocol::Fence;
use domain::{DeliveryId, EventId, EventType, WebhookId};
use group_commit::{Bounds, GroupCommit, Stopped};
use store::{
    AttemptRecord, DecryptError, Deferral, DeliveryState, FirstAttempt, PendingDelivery, Reissue, Store,
    StoreError, Unwritten, WebhookTarget,
};
use tokio_util::task::TaskTracker;
use tracing::error;

/// Items in one statement.
const GROUP: NonZeroUsize = NonZeroUsize::new(500).unwrap();

/// Statements of a kind under way at once: what comes in meanwhile is the next group. Two made smaller groups, and a statement costs
/// more than what it is for.
const CONCURRENT_GROUPS: NonZeroUsize = NonZeroUsize::MIN;

/// What was asked for cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum JournalError {
    /// The database refuses this item, and would again.
    #[error("the database refuses it: {0}")]
    Refused(Arc<StoreError>),
    /// The process is going down.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// How a statement is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Try {
    /// For the first time.
    First,
    /// Again: an earlier try may have been committed and its answer lost on the way.
    Again,
}

/// A statement that serves many items.
trait Statement: Send + Sync + 'static {
    type Item: Send + Sync + 'static;
    type Answer: Send + 'static;

    /// Answers for every item, in order.
    fn run(
        store: &Store,
        items: &[Self::Item],
        which: Try,
    ) -> impl Future<Output = Result<Vec<Self::Answer>, StoreError>> + Send;
}

struct Check;

impl Statement for Check {
    type Item = (DeliveryId, bool);
    type Answer = Option<DeliveryState>;

    async fn run(store: &Store, items: &[Self::Item], _: Try) -> Result<Vec<Self::Answer>, StoreError> {
        let states = store.check_deliveries(items).await?;
        Ok(items.iter().map(|(id, _)| states.get(id).cloned()).collect())
    }
}

struct Record;

impl Statement for Record {
    type Item = AttemptRecord;
    type Answer = Option<Fence>;

    async fn run(store: &Store, items: &[Self::Item], _: Try) -> Result<Vec<Self::Answer>, StoreError> {
        let recorded = store.record_attempts(items).await?;
        Ok(items.iter().map(|record| recorded.get(&record.delivery).copied()).collect())
    }
}

struct IssueAnew;

impl Statement for IssueAnew {
    type Item = Reissue;
    type Answer = Option<Fence>;

    async fn run(store: &Store, items: &[Self::Item], which: Try) -> Result<Vec<Self::Answer>, StoreError> {
        let reissued = store.reissue(items, which == Try::Again).await?;
        Ok(items.iter().map(|reissue| reissued.get(&reissue.delivery).copied()).collect())
    }
}

struct Defer;

impl Statement for Defer {
    type Item = Deferral;
    type Answer = bool;

    async fn run(store: &Store, items: &[Self::Item], _: Try) -> Result<Vec<Self::Answer>, StoreError> {
        let deferred = store.defer(items).await?;
        Ok(items.iter().map(|deferral| deferred.contains(&deferral.delivery)).collect())
    }
}

struct Abandon;

impl Statement for Abandon {
    type Item = (DeliveryId, &'static str);
    type Answer = ();

    async fn run(store: &Store, items: &[Self::Item], _: Try) -> Result<Vec<Self::Answer>, StoreError> {
        store.abandon_deliveries(items).await?;
        Ok(vec![(); items.len()])
    }
}

struct LoadTarget;

impl Statement for LoadTarget {
    type Item = WebhookId;
    type Answer = Option<Result<WebhookTarget, DecryptError>>;

    async fn run(store: &Store, items: &[Self::Item], _: Try) -> Result<Vec<Self::Answer>, StoreError> {
        let targets = store.webhook_targets(items).await?;
        Ok(items.iter().map(|id| targets.get(id).cloned()).collect())
    }
}

struct LookAtWebhooks;

impl Statement for LookAtWebhooks {
    type Item = (WebhookId, EventType);
    type Answer = Option<i64>;

    async fn run(store: &Store, items: &[Self::Item], _: Try) -> Result<Vec<Self::Answer>, StoreError> {
        let wanted = store.wanted(items).await?;
        Ok(items.iter().map(|asked| wanted.get(asked).copied()).collect())
    }
}

struct LookAgain;

impl Statement for LookAgain {
    type Item = (DeliveryId, WebhookId);
    type Answer = Unwritten;

    async fn run(store: &Store, items: &[Self::Item], _: Try) -> Result<Vec<Self::Answer>, StoreError> {
        let found = store.look_again(items).await?;
        Ok(items.iter().map(|(id, _)| found.get(id).copied().unwrap_or(Unwritten::Unwanted)).collect())
    }
}

struct Settle;

impl Statement for Settle {
    type Item = FirstAttempt;
    type Answer = bool;

    async fn run(store: &Store, items: &[Self::Item], _: Try) -> Result<Vec<Self::Answer>, StoreError> {
        let settled = store.settle(items).await?;
        Ok(items.iter().map(|first| settled.contains(&first.delivery.id)).collect())
    }
}

struct WritePending;

impl Statement for WritePending {
    type Item = PendingDelivery;
    type Answer = bool;

    async fn run(store: &Store, items: &[Self::Item], which: Try) -> Result<Vec<Self::Answer>, StoreError> {
        let written = store.write_pending(items).await?;
        // Of what an earlier try may have written nobody else is known to have the message.
        let is_ours =
            |pending: &PendingDelivery| which == Try::Again || written.contains(&pending.delivery.id);
        Ok(items.iter().map(is_ours).collect())
    }
}

struct MarkFannedOut;

impl Statement for MarkFannedOut {
    type Item = Vec<EventId>;
    type Answer = ();

    async fn run(store: &Store, items: &[Self::Item], _: Try) -> Result<Vec<Self::Answer>, StoreError> {
        store.mark_fanned_out(&items.concat()).await?;
        Ok(vec![(); items.len()])
    }
}

/// Groups the items of one statement.
struct Grouped<S: Statement>(GroupCommit<S::Item, Result<S::Answer, Arc<StoreError>>>);

impl<S: Statement> Grouped<S> {
    fn start(store: &Store, availability: &Availability, waiting: NonZeroUsize, tasks: &TaskTracker) -> Self {
        let bounds = Bounds { waiting, group: GROUP, concurrent_groups: CONCURRENT_GROUPS };
        let (store, availability) = (store.clone(), availability.clone());
        Self(GroupCommit::start(bounds, tasks, move |items| {
            let (store, availability) = (store.clone(), availability.clone());
            async move { run_group::<S>(&store, &availability, &items).await }
        }))
    }

    async fn submit(&self, item: S::Item) -> Result<S::Answer, JournalError> {
        self.0.submit(item).await?.map_err(JournalError::Refused)
    }
}

/// Runs a group. One item that the database refuses must not take the others with it: a group that is refused is
/// run in halves.
async fn run_group<S: Statement>(
    store: &Store,
    availability: &Availability,
    items: &[S::Item],
) -> Vec<Result<S::Answer, Arc<StoreError>>> {
    let mut answers = Vec::with_capacity(items.len());
    let mut parts = vec![items];
    while let Some(group) = parts.pop() {
        let mut which = Try::First;
        let run = || S::run(store, group, std::mem::replace(&mut which, Try::Again));
        match availability.until_available(run).await {
            Ok(answered) => answers.extend(answered.into_iter().map(Ok)),
            Err(refusal) if group.len() == 1 => {
                error!(error = %Chain(&refusal), "the database refuses a statement");
                answers.push(Err(Arc::new(refusal)));
            }
            Err(_) => {
                let (first, second) = group.split_at(group.len() / 2);
                parts.extend([second, first]);
            }
        }
    }
    answers
}

/// The database as those who make attempts see it.
pub(crate) struct Journal {
    availability: Availability,
    checks: Grouped<Check>,
    records: Grouped<Record>,
    reissues: Grouped<IssueAnew>,
    deferrals: Grouped<Defer>,
    abandons: Grouped<Abandon>,
    targets: Grouped<LoadTarget>,
    looks_at_webhooks: Grouped<LookAtWebhooks>,
    second_looks: Grouped<LookAgain>,
    settlements: Grouped<Settle>,
    pendings: Grouped<WritePending>,
    marks: Grouped<MarkFannedOut>,
}

impl Journal {
    /// Starts the tasks that group statements; at most `waiting` items of each kind wait. They end when the
    /// journal is dropped.
    pub(crate) fn start(
        store: &Store,
        availability: &Availability,
        waiting: NonZeroUsize,
        tasks: &TaskTracker,
    ) -> Self {
        Self {
            availability: availability.clone(),
            checks: Grouped::start(store, availability, waiting, tasks),
            records: Grouped::start(store, availability, waiting, tasks),
            reissues: Grouped::start(store, availability, waiting, tasks),
            deferrals: Grouped::start(store, availability, waiting, tasks),
            abandons: Grouped::start(store, availability, waiting, tasks),
            targets: Grouped::start(store, availability, waiting, tasks),
            looks_at_webhooks: Grouped::start(store, availability, waiting, tasks),
            second_looks: Grouped::start(store, availability, waiting, tasks),
            settlements: Grouped::start(store, availability, waiting, tasks),
            pendings: Grouped::start(store, availability, waiting, tasks),
            marks: Grouped::start(store, availability, waiting, tasks),
        }
    }

    /// Whether the database took the last statement.
    pub(crate) fn is_available(&self) -> bool {
        self.availability.is_available()
    }

    /// What a delivery and its webhook are now, with the event's body if `with_body`; `None` if the delivery's
    /// day was dropped.
    pub(crate) async fn check(
        &self,
        delivery: DeliveryId,
        with_body: bool,
    ) -> Result<Option<DeliveryState>, JournalError> {
        self.checks.submit((delivery, with_body)).await
    }

    /// Records an attempt, and returns the fence of the job that follows; `None` if it is recorded already, by another
    /// dispatcher or by an earlier try whose answer was lost. A delivery may stand once in a group: whoever records holds
    /// the claim to it.
    pub(crate) async fn record(&self, record: AttemptRecord) -> Result<Option<Fence>, JournalError> {
        self.records.submit(record).await
    }

    /// Voids what jobs there are of a delivery after a recorded attempt, and returns the fence of the one to publish;
    /// `None` if the delivery changed since it was looked at: whoever changed it goes on with it.
    pub(crate) async fn reissue(&self, reissue: Reissue) -> Result<Option<Fence>, JournalError> {
        self.reissues.submit(reissue).await
    }

    /// Notes when a job that is to be parked comes back; `false` if the job counts no more and must not be parked.
    pub(crate) async fn defer(&self, deferral: Deferral) -> Result<bool, JournalError> {
        self.deferrals.submit(deferral).await
    }

    /// Ends a pending delivery that will never be attempted.
    pub(crate) async fn abandon(
        &self,
        delivery: DeliveryId,
        reason: &'static str,
    ) -> Result<(), JournalError> {
        self.abandons.submit((delivery, reason)).await
    }

    /// A webhook's target; `None` if it was deleted.
    pub(crate) async fn load_target(
        &self,
        webhook: WebhookId,
    ) -> Result<Option<Result<WebhookTarget, DecryptError>>, JournalError> {
        self.targets.submit(webhook).await
    }

    /// A webhook's revision, if it takes events of this type now.
    pub(crate) async fn wanted(
        &self,
        webhook: WebhookId,
        event_type: EventType,
    ) -> Result<Option<i64>, JournalError> {
        self.looks_at_webhooks.submit((webhook, event_type)).await
    }

    /// What is found now where a delivery was not written.
    pub(crate) async fn look_again(
        &self,
        delivery: DeliveryId,
        webhook: WebhookId,
    ) -> Result<Unwritten, JournalError> {
        self.second_looks.submit((delivery, webhook)).await
    }

    /// Writes a delivery with its first attempt; `false` if it has a row already. A delivery may stand once in a group:
    /// whoever settles holds the claim to it.
    pub(crate) async fn settle(&self, first: FirstAttempt) -> Result<bool, JournalError> {
        self.settlements.submit(first).await
    }

    /// Writes a delivery that a message is about to stand for; `false` if somebody else has written it.
    pub(crate) async fn write_pending(&self, pending: PendingDelivery) -> Result<bool, JournalError> {
        self.pendings.submit(pending).await
    }

    /// Marks events as fanned out.
    pub(crate) async fn mark_fanned_out(&self, events: Vec<EventId>) -> Result<(), JournalError> {
        self.marks.submit(events).await
    }
}

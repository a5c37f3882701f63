//! Deliberate mistakes: what the protocol would be without one of its rules. The checker has to find each of them out;
//! `tests/mistakes.rs` says by which property.

/// A rule left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// Messages are acknowledged as soon as they are taken ("automatic acknowledgement").
    AckBeforeCommit,
    /// What was committed is acknowledged first and handed over then.
    PublishAfterAck,
    /// The next attempt's job is handed over before the attempt is recorded.
    HandOverBeforeRecord,
    /// The row is not read before the request: the job is believed.
    NoCheck,
    /// The row is read before the wait for a turn, not after it.
    ChecksBeforeTheTurn,
    /// A message that came back is treated like a fresh one.
    IgnoresTaken,
    /// An attempt is recorded whatever the row says.
    RecordsBlindly,
    /// The job that follows an attempt carries the fence of the job before it, not the row's.
    KeepsJobsFence,
    /// Who could not record its attempt leaves the rest to whoever did.
    LeavesItToAnother,
    /// A job is issued anew without raising the fence.
    NoFence,
    /// The reconciler puts back what is overdue, wherever its queue has come.
    NoQueueGuard,
    /// A probe counts for what was due just before it went in, and may have gone in behind it.
    ProbesTooSoon,
    /// The reconciler puts back what is overdue as soon as the probe has come out, while whoever took the message just
    /// before the probe may still be at work.
    NoGrace,
    /// A job that may be a copy is looked at as soon as the first.
    CopiesDoNotWait,
    /// An event that comes back from its publisher is a duplicate and not published again.
    ForgetsDuplicates,
}

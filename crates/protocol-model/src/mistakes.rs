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
    /// What may be a copy, of a job or of an event, is looked at as soon as the first.
    CopiesDoNotWait,
    /// The event's message is acknowledged when it is taken, and its first attempt made then.
    AcksUnsettled,
    /// The event is marked as fanned out when its message is taken, before anything is written.
    MarksUnsettled,
    /// The event's message is acknowledged as soon as a request takes long, before the job is there that stands for it.
    AcksBeforeStandIn,
    /// The job that stands for a request comes out while the request may be on the wire.
    ShortStandIn,
    /// An attempt that could not be made is parked, though a job stands for it already.
    ParksBesideStandIn,
    /// The first attempt is made without a look for the row, however long it waited.
    NoLookAfterWait,
    /// Of an event that came back, only deliveries that were never attempted are looked at.
    ForgetsAttempted,
    /// An event's message does not say that it may be a copy.
    TrustsCopies,
    /// A copy of an event that has waited is treated like one that came back.
    DoubtsCopies,
    /// An event that comes back from its publisher is a duplicate and not published again.
    ForgetsDuplicates,
}

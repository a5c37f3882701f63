//! The statements of `store`, each one atomic step on the rows, with the conditions of the SQL.

use domain::protocol::{DeliveryStatus, Fence, Ticket};
use domain::retry::{AttemptNumber, NextStep, Verdict};

use crate::reconcile::Progress;
use crate::state::{Delivery, Event, State};
use crate::{Mistake, Protocol};

/// What storing an event tells about the message to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It was not known: nobody has published it.
    New,
    /// It was known, and no dispatcher has marked it: whoever stored it may have died before it published.
    Before,
    /// It was known, and needs no message.
    FannedOut,
}

impl State {
    /// `Store::record_fan_out`: `INSERT … ON CONFLICT DO NOTHING` where the webhook takes the event, and the event is
    /// marked. Returns whether the delivery is new.
    pub(crate) fn insert_delivery(&mut self) -> bool {
        self.mark_fanned_out();
        if self.is_enabled() {
            return self.write_pending();
        }
        self.note_unwanted();
        false
    }

    /// `Store::write_pending`: `INSERT … ON CONFLICT DO NOTHING`. Returns whether the delivery is new.
    pub(crate) fn write_pending(&mut self) -> bool {
        if self.delivery.is_some() {
            return false;
        }
        self.delivery = Some(Delivery { status: DeliveryStatus::Pending, attempts: 0, fence: Fence::FIRST });
        due_anew(self);
        true
    }

    /// `Store::mark_fanned_out`: all that is to be done for the event is written.
    pub(crate) fn mark_fanned_out(&mut self) {
        if let Some(event) = &mut self.event {
            event.fanned_out = true;
        }
        self.fan_out.remove_probe();
        self.fan_out_progress = Progress::Unknown;
    }

    /// The webhook takes no events: there is no delivery.
    pub(crate) fn note_unwanted(&mut self) {
        self.seen.unwanted |= self.delivery.is_none();
    }

    /// `Store::abandon_deliveries`: ends a delivery that is pending.
    pub(crate) fn abandon(&mut self) {
        if let Some(delivery) = self.delivery.as_mut().filter(|row| row.status == DeliveryStatus::Pending) {
            delivery.status = DeliveryStatus::Failed;
            self.seen.abandoned = true;
            due_anew(self);
        }
    }

    /// `Store::defer`: notes when a job that is to be parked comes back; `false` if it counts no more.
    pub(crate) fn defer(&mut self, ticket: Ticket) -> bool {
        let counts = self.delivery.is_some_and(|delivery| delivery.is_awaiting(ticket));
        if counts {
            due_anew(self);
        }
        counts
    }
}

impl Protocol {
    /// `Store::insert_events`: stores the event unless it is known.
    pub(crate) fn insert_event(&self, state: &mut State) -> Stored {
        match state.event {
            None => {
                state.event = Some(Event { fanned_out: false });
                Stored::New
            }
            Some(event) if event.fanned_out || self.makes(Mistake::ForgetsDuplicates) => Stored::FannedOut,
            Some(_) => Stored::Before,
        }
    }

    /// `Store::settle`, for a delivery that has no row: writes it with its first attempt. If it turns out to have one, and for
    /// any other attempt, `Store::record_attempts`: counts only on a pending delivery that has made exactly the attempts before. Returns the
    /// fence of the job that follows: the row's, since the job in hand may have been voided while its request was on the
    /// wire; its attempt is as good as another's.
    pub(crate) fn record(
        &self,
        state: &mut State,
        number: AttemptNumber,
        verdict: Verdict,
        next: NextStep,
    ) -> Option<Fence> {
        let unwritten = Delivery { status: DeliveryStatus::Pending, attempts: 0, fence: Fence::FIRST };
        let delivery = state.delivery.get_or_insert(unwritten);
        let is_next = delivery.status == DeliveryStatus::Pending && delivery.attempts == number.get() - 1;
        if !is_next && !self.makes(Mistake::RecordsBlindly) {
            return None;
        }
        delivery.attempts = number.get();
        delivery.status = match next {
            NextStep::Succeed => DeliveryStatus::Success,
            NextStep::Retry { .. } => DeliveryStatus::Pending,
            NextStep::Fail => DeliveryStatus::Failed,
        };
        let fence = delivery.fence;
        state.seen.records.push((number, verdict));
        due_anew(state);
        Some(fence)
    }

    /// `Store::reissue_unattempted`: a fan-out message came back, and its jobs may or may not exist.
    pub(crate) fn reissue_unattempted(&self, state: &mut State) -> Option<Fence> {
        let delivery = state.delivery?;
        (delivery.status == DeliveryStatus::Pending && delivery.attempts == 0).then(|| self.raise(state))
    }

    /// `Store::reissue`: an attempt is recorded, and what follows from it may or may not exist. Only on the row as it was
    /// seen: whoever changed it meanwhile goes on with it. `tried` allows for a fence one higher, which may be the work of
    /// the same call's earlier try.
    pub(crate) fn reissue_recorded(
        &self,
        state: &mut State,
        recorded: AttemptNumber,
        seen: Fence,
        tried: bool,
    ) -> Option<Fence> {
        let delivery = state.delivery?;
        let is_as_seen = delivery.status == DeliveryStatus::Pending
            && delivery.attempts == recorded.get()
            && (delivery.fence == seen || tried && delivery.fence == seen.next());
        is_as_seen.then(|| self.raise(state))
    }

    /// `RecoverySession::reissue_overdue`: returns the job to be published.
    pub(crate) fn reissue_overdue(&self, state: &mut State) -> Option<Ticket> {
        let delivery = state.delivery.filter(|delivery| delivery.status == DeliveryStatus::Pending)?;
        let fence = self.raise(state);
        Some(Ticket { attempt: AttemptNumber::new(delivery.attempts + 1)?, fence })
    }

    /// Voids what jobs there are: `fence = fence + 1`, and the delivery is due anew.
    fn raise(&self, state: &mut State) -> Fence {
        due_anew(state);
        let Some(delivery) = &mut state.delivery else { return Fence::FIRST };
        if !self.makes(Mistake::NoFence) {
            delivery.fence = delivery.fence.next();
        }
        delivery.fence
    }
}

/// `next_attempt_at` is set, to now or later: what a probe that was put in before could tell is of no use any more.
fn due_anew(state: &mut State) {
    state.deliver.remove_probe();
    state.deliver_progress = Progress::Unknown;
}

//! What has lost its message gets a new one.

use broker::{Message, PublishError, Publisher};
use domain::protocol::Ticket;
use domain::retry::AttemptNumber;
use service::Clock;
use store::{Lost, LostEvents, RecoverySession, ReissuedJob, StoreError, StoredEvent};
use wire::{DeliveryJob, FanOut, FanOutEvent, Names, PROTOBUF};

/// Deliveries put back with one statement.
const DELIVERIES_AT_ONCE: u32 = 500;

/// Events put back with one statement; their bodies are held in memory.
const EVENTS_AT_ONCE: u32 = 64;

/// Something could not be put back. What was issued anew and not published is found again when it is overdue again.
#[derive(Debug, thiserror::Error)]
pub enum PutBackError {
    /// The database did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker did not confirm.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Puts back what has lost its message, some of it at a time. Safe beside dispatchers that work and beside another one
/// that does the same: a delivery's older jobs are void from then on, and fanning an event out twice changes nothing.
#[derive(Debug)]
pub struct PutBack<'a> {
    /// Where what was lost is found.
    pub session: &'a mut RecoverySession,
    /// Where it is published.
    pub publisher: &'a Publisher,
    /// The queues.
    pub names: &'a Names,
    /// The time.
    pub clock: &'a Clock,
}

impl PutBack<'_> {
    /// Puts back some deliveries; returns how many, 0 when there are no more.
    pub async fn deliveries(&mut self, lost: Lost) -> Result<usize, PutBackError> {
        let jobs = self.session.reissue_overdue(lost, DELIVERIES_AT_ONCE, self.clock.now()).await?;
        let messages = jobs.iter().map(|job| {
            let queue = self.names.of_webhook(job.webhook).deliver_queue();
            Message::to_queue(queue, to_job(job).encode()).content_type(PROTOBUF)
        });
        let _ = self.publisher.publish_all(messages).await?;
        Ok(jobs.len())
    }

    /// Puts back some of these events; returns how many, 0 when there are no more.
    pub async fn events(&mut self, lost: Lost, which: LostEvents) -> Result<usize, PutBackError> {
        let events = self.session.requeue_events(lost, which, EVENTS_AT_ONCE, self.clock.now()).await?;
        let count = events.len();
        let messages = FanOut::grouped(events.into_iter().map(to_fan_out)).into_iter().map(|fan_out| {
            let queue = self.names.of_events(&fan_out.events).fan_out_queue();
            Message::to_queue(queue, fan_out.encode()).content_type(PROTOBUF).redelivered()
        });
        let _ = self.publisher.publish_all(messages).await?;
        Ok(count)
    }
}

fn to_job(reissued: &ReissuedJob) -> DeliveryJob {
    let next = reissued.attempts.saturating_add(1);
    DeliveryJob {
        delivery: reissued.delivery,
        webhook: reissued.webhook,
        event: reissued.event,
        public_id: reissued.public_id.clone(),
        event_type: reissued.event_type,
        timestamp: reissued.timestamp.clone(),
        ticket: Ticket {
            attempt: AttemptNumber::new(next).unwrap_or(AttemptNumber::FIRST),
            fence: reissued.fence,
        },
        body: None,
        body_bytes: reissued.body_bytes,
    }
}

fn to_fan_out(event: StoredEvent) -> FanOutEvent {
    let StoredEvent { id, public_id, event_type, recipients, timestamp, body } = event;
    FanOutEvent { id, public_id, event_type, timestamp, recipients, body }
}

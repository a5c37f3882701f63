#![doc = include_str!("../README.md")]

mod attempts;
mod deliveries;
mod encryption;
mod error;
mod events;
mod first_attempts;
mod history;
mod id_range;
mod idempotency;
mod listener;
mod manual;
mod migrations;
mod partitions;
mod pool;
mod recovery;
mod reissue;
mod rotation;
mod schema;
mod statement;
mod webhooks;

pub use attempts::{AttemptRecord, AttemptResult};
pub use deliveries::{DeliveryState, NewDelivery, TestDeliveryError};
pub use encryption::{DecryptError, KeyError, SecretKeys};
pub use error::{SchemaMismatch, StoreError};
pub use events::{Inserted, NewEvent, StoredEvent};
pub use first_attempts::{FirstAttempt, PendingDelivery, Unwritten};
pub use history::{Delivery, DeliveryFilter, DeliveryPage, Page, Statistics};
pub use idempotency::IdempotencyKey;
pub use listener::{Change, ChangeListener};
pub use manual::ManualLimits;
pub use pool::{Store, StoreConfig};
pub use recovery::{Lost, LostCounts, LostEvents, RecoverySession, ReissuedJob};
pub use reissue::{Deferral, Reissue};
pub use rotation::{EncryptedAnew, KeyUse, Unreadable, Which};
pub use webhooks::{
    CreateError, Created, Disclosed, NewWebhook, PreviousSecret, Subscription, Webhook, WebhookChanges,
    WebhookPage, WebhookTarget,
};

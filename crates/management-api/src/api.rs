//! What every call works with.

use broker::Publisher;
use domain::limits::Limits;
use domain::webhook_url::UrlPolicy;
use ring::rand::SystemRandom;
use service::Clock;
use service::settings::Api as HttpSettings;
use store::{ManualLimits, Store};
use wire::Names;

use crate::answers::AnswerMemory;
use crate::rate::Rates;
use crate::token::Verifier;

/// The state behind the calls.
pub(crate) struct Api {
    /// The database.
    pub(crate) store: Store,
    /// Publishes the deliveries of test events.
    pub(crate) publisher: Publisher,
    /// Where they go.
    pub(crate) names: Names,
    /// Bodies up to this many bytes travel with a delivery.
    pub(crate) inline_body: usize,
    /// Checks bearer tokens.
    pub(crate) verifier: Verifier,
    /// The URLs webhooks may have.
    pub(crate) urls: UrlPolicy,
    /// What users may have.
    pub(crate) limits: Limits,
    /// How often users may cause attempts by hand.
    pub(crate) manual: ManualLimits,
    /// How many idempotency keys of a user are remembered.
    pub(crate) idempotency_keys_per_user: u32,
    /// The memory for answers.
    pub(crate) answers: AnswerMemory,
    /// How many requests users and addresses may send.
    pub(crate) rates: Rates,
    /// The HTTP server's bounds.
    pub(crate) http: HttpSettings,
    /// The time.
    pub(crate) clock: Clock,
    /// Makes ids and secrets.
    pub(crate) random: SystemRandom,
}

//! The numbers the guide and the contract promise.

/// Most bytes in a published message: 256 KiB.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// Most user ids an event may name.
pub const MAX_RECIPIENTS: usize = 1000;

/// Deepest nesting of objects and arrays in a message. Receivers' parsers have limits of their own
/// (PHP 512, Python about 1,000); this stays well below them.
pub const MAX_DEPTH: usize = 128;

/// Most characters in a webhook's URL.
pub const MAX_URL_CHARS: usize = 2048;

/// Most characters in a webhook's description.
pub const MAX_DESCRIPTION_CHARS: usize = 500;

/// What one user may have; both come from configuration (guide, *Limites*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Webhooks a user may have.
    pub webhooks_per_user: u32,
    /// Event types a webhook may subscribe to.
    pub events_per_webhook: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { webhooks_per_user: 100, events_per_webhook: 20 }
    }
}

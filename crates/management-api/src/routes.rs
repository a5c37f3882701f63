//! Every call of the API: the server is built from this table, and so are the tests that try each call as a stranger.

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// `GET /api/webhooks`
    ListWebhooks,
    /// `POST /api/webhooks`
    CreateWebhook,
    /// `GET /api/webhooks/{id}`
    ShowWebhook,
    /// `PUT /api/webhooks/{id}`
    UpdateWebhook,
    /// `DELETE /api/webhooks/{id}`
    DeleteWebhook,
    /// `POST /api/webhooks/{id}/regenerate-secret`
    RegenerateSecret,
    /// `POST /api/webhooks/{id}/test`
    SendTestEvent,
    /// `GET /api/webhooks/{id}/deliveries`
    ListDeliveries,
    /// `GET /api/event-types`
    ListEventTypes,
}

/// A path and what can be called there, by method; where there is a `GET`, there is a `HEAD`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    /// The path, ids as `{name}`.
    pub(crate) pattern: &'static str,
    /// What can be called.
    pub(crate) calls: &'static [(&'static str, Call)],
}

/// Every path.
pub(crate) const PATHS: &[Path] = &[
    Path { pattern: "/api/webhooks", calls: &[("GET", Call::ListWebhooks), ("POST", Call::CreateWebhook)] },
    Path {
        pattern: "/api/webhooks/{id}",
        calls: &[("GET", Call::ShowWebhook), ("PUT", Call::UpdateWebhook), ("DELETE", Call::DeleteWebhook)],
    },
    Path { pattern: "/api/webhooks/{id}/regenerate-secret", calls: &[("POST", Call::RegenerateSecret)] },
    Path { pattern: "/api/webhooks/{id}/test", calls: &[("POST", Call::SendTestEvent)] },
    Path { pattern: "/api/webhooks/{id}/deliveries", calls: &[("GET", Call::ListDeliveries)] },
    Path { pattern: "/api/event-types", calls: &[("GET", Call::ListEventTypes)] },
];

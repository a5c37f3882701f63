//! What the guide and the contract promise, shown on real processes: each module is one promise.

mod changes;
mod configuration;
mod crashes;
mod delivered_request;
mod duplicates;
mod guide_code;
mod lost_messages;
mod memory;
mod outages;
mod private_servers;
mod retries;
mod routing;
mod secrets_in_logs;
mod shutdown;
mod standard_webhooks;
mod support;
mod trying_out;

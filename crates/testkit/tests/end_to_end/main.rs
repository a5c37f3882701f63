//! What the guide and the contract promise, shown on real processes: each module is one promise.

mod broker_faults;
mod changes;
mod configuration;
mod copies;
mod crashes;
mod database_faults;
mod delivered_request;
mod duplicates;
mod egress;
mod guide_code;
mod key_rotation;
mod lost_messages;
mod memory;
mod name_servers;
mod outages;
mod permissions;
mod poison;
mod private_servers;
mod retries;
mod routing;
mod secrets_in_logs;
mod shutdown;
mod standard_webhooks;
mod support;
mod trial;
mod trying_out;

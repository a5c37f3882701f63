//! From settings to the database and the broker.

use std::time::Duration;

use broker::{Backoff, Broker, BrokerConfig, BrokerError, Origin, Topology};
use domain::pace::ParkDelays;
use domain::shard::Shards;
use service::Settings;
use store::{KeyError, SecretKeys, Store, StoreConfig, StoreError};
use wire::Names;

/// The settings do not lead to a database or a broker.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureError {
    /// A setting is missing.
    #[error("{0} is not configured")]
    Missing(&'static str),
    /// The encryption keys are not what they have to be.
    #[error("secrets.keys: {0}")]
    Keys(#[from] KeyError),
    /// The database's settings are not usable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The broker's settings are not usable.
    #[error("amqp: {0}")]
    Broker(#[from] BrokerError),
}

/// Checks, without connecting, that the settings lead to a database and a broker. An error names the key.
pub fn check(settings: &Settings) -> Result<(), ConfigureError> {
    store(settings, "check")?;
    let url = settings.amqp.url.as_ref().ok_or(ConfigureError::Missing("amqp.url"))?;
    Ok(broker::check_url(url.expose())?)
}

/// The exchange and queue names behind the configured prefix, with the configured shards.
pub fn names(settings: &Settings) -> Names {
    let amqp = &settings.amqp;
    Names::new(amqp.prefix.as_str())
        .with_shards(Shards::new(amqp.shards))
        .draining(Shards::new(amqp.drain_shards))
}

/// How late something is that can only be lost: longer than anyone holds a message, and some more.
pub fn late(settings: &Settings) -> Duration {
    let delivery = &settings.delivery;
    // A job waits for its webhook, then for what all share for as long as an attempt takes, then the attempt is made; if
    // nothing could be sent, it waits for others to be parked with. An event's message waits as long for room, and is held
    // for as long as another message does not stand for it.
    delivery.max_wait.0
        + delivery.park_together.0
        + delivery.hold.0
        + delivery.timeout.0
        + delivery.timeout.0
        + settings.recovery.slack.0
}

/// The topology, the same whichever service declares it.
pub fn topology(settings: &Settings) -> Topology {
    let delays: Vec<Duration> = settings.delivery.retry_delays.0.iter().map(|delay| delay.0).collect();
    wire::topology::topology(&names(settings), &delays, &park_delays(settings))
}

/// How long jobs are parked.
pub fn park_delays(settings: &Settings) -> ParkDelays {
    let delivery = &settings.delivery;
    ParkDelays::new(delivery.park_delays.0.iter().map(|delay| delay.0))
}

/// The database, under the service's name. Does not connect yet. Without `secrets.keys` it can neither store
/// nor read webhooks' secrets: a service that does lists the key among what it requires.
pub fn store(settings: &Settings, name: &str) -> Result<Store, ConfigureError> {
    let database = &settings.database;
    let url = database.url.as_ref().ok_or(ConfigureError::Missing("database.url"))?;
    let keys = match &settings.secrets.keys {
        Some(keys) => SecretKeys::parse(keys.expose())?,
        None => SecretKeys::none(),
    };
    let config = StoreConfig {
        url: url.expose().to_owned(),
        name: name.to_owned(),
        pool_size: usize::try_from(database.pool_size).unwrap_or(usize::MAX),
        connect_timeout: database.connect_timeout.0,
        acquire_timeout: database.acquire_timeout.0,
        statement_timeout: database.statement_timeout.0,
        ca_file: database.ca_file.clone(),
    };
    Ok(Store::new(config, keys)?)
}

/// The broker, under the service's name. Starts connecting and declares the [`topology`] after every connect, unless
/// `amqp.declare` leaves that to others; needs a runtime.
pub fn broker(settings: &Settings, name: &str, consumes: Origin) -> Result<Broker, ConfigureError> {
    let topology = if settings.amqp.declare { topology(settings) } else { Topology::default() };
    broker_with(settings, name, topology, consumes)
}

/// The broker for a program that only looks: nothing is declared.
pub fn broker_to_look_at(settings: &Settings, name: &str) -> Result<Broker, ConfigureError> {
    broker_with(settings, name, Topology::default(), Origin::Anyone)
}

fn broker_with(
    settings: &Settings,
    name: &str,
    topology: Topology,
    consumes: Origin,
) -> Result<Broker, ConfigureError> {
    let amqp = &settings.amqp;
    let url = amqp.url.as_ref().ok_or(ConfigureError::Missing("amqp.url"))?;
    let config = BrokerConfig {
        url: url.expose().to_owned(),
        name: name.to_owned(),
        heartbeat: amqp.heartbeat.0,
        connect_timeout: amqp.connect_timeout.0,
        publish_timeout: amqp.publish_timeout.0,
        backoff: Backoff::default(),
        ca_file: amqp.ca_file.clone(),
        consumes,
    };
    Ok(Broker::connect(config, topology)?)
}

#[cfg(test)]
mod tests {
    use service::values::{List, Secret, Span};

    use super::*;

    #[test]
    fn lost_is_what_comes_later_than_anyone_holds_it() {
        let before = late(&Settings::default());
        let longer = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            late(&settings).saturating_sub(before)
        };
        let second = Duration::from_secs(1);
        assert_eq!(longer(|settings| settings.delivery.max_wait.0 += Duration::from_secs(1)), second);
        assert_eq!(longer(|settings| settings.delivery.park_together.0 += Duration::from_secs(1)), second);
        assert_eq!(longer(|settings| settings.delivery.hold.0 += Duration::from_secs(1)), second);
        assert_eq!(longer(|settings| settings.delivery.timeout.0 += Duration::from_secs(1)), 2 * second);
        assert_eq!(longer(|settings| settings.recovery.slack.0 += Duration::from_secs(1)), second);
    }

    #[test]
    fn the_topology_follows_the_prefix_the_retry_schedule_and_the_shards() {
        let mut settings = Settings::default();
        settings.amqp.prefix = "t1.".to_owned();
        settings.delivery.retry_delays = List(vec![Span::secs(1), Span::secs(2)]);
        let topology = topology(&settings);
        let queues: Vec<_> = topology.queue_names().collect();
        assert!(queues.contains(&"t1.webhooks.retry.1s"), "{queues:?}");
        assert!(queues.contains(&"t1.webhooks.retry.2s"), "{queues:?}");
        assert!(queues.contains(&"t1.webhooks.park.40s"), "{queues:?}");
        assert!(!queues.contains(&"t1.webhooks.deliver.s1"), "{queues:?}");

        settings.amqp.shards = 2;
        settings.amqp.drain_shards = 3;
        let topology = super::topology(&settings);
        let queues: Vec<_> = topology.queue_names().collect();
        assert!(queues.contains(&"t1.webhooks.deliver.s2"), "{queues:?}");
        assert!(!queues.contains(&"t1.webhooks.deliver.s3"), "{queues:?}");
    }

    #[test]
    fn unusable_settings_are_told_with_their_key_and_without_their_value() {
        let mut settings = Settings::default();
        let error = |settings: &Settings| store(settings, "test").unwrap_err().to_string();
        assert_eq!(error(&settings), "database.url is not configured");

        settings.database.url = Some(Secret::new("postgres://localhost/x"));
        settings.secrets.keys = Some(Secret::new("k1:hunter2"));
        assert!(error(&settings).starts_with("secrets.keys: "), "{}", error(&settings));
        assert!(!error(&settings).contains("hunter2"), "{}", error(&settings));
    }

    #[test]
    fn urls_that_cannot_be_read_are_told_without_their_password() {
        let url = |text: String| Some(Secret::new(text));
        let mut settings = Settings::default();
        settings.amqp.url = url("amqp://localhost".to_owned());
        for rest in
            ["u:hunter2@h:port/d", "u:hunter2@[::1/d", "u:hunter2@h/d?sslmode=hunter2", "u:hun%ter2@h/d"]
        {
            for scheme in ["postgres://", "", "postgres:", "https://", "postgres//", "url=postgres://"] {
                settings.database.url = url(format!("{scheme}{rest}"));
                // What can be read is no error here, whatever it leads to.
                if let Err(error) = check(&settings) {
                    let shown = format!("{error} {error:?}");
                    assert!(shown.contains("database.url") && !shown.contains("ter2"), "{shown}");
                }
            }
        }
        settings.database.url = url("postgres://localhost/x".to_owned());
        for rest in ["u:hunter2@h:port/d", "u:hunter2@[::1/d", "u:hunter2@h/%2f?auth_mechanism=hunter2"] {
            for scheme in ["amqp://", "", "amqp:", "hunter2://", "amqp//", "url=amqp://"] {
                settings.amqp.url = url(format!("{scheme}{rest}"));
                if let Err(error) = check(&settings) {
                    let shown = format!("{error} {error:?}");
                    assert!(shown.contains("amqp") && !shown.contains("ter2"), "{shown}");
                }
            }
        }
        settings.amqp.url = url("lokroom:hunter2@broker:5672/%2f".to_owned());
        let error = check(&settings).unwrap_err().to_string();
        assert_eq!(
            error,
            "amqp: not a URL such as amqp://user:password@host:port/vhost: it starts with another scheme"
        );
    }
}

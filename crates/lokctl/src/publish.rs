//! `lokctl publish`.

use anyhow::{Context as _, bail};
use broker::{Broker, Message};
use domain::event::Envelope;
use domain::{EventId, EventType, PublicEventId};
use ring::rand::SystemRandom;
use serde::Serialize;
use service::{Clock, Settings};

use crate::cli::Publish;
use crate::{check, connect, input};

/// Publishes an event, and prints its id once that is confirmed.
#[expect(clippy::print_stdout, reason = "the id is the command's output")]
pub(crate) async fn run(arguments: Publish, settings: &Settings, clock: &Clock) -> anyhow::Result<()> {
    let data = data(&arguments)?;
    let id = match arguments.id.clone() {
        Some(id) => id,
        None => EventId::generate(clock.now(), &SystemRandom::new())?.to_string(),
    };
    let body = envelope(&arguments, &id, &data)?;
    if !arguments.unchecked {
        // First alone, so that places are told as the file has them.
        Envelope::parse_data(&data).map_err(|rejection| check::explain(&rejection))?;
        check::accepted_as_json(&body, &arguments.event, clock)
            .context("not published; --unchecked publishes it nevertheless")?;
    }

    let exchange = backends::names(settings).events_exchange();
    let mut message = Message::to_exchange(exchange, &arguments.event, body.into()).content_type(wire::JSON);
    if PublicEventId::parse(&id).is_ok() {
        message = message.message_id(&id);
    }
    let broker = connect::to_publish(settings).await?;
    let _confirmed = publish(&broker, message).await?;
    connect::close(broker).await;
    println!("{id}");
    Ok(())
}

/// Publishes one message, confirmed.
pub(crate) async fn publish(broker: &Broker, message: Message) -> anyhow::Result<broker::Confirmed> {
    match connect::publisher(broker).publish(message).await {
        Ok(confirmed) => Ok(confirmed),
        Err(error) => match connect::trouble(broker) {
            Some(trouble) => Err(error).context(trouble),
            None => Err(error.into()),
        },
    }
}

/// The text of `data`, as written.
fn data(arguments: &Publish) -> anyhow::Result<Vec<u8>> {
    if let Some(path) = &arguments.data {
        return input::read(path).context("--data");
    }
    match arguments.event.parse::<EventType>() {
        Ok(event) => Ok(event.example_text().trim().as_bytes().to_vec()),
        Err(error) if arguments.unchecked => bail!("--event: {error}; it has no example: give --data"),
        Err(error) => bail!("--event: {error}"),
    }
}

/// The message: `data` is put in as it is, number formats and key order kept.
fn envelope(arguments: &Publish, id: &str, data: &[u8]) -> anyhow::Result<Vec<u8>> {
    let head = Head {
        id,
        event: &arguments.event,
        timestamp: arguments.timestamp.as_deref(),
        recipients: &arguments.recipients,
    };
    let mut message = serde_json::to_vec(&head)?;
    message.pop(); // the closing brace
    message.extend_from_slice(b",\"data\":");
    message.extend_from_slice(data);
    message.push(b'}');
    Ok(message)
}

/// The fields before `data`.
#[derive(Debug, Serialize)]
struct Head<'a> {
    id: &'a str,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<&'a str>,
    recipients: &'a [String],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_sent_as_written_and_the_rest_is_escaped() {
        let arguments = Publish {
            event: "booking.created".to_owned(),
            recipients: vec!["user \"1\"".to_owned()],
            data: None,
            id: None,
            timestamp: None,
            unchecked: false,
        };
        let message = envelope(&arguments, "a", b"{\n  \"n\": 250.00,\"e\":1E2}").unwrap();
        assert_eq!(
            String::from_utf8(message).unwrap(),
            "{\"id\":\"a\",\"event\":\"booking.created\",\"recipients\":[\"user \\\"1\\\"\"],\
             \"data\":{\n  \"n\": 250.00,\"e\":1E2}}"
        );
    }
}

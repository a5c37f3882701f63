//! `lokctl rejected republish`.

use anyhow::{Context as _, bail};
use broker::{Message, Pulled};

use super::letter::{Destination, Letter, json_field, printable};
use super::{Context, MAX_PULLED, select};
use crate::cli::Republish;
use crate::publish::publish;
use crate::{check, input};

/// Messages taken at once with `--all`.
const AT_ONCE: usize = 100;

/// Publishes messages again.
pub(super) async fn run(arguments: &Republish, context: &Context) -> anyhow::Result<()> {
    let depth = context.depth().await?;
    if arguments.all {
        return all(depth, context).await;
    }
    let mended = arguments.payload.as_deref().map(input::read).transpose().context("--payload")?;
    if mended.is_some() && arguments.which.len() > 1 {
        bail!("--payload mends one message, {} are named", arguments.which.len());
    }
    let pulled = context.inspector.pull(&context.names.rejected_queue(), MAX_PULLED).await?;
    for index in select::indexes(&arguments.which, &pulled, &context.names)? {
        match &mended {
            Some(payload) => one_mended(index, payload, &pulled, context).await?,
            None => one(index, &pulled, context).await?,
        }
    }
    Ok(pulled.close().await?)
}

/// Everything that is there now. What is rejected again joins the end of the queue and is not taken a second time.
async fn all(depth: usize, context: &Context) -> anyhow::Result<()> {
    let queue = context.names.rejected_queue();
    // What cannot be published stays pulled to the end, so that it is not found again. Bounded by `MAX_PULLED`.
    let mut held = Vec::new();
    let mut failures = Vec::new();
    let mut seen = 0;
    while seen < depth {
        let pulled = context.inspector.pull(&queue, AT_ONCE.min(depth - seen)).await?;
        let count = pulled.messages().count();
        if count == 0 {
            break;
        }
        let failed = failures.len();
        for index in 0..count {
            if let Err(error) = one(index, &pulled, context).await {
                failures.push(format!("{error:#}"));
            }
        }
        seen += count;
        if failures.len() == failed {
            pulled.close().await?;
        } else {
            held.push(pulled);
        }
        if held.len() * AT_ONCE >= MAX_PULLED {
            break;
        }
    }
    for pulled in held {
        pulled.close().await?;
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{} of {seen} stay in {queue}:\n  {}", failures.len(), failures.join("\n  "))
}

async fn one(index: usize, pulled: &Pulled, context: &Context) -> anyhow::Result<()> {
    let received = pulled.messages().nth(index).context("the message is gone")?;
    let letter = Letter::new(received, &context.names);
    let name = letter.id().unwrap_or_else(|| format!("the message at {}", index + 1));
    let Some(destination) = letter.destination() else {
        bail!(
            "{}: neither its headers nor its payload tell the routing key; mend it with --payload",
            printable(&name)
        );
    };
    move_to(&destination, letter.put_back(&destination), index, pulled, &name, context).await
}

async fn one_mended(index: usize, payload: &[u8], pulled: &Pulled, context: &Context) -> anyhow::Result<()> {
    let received = pulled.messages().nth(index).context("the message is gone")?;
    let routing_key = json_field(payload, "event").context(
        "--payload: not a JSON object with an `event`: the whole message is needed, not its `data` alone",
    )?;
    check::accepted_as_json(payload, &routing_key, &context.clock).context("--payload")?;

    let destination = Destination::Exchange { routing_key };
    let mut message = Letter::new(received, &context.names).put_back(&destination);
    message.body = payload.to_vec().into();
    message.content_type = Some(wire::JSON.to_owned());
    message.content_encoding = None;
    let id = json_field(payload, "id").or_else(|| message.message_id.clone());
    message.message_id.clone_from(&id);
    let name = id.unwrap_or_else(|| format!("the message at {}", index + 1));
    move_to(&destination, message, index, pulled, &name, context).await
}

/// Publishes, confirmed; then removes.
#[expect(clippy::print_stdout, reason = "what was published is the command's output")]
async fn move_to(
    destination: &Destination,
    message: Message,
    index: usize,
    pulled: &Pulled,
    name: &str,
    context: &Context,
) -> anyhow::Result<()> {
    let to = match destination {
        Destination::Exchange { routing_key } => format!("{} ({routing_key})", message.exchange),
        Destination::Queue(queue) => queue.clone(),
    };
    let (name, to) = (printable(name), printable(&to));
    let confirmed = publish(&context.broker, message).await.with_context(|| format!("{name} to {to}"))?;
    let removed = pulled.remove(index, confirmed).await;
    removed.with_context(|| format!("{name} is published to {to}, but stays here too"))?;
    println!("{name} to {to}");
    Ok(())
}

//! `lokctl rejected`: what could not be accepted.

mod letter;
mod list;
mod republish;
mod select;
mod show;

use anyhow::Context as _;
use broker::{Broker, Inspector};
use service::{Clock, Settings};
use wire::Names;

use crate::cli::Rejected;
use crate::connect;

/// Messages looked at in one go: they are held in memory.
const MAX_PULLED: usize = 1000;

/// What the commands work with.
struct Context {
    broker: Broker,
    inspector: Inspector,
    names: Names,
    clock: Clock,
}

/// Runs one of the commands.
pub(crate) async fn run(command: Rejected, settings: &Settings, clock: &Clock) -> anyhow::Result<()> {
    let broker = connect::to_look_at(settings).await?;
    let context = Context {
        inspector: broker.inspector(),
        broker,
        names: backends::names(settings),
        clock: clock.clone(),
    };
    match command {
        Rejected::List(arguments) => list::run(&arguments, &context).await?,
        Rejected::Show(arguments) => show::run(&arguments, &context).await?,
        Rejected::Republish(arguments) => republish::run(&arguments, &context).await?,
    }
    connect::close(context.broker).await;
    Ok(())
}

impl Context {
    /// How many messages wait in the queue.
    async fn depth(&self) -> anyhow::Result<usize> {
        let queue = self.names.rejected_queue();
        let depth = self.inspector.depth(&queue).await?.with_context(|| {
            format!(
                "there is no queue {queue}: the services declare it when they start; is amqp.prefix right?"
            )
        })?;
        Ok(usize::try_from(depth)?)
    }
}

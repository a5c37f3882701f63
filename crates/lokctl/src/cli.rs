//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use domain::UserId;
use domain::timestamp::PublishedTimestamp;
use service::values::Span;

use crate::recover::Since;

const EXAMPLES: &str = "\
Examples, in the project's directory after `make up`:
  lokctl token --user user_1                                   a bearer token for the management API
  lokctl publish --event booking.created --recipient user_1    publish the type's example
  lokctl rejected list                                         what could not be accepted, and why
  lokctl recover --since 2h --dry-run                          what has lost its message
  lokctl keys list                                             how many secrets each key encrypts

Where the stack is:
  `.dev/env` in the working directory, which `make up` writes, unless the environment says otherwise:
  LOK__DATABASE__URL, LOK__AMQP__URL and every other LOK__SECTION__KEY win over it. With LOK_CONFIG, which
  names a TOML file, `.dev/env` is not read.

Exit codes: 0 done, 1 not done, 2 wrong arguments or configuration.";

/// Operates Lok'Room Webhooks from a terminal.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Token(Token),
    Migrate(Migrate),
    Publish(Publish),
    #[command(subcommand)]
    Rejected(Rejected),
    Recover(Recover),
    #[command(subcommand)]
    Keys(Keys),
}

/// Make a bearer token for the management API.
///
/// The token is alone on standard output. It is signed with `auth.hs256_secret`: the API must use the same.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  curl -H \"Authorization: Bearer $(lokctl token --user user_1)\" http://127.0.0.1:8080/api/webhooks")]
pub(crate) struct Token {
    /// The user it speaks for (`sub`).
    #[arg(long, value_name = "USER", value_parser = UserId::parse)]
    pub(crate) user: UserId,
    /// How long it is valid: 30s, 15m, 1h, 7d; at most 365d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl)]
    pub(crate) ttl: Span,
}

/// Bring the database schema to this program's version.
///
/// Tells what was applied, one version a line. Safe to run again, and by several at once.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// How long to wait for a database that is not there yet.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = span)]
    pub(crate) wait: Span,
}

/// Publish one event over AMQP, confirmed by the broker.
///
/// The event is checked first as event-ingest will check it. Its id is alone on standard output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lokctl publish --event booking.created --recipient user_1 --recipient user_2
  lokctl publish --event payment.failed --recipient user_1 --data payment.json --id payment-42
  echo '{\"id\": 1}' | lokctl publish --event booking.created --recipient user_1 --data - --unchecked")]
pub(crate) struct Publish {
    /// The event type, which is the routing key too: booking.created, payment.failed, …
    #[arg(long, value_name = "TYPE")]
    pub(crate) event: String,
    /// A user it concerns; may be given several times.
    #[arg(long = "recipient", value_name = "USER", required = true)]
    pub(crate) recipients: Vec<String>,
    /// The event's `data`, a JSON object that is sent as it is written; - is standard input. Without: the type's
    /// example.
    #[arg(long, value_name = "FILE|-")]
    pub(crate) data: Option<PathBuf>,
    /// The event's id: the same id within 24 hours is delivered once. Without: a new one.
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// When it happened, RFC 3339. Without: when event-ingest takes it.
    #[arg(long, value_name = "TIME")]
    pub(crate) timestamp: Option<String>,
    /// Publish even what event-ingest will reject.
    #[arg(long)]
    pub(crate) unchecked: bool,
}

/// Look at messages that could not be accepted, and publish them again.
///
/// They are in the queue `lokroom.events.rejected`, whole. Looking changes nothing.
#[derive(Debug, Subcommand)]
pub(crate) enum Rejected {
    List(List),
    Show(Show),
    Republish(Republish),
}

/// List them, oldest first.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Most messages shown.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
}

/// Show one: its headers, and its payload as it is.
#[derive(Debug, Args)]
#[command(after_help = "\
To mend a message:
  lokctl rejected show 1 --payload-only > event.json
  $EDITOR event.json
  lokctl rejected republish 1 --payload event.json")]
pub(crate) struct Show {
    /// Its position in the list, or its id.
    #[arg(value_name = "N|ID")]
    pub(crate) which: String,
    /// The payload's bytes and nothing else.
    #[arg(long)]
    pub(crate) payload_only: bool,
}

/// Publish them again, and remove them from the queue once that is confirmed.
///
/// An event goes back to the exchange with its first routing key; a message between the services, which made one of
/// them crash, goes back to its queue.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lokctl rejected republish 1 3
  lokctl rejected republish order-42 --payload mended.json
  lokctl rejected republish --all")]
pub(crate) struct Republish {
    /// Positions in the list, or ids.
    #[arg(value_name = "N|ID", required_unless_present = "all")]
    pub(crate) which: Vec<String>,
    /// All that are there now.
    #[arg(long, conflicts_with_all = ["which", "payload"])]
    pub(crate) all: bool,
    /// The whole mended message instead of the rejected one, as JSON; - is standard input. The routing key is then its
    /// `event`.
    #[arg(long, visible_alias = "data-file", value_name = "FILE|-")]
    pub(crate) payload: Option<PathBuf>,
}

/// Put back what has lost its message: events that were stored and never fanned out, deliveries that are overdue.
///
/// Dispatchers do it by themselves in a good minute, as far as their queues are worked off. This does it now, whatever the
/// queues hold: after RabbitMQ lost its data behind a long queue, for example. Nothing is sent twice by it: the older
/// messages of a delivery count no more. Deliveries that wait for their retry are left until it is due. Events whose
/// message was set aside in `lokroom.events.rejected` are put back too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lokctl recover --since 2h --dry-run
  lokctl recover --since 2026-01-31T08:00:00Z")]
pub(crate) struct Recover {
    /// Of events accepted since then: RFC 3339, or so long ago: 15m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub(crate) since: Since,
    /// Only count.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// The keys that encrypt webhooks' secrets (`secrets.keys`): make one, see what is used, change to another.
///
/// To change the key: generate one; put it last in `secrets.keys` and roll out every service, so that all can read it; put it
/// first and roll out again, so that it encrypts; rotate; remove the old one once `list` says that it is not used.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// How many secrets each key encrypts: the current ones, and those before a regeneration, which are kept for a day.
    List,
    Generate(GenerateKey),
    Rotate(Rotate),
}

/// Print a new entry of `secrets.keys`: id:base64-of-32-bytes, alone on standard output.
#[derive(Debug, Args)]
pub(crate) struct GenerateKey {
    /// Its id: letters, digits, `.`, `_`, `-`. Without: k and today's date.
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
}

/// Encrypt every secret anew that is not under the first key of `secrets.keys`.
///
/// Services go on meanwhile; webhooks do not change for their owners and for receivers. Stopped at any moment, run it again:
/// what is done is found done. Secrets that cannot be decrypted are named and left as they are; then the exit code is 1.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  LOK__SECRETS__KEYS=\"$NEW,$OLD\" lokctl keys rotate")]
pub(crate) struct Rotate {
    /// Webhooks encrypted anew with one statement. Each is followed by a pause as long as it took.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: u32,
}

fn since(text: &str) -> Result<Since, &'static str> {
    if let Ok(Span(ago)) = text.parse() {
        return Ok(Since::Ago(ago));
    }
    let moment = PublishedTimestamp::parse(text)
        .map_err(|_| "expected a moment such as 2026-01-31T08:00:00Z, or a time such as 15m, 2h or 7d")?;
    Ok(Since::Moment(moment.instant()))
}

fn span(text: &str) -> Result<Span, &'static str> {
    text.parse().map_err(|_| "expected a duration such as 30s, 15m or 1h")
}

/// A token's lifetime: nobody can take a token back.
fn ttl(text: &str) -> Result<Span, &'static str> {
    let ttl = span(text)?;
    let possible = Span::secs(1)..=Span::secs(365 * 86_400);
    if possible.contains(&ttl) { Ok(ttl) } else { Err("must be 1s to 365d") }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_moment_is_said_as_such_or_as_so_long_ago() {
        let moment = domain::Timestamp::from_timestamp_millis(1_705_314_600_000).unwrap();
        assert!(matches!(since("2024-01-15T11:30:00+01:00"), Ok(Since::Moment(at)) if at == moment));
        assert!(matches!(since("2h"), Ok(Since::Ago(ago)) if ago.as_secs() == 7200));
        for text in ["", "yesterday", "2024-01-15"] {
            assert!(since(text).is_err(), "{text}");
        }
    }

    #[test]
    fn impossible_lifetimes_are_refused() {
        assert_eq!(ttl("1h"), Ok(Span::secs(3600)));
        for text in ["0s", "999ms", "366d", "soon"] {
            assert!(ttl(text).is_err(), "{text}");
        }
    }
}

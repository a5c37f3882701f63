//! `lokctl rejected show`.

use std::io::Write as _;

use anyhow::Context as _;
use broker::Received;

use super::letter::{Letter, printable};
use super::{Context, MAX_PULLED, select};
use crate::cli::Show;

/// Prints one message.
pub(super) async fn run(arguments: &Show, context: &Context) -> anyhow::Result<()> {
    context.depth().await?;
    let pulled = context.inspector.pull(&context.names.rejected_queue(), MAX_PULLED).await?;
    let indexes = select::indexes(std::slice::from_ref(&arguments.which), &pulled, &context.names)?;
    let received = indexes
        .first()
        .and_then(|index| pulled.messages().nth(*index))
        .cloned()
        .context("the message is gone")?;
    pulled.close().await?;

    let bytes = if arguments.payload_only {
        received.body.to_vec()
    } else {
        describe(&received, &Letter::new(&received, &context.names)).into_bytes()
    };
    let mut output = std::io::stdout().lock();
    output.write_all(&bytes).and_then(|()| output.flush()).context("standard output")
}

fn describe(received: &Received, letter: &Letter<'_>) -> String {
    let mut lines = vec![
        ("code".to_owned(), letter.code()),
        ("reason".to_owned(), letter.reason()),
        ("event".to_owned(), letter.subject()),
        ("id".to_owned(), letter.id().unwrap_or_else(|| "-".to_owned())),
        ("content-type".to_owned(), received.content_type.clone().unwrap_or_else(|| "-".to_owned())),
        ("bytes".to_owned(), received.body.len().to_string()),
    ];
    lines.extend(received.content_encoding.clone().map(|it| ("content-encoding".to_owned(), it)));
    lines.extend(received.headers.iter().map(|(name, value)| (format!("header {name}"), value)));

    let lines = lines.iter().map(|(name, value)| format!("{}: {}\n", printable(name), printable(value)));
    let mut text: String = lines.collect();
    text.push('\n');
    match std::str::from_utf8(&received.body) {
        Ok(body) if body.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t')) => {
            text.push_str(body);
        }
        _ => text.push_str("(the payload is not text: --payload-only > FILE writes its bytes)"),
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

//! `lokctl rejected list`.

use std::fmt::Write as _;

use super::Context;
use super::letter::{Letter, printable, shortened};
use crate::cli::List;

/// Characters of an id, and of a reason, in the table.
const ID_CHARS: usize = 36;
const REASON_CHARS: usize = 72;

/// Prints the table.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is the command's output")]
pub(super) async fn run(arguments: &List, context: &Context) -> anyhow::Result<()> {
    let depth = context.depth().await?;
    let pulled = context.inspector.pull(&context.names.rejected_queue(), arguments.limit.into()).await?;
    let rows: Vec<[String; 6]> = pulled
        .messages()
        .enumerate()
        .map(|(index, received)| {
            let letter = Letter::new(received, &context.names);
            [
                (index + 1).to_string(),
                shortened(&letter.code(), ID_CHARS),
                shortened(&letter.subject(), ID_CHARS),
                shortened(&letter.id().unwrap_or_else(|| "-".to_owned()), ID_CHARS),
                received.body.len().to_string(),
                shortened(&letter.reason(), REASON_CHARS),
            ]
        })
        .collect();
    pulled.close().await?;

    if rows.is_empty() {
        println!("no rejected messages");
        return Ok(());
    }
    print!("{}", table(&["#", "CODE", "EVENT", "ID", "BYTES", "REASON"].map(str::to_owned), &rows));
    if depth > rows.len() {
        eprintln!("{} more: --limit shows up to 1000", depth - rows.len());
    }
    Ok(())
}

/// Columns as wide as their widest cell; the last one ragged.
fn table<const N: usize>(head: &[String; N], rows: &[[String; N]]) -> String {
    let mut widths = head.clone().map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(printable(&line).trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let cells = |row: [&str; 2]| row.map(str::to_owned);
        assert_eq!(table(&cells(["#", "CODE"]), &[cells(["10", "é"])]), "#   CODE\n10  é\n");
    }
}

//! Tables for documents.

use std::fmt::Write as _;

/// A table whose first column is text, and all others numbers.
pub(crate) fn table<R: AsRef<[String]>>(head: &[&str], rows: &[R]) -> String {
    let mut text =
        format!("| {} |\n| --- |{}\n", head.join(" | "), " ---: |".repeat(head.len().saturating_sub(1)));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.as_ref().join(" | "));
    }
    text
}

/// A whole number, with a comma for every thousand.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 && digits != "0" { format!("-{text}") } else { text }
}

/// Puts `generated` between the marks of a part: `<!-- generated: name -->` and `<!-- end -->`.
pub(crate) fn put_between(text: &str, name: &str, generated: &str) -> Result<String, NoMarks> {
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), "<!-- end -->");
    let no_marks = || NoMarks(name.to_owned());
    let (before, rest) = text.split_once(&begin).ok_or_else(no_marks)?;
    let (_, after) = rest.split_once(end).ok_or_else(no_marks)?;
    Ok(format!("{before}{begin}{}\n{end}{after}", generated.trim_end()))
}

/// The text has no such marks.
#[derive(Debug, thiserror::Error)]
#[error("the document has no `<!-- generated: {0} -->` … `<!-- end -->`")]
pub(crate) struct NoMarks(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_its_numbers_to_the_right() {
        let rows = [vec!["a".to_owned(), "1".to_owned()]];
        assert_eq!(table(&["what", "how many"], &rows), "| what | how many |\n| --- | ---: |\n| a | 1 |\n");
    }

    #[test]
    fn thousands_are_told_apart() {
        let numbers = [0.4, 7.0, 999.6, 12_345.0, 1_234_567.0, -1000.0].map(grouped);
        assert_eq!(numbers, ["0", "7", "1,000", "12,345", "1,234,567", "-1,000"]);
    }

    #[test]
    fn a_part_is_replaced_between_its_marks_and_nothing_else() {
        let text =
            "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n<!-- generated: y -->\nkept\n<!-- end -->\n";
        let once = put_between(text, "x", "new\n").unwrap();
        assert_eq!(once, text.replace("old", "new"));
        assert_eq!(put_between(&once, "x", "new").unwrap(), once);
        assert!(put_between(text, "z", "").unwrap_err().to_string().contains("generated: z"));
    }
}

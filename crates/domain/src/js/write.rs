//! Writing as ECMAScript's `JSON.stringify` does.

use std::borrow::Cow;

use super::{Object, Value};

impl Value<'_> {
    /// Appends the document as `JSON.stringify` prints it: no white space, ECMAScript numbers, integer-like
    /// keys first in ascending order, only the necessary escapes.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(value) => write_number(*value, out),
            Self::String(text) => write_string(text, out),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => write_object(members, out),
        }
    }
}

/// Appends an object as `JSON.stringify` prints it.
pub(crate) fn write_object(members: &Object<'_>, out: &mut String) {
    let write_member = |out: &mut String, (key, value): (&Cow<'_, str>, &Value<'_>)| {
        if !out.ends_with('{') {
            out.push(',');
        }
        write_string(key, out);
        out.push(':');
        value.write(out);
    };

    out.push('{');
    let mut indexed: Vec<_> =
        members.iter().filter_map(|member| Some((array_index(member.0)?, member))).collect();
    indexed.sort_unstable_by_key(|(index, _)| *index);
    for &(_, member) in &indexed {
        write_member(out, member);
    }
    for member in members {
        if indexed.is_empty() || array_index(member.0).is_none() {
            write_member(out, member);
        }
    }
    out.push('}');
}

/// The number a key stands for if it is an *array index* (ECMA-262 §6.1.7): such keys come first in an
/// object's own key order, whatever order they were added in (§10.1.11.1).
fn array_index(key: &str) -> Option<u32> {
    let canonical = key == "0" || (key.starts_with(|c: char| ('1'..='9').contains(&c)) && key.len() <= 10);
    if !canonical || !key.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    key.parse().ok().filter(|index| *index < u32::MAX)
}

fn write_number(value: f64, out: &mut String) {
    out.push_str(ryu_js::Buffer::new().format_finite(value));
}

/// Writes a string with the escapes of `QuoteJSONString` (ECMA-262 §25.5.4.3); there are no lone
/// surrogates in a Rust string.
fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape: Cow<'static, str> = match byte {
            b'"' => "\\\"".into(),
            b'\\' => "\\\\".into(),
            0x08 => "\\b".into(),
            0x0c => "\\f".into(),
            b'\n' => "\\n".into(),
            b'\r' => "\\r".into(),
            b'\t' => "\\t".into(),
            0x00..=0x1f => format!("\\u{byte:04x}").into(),
            _ => continue,
        };
        out.push_str(&text[plain_from..at]);
        out.push_str(&escape);
        plain_from = at + 1;
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use crate::js::parse;

    fn stringified(json: &str) -> String {
        let mut out = String::new();
        parse(json.as_bytes(), 128).unwrap().write(&mut out);
        out
    }

    #[test]
    fn numbers_print_as_ecmascript_prints_them() {
        for (json, printed) in [
            ("250.00", "250"),
            ("80.50", "80.5"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("1e20", "100000000000000000000"),
            ("1E21", "1e+21"),
            ("1e-6", "0.000001"),
            ("1e-7", "1e-7"),
            ("1e-400", "0"),
            ("0.1", "0.1"),
            ("123456789.123456789", "123456789.12345679"),
            ("5e-324", "5e-324"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ] {
            assert_eq!(stringified(json), printed, "{json}");
        }
    }

    #[test]
    fn keys_keep_their_order_but_array_indexes_come_first_ascending() {
        assert_eq!(
            stringified(r#"{"b":1,"10":2,"9":3,"a":4,"01":5,"4294967294":6,"4294967295":7,"-1":8,"0":9}"#),
            r#"{"0":9,"9":3,"10":2,"4294967294":6,"b":1,"a":4,"01":5,"4294967295":7,"-1":8}"#
        );
    }

    #[test]
    fn the_last_of_duplicate_keys_counts_at_the_place_of_the_first() {
        assert_eq!(stringified(r#"{"a":1,"b":2,"a":{"c":3},"\u0061":4}"#), r#"{"a":4,"b":2}"#);
    }

    #[test]
    fn only_the_necessary_escapes_remain() {
        assert_eq!(
            stringified(
                r#" { "k" : "\u00e9 \u20ac \ud83d\ude00 \/ \u0007 \u001F \u007f \u2028 \" \\ \b\f\n\r\t" } "#
            ),
            "{\"k\":\"é € 😀 / \\u0007 \\u001f \u{7f} \u{2028} \\\" \\\\ \\b\\f\\n\\r\\t\"}"
        );
    }
}

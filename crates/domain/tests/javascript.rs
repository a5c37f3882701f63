//! What `js` reads and writes is what JavaScript itself reads and writes: thousands of documents, one Node process.
//! `make test` installs Node.

use std::io::Write as _;
use std::process::{Command, Stdio};

use domain::js;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// Documents of one run.
const DOCUMENTS: usize = 6_000;

/// Standard input: a JSON array of `[source, written]` a line. Prints the pairs that are not what JavaScript makes of them.
const CHECK: &str = r"
const lines = require('fs').readFileSync(0, 'utf8').trimEnd().split('\n');
for (const line of lines) {
  const [source, written] = JSON.parse(line);
  const expected = JSON.stringify(JSON.parse(source));
  if (written !== expected || JSON.stringify(JSON.parse(written)) !== written) {
    console.log(JSON.stringify({ source, written, expected }));
  }
}
console.log(`${lines.length} checked`);
";

/// A character as it stands in a string literal: itself, or one of the escapes a publisher may write for it.
fn character() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::char::range(' ', '~').prop_filter("must be escaped", |c| !matches!(c, '"' | '\\')).prop_map(String::from),
        2 => any::<char>()
            .prop_filter("must be escaped", |c| *c >= ' ' && !matches!(c, '"' | '\\'))
            .prop_map(String::from),
        1 => prop::sample::select(vec![r#"\""#, r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t"]).prop_map(String::from),
        1 => any::<char>().prop_map(|c| {
            let mut units = [0; 2];
            let escapes = c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}"));
            escapes.collect::<Vec<_>>().concat()
        }),
        1 => (0_u16..0xd800).prop_map(|unit| format!("\\u{unit:04X}")),
        1 => prop::sample::select(vec!["\u{7f}", "\u{2028}", "\u{2029}", "\u{feff}", "é", "€", "😀"]).prop_map(String::from),
    ]
}

fn string() -> impl Strategy<Value = String> {
    vec(character(), 0..8).prop_map(|characters| format!("\"{}\"", characters.concat()))
}

/// Keys that JavaScript sorts, keys that only look like it, and keys that mean something to its objects.
fn key() -> impl Strategy<Value = String> {
    let special = [
        "0",
        "1",
        "2",
        "9",
        "10",
        "01",
        "-1",
        "1.5",
        "1e3",
        "4294967294",
        "4294967295",
        "4294967296",
        "00",
        "",
        "__proto__",
        "constructor",
        "toString",
        "length",
        "a",
        "b",
        "\\u0031",
        "id",
    ];
    prop_oneof![
        3 => prop::sample::select(special.to_vec()).prop_map(|key| format!("\"{key}\"")),
        1 => any::<u32>().prop_map(|key| format!("\"{key}\"")),
        2 => string(),
    ]
}

fn number() -> impl Strategy<Value = String> {
    let special = [
        "0",
        "-0",
        "0.0",
        "-0.0",
        "250.00",
        "1.10",
        "1e21",
        "1E21",
        "1e+21",
        "999999999999999934464.0",
        "1e-6",
        "1e-7",
        "5e-324",
        "2e-324",
        "1.7976931348623157e308",
        "0.1",
        "0.30000000000000004",
        "9007199254740991",
        "-9007199254740991",
        "9007199254740993.0",
        "123456789012345678901234567890.5",
        "1e0",
        "0e10",
        "-0e-1",
        "4.35",
    ];
    prop_oneof![
        2 => prop::sample::select(special.to_vec()).prop_map(String::from),
        2 => (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(|n| n.to_string()),
        2 => (any::<i32>(), 0_u32..1_000_000).prop_map(|(whole, cents)| format!("{whole}.{cents:06}")),
        2 => any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        1 => (any::<u32>(), any::<u64>(), -330_i32..300).prop_map(|(a, b, e)| format!("{a}.{b}E{e:+}")),
    ]
}

fn white() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 1 => prop::sample::select(vec![" ", "\n", "\t", "\r\n", "  "])]
}

fn document() -> impl Strategy<Value = String> {
    let literal = prop::sample::select(vec!["null", "true", "false"]).prop_map(String::from);
    let leaf = prop_oneof![1 => literal, 3 => number(), 3 => string()];
    leaf.prop_recursive(5, 60, 8, |inner| {
        let member =
            (key(), white(), inner.clone()).prop_map(|(key, white, value)| format!("{key}:{white}{value}"));
        prop_oneof![
            1 => (vec(inner, 0..6), white()).prop_map(|(items, white)| {
                format!("[{white}{}{white}]", items.join(&format!("{white},{white}")))
            }),
            3 => (vec(member, 0..10), white()).prop_map(|(members, white)| {
                format!("{{{white}{}{white}}}", members.join(&format!("{white},{white}")))
            }),
        ]
    })
}

#[test]
fn documents_are_written_as_javascript_writes_them_and_stay_as_they_are() {
    let mut runner = TestRunner::deterministic();
    let (mut pairs, mut made) = (Vec::new(), 0);
    while pairs.len() < DOCUMENTS {
        let source = document().new_tree(&mut runner).expect("a document").current();
        made += 1;
        // What JavaScript cannot hold is refused; `js`'s own tests say what that is.
        if let Ok(value) = js::parse(source.as_bytes(), 64) {
            let mut written = String::new();
            value.write(&mut written);
            pairs.push(serde_json::json!([source, written]).to_string());
        }
        assert!(made < 2 * DOCUMENTS, "too much is refused: {} of {made} accepted", pairs.len());
    }

    let mut node = Command::new("node")
        .args(["-e", CHECK])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs; `make test` installs it");
    let mut stdin = node.stdin.take().expect("standard input is piped");
    let writing = std::thread::spawn(move || stdin.write_all(pairs.join("\n").as_bytes()));
    let output = node.wait_with_output().expect("node ends");
    writing.join().expect("no panic").expect("node reads everything");

    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}: {said}", output.status);
    assert_eq!(said, format!("{DOCUMENTS} checked\n"));
}

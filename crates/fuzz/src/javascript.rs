//! `domain::js`, against itself and against `serde_json`.

use std::borrow::Cow;

use domain::js::{self, Problem, Value};
use domain::limits::MAX_DEPTH;

use crate::Verdict;

/// `serde_json` gives up at this depth.
const SERDE_DEPTH: usize = 127;

/// 2^53 − 1.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// The shortest literal that grows the most: `1e20` is printed with 21 digits.
const MAX_GROWTH: usize = 6;

/// Reads a document and writes it.
pub fn check(input: &[u8]) -> Verdict {
    let value = match js::parse(input, MAX_DEPTH) {
        Ok(value) => value,
        Err(error) => {
            assert!(error.offset <= input.len(), "the place of an error lies within the document");
            refused_by_others_too(input, &error.problem);
            return Verdict::Refused(kind(&error.problem).to_owned());
        }
    };
    let written = written(&value);
    assert!(written.len() <= MAX_GROWTH * input.len(), "it grows to {} bytes", written.len());
    assert!(!written.bytes().any(|byte| byte < 0x20), "control characters are escaped");

    check_fixed_point(&without_whole_numbers_out_of_range(&value));

    // Depth is the one thing in which the two may differ here.
    if js::parse(input, SERDE_DEPTH).is_ok() {
        let source: serde_json::Value = serde_json::from_slice(input).expect("serde_json reads it too");
        let result: serde_json::Value =
            serde_json::from_str(&written).expect("serde_json reads what was written");
        assert_same(&source, &result);
        assert_same(&source, &value.to_serde());
    }
    Verdict::Accepted
}

fn check_fixed_point(value: &Value<'_>) {
    let written = written(value);
    let again = js::parse(written.as_bytes(), MAX_DEPTH).expect("what was written is read");
    assert_eq!(&again, value, "what was written means the same");
    assert_eq!(self::written(&again), written, "what was written stays as it is");
    check_order(&again);
}

/// Keys that are array indexes come first, ascending (ECMA-262 §10.1.11.1).
fn check_order(value: &Value<'_>) {
    let index =
        |key: &str| key.parse().ok().filter(|index: &u32| *index < u32::MAX && index.to_string() == key);
    match value {
        Value::Array(items) => items.iter().for_each(check_order),
        Value::Object(members) => {
            let keys: Vec<_> = members.keys().map(|key| index(key).unwrap_or(u32::MAX)).collect();
            assert!(keys.is_sorted(), "keys in another order than JavaScript's");
            members.values().for_each(check_order);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `1e20` is accepted, and printed with all its digits, which would not be accepted: whoever writes digits means each of
/// them. JavaScript makes no difference between the two.
fn without_whole_numbers_out_of_range<'a>(value: &Value<'a>) -> Value<'a> {
    match value {
        Value::Number(number)
            if number.fract() == 0.0 && (MAX_SAFE_INTEGER..1e21).contains(&number.abs()) =>
        {
            Value::Number(0.0)
        }
        Value::Array(items) => Value::Array(items.iter().map(without_whole_numbers_out_of_range).collect()),
        Value::Object(members) => {
            let kept = |(key, value): (&Cow<'a, str>, &Value<'a>)| {
                (key.clone(), without_whole_numbers_out_of_range(value))
            };
            Value::Object(members.iter().map(kept).collect())
        }
        other => other.clone(),
    }
}

/// What is refused is not JSON for others either, or is what JavaScript cannot hold.
fn refused_by_others_too(input: &[u8], problem: &Problem) {
    match problem {
        Problem::TooDeep { .. } | Problem::IntegerOutOfRange | Problem::NumberOverflow => {}
        Problem::Malformed { .. } | Problem::NotUtf8 | Problem::LoneSurrogate => {
            let read = serde_json::from_slice::<serde_json::Value>(input);
            assert!(read.is_err(), "refused as {problem}, but serde_json reads it");
        }
    }
}

fn kind(problem: &Problem) -> &'static str {
    match problem {
        Problem::Malformed { expected } => expected,
        Problem::NotUtf8 => "not UTF-8",
        Problem::TooDeep { .. } => "too deep",
        Problem::IntegerOutOfRange => "integer out of range",
        Problem::NumberOverflow => "number overflow",
        Problem::LoneSurrogate => "lone surrogate",
    }
}

fn written(value: &Value<'_>) -> String {
    let mut text = String::new();
    value.write(&mut text);
    text
}

/// The same document. `serde_json` rounds decimals in its own way, by some units in the last place.
fn assert_same(one: &serde_json::Value, other: &serde_json::Value) {
    use serde_json::Value::{Array, Number, Object};
    match (one, other) {
        (Number(one), Number(other)) => {
            let (one, other) = (one.as_f64().expect("a double"), other.as_f64().expect("a double"));
            let close = (one - other).abs() <= 4.0 * f64::EPSILON * one.abs().max(other.abs());
            // Those with fewer digits than a double has elsewhere.
            let tiny = one.abs().max(other.abs()) < f64::MIN_POSITIVE;
            assert!(close || tiny, "{one} and {other}");
        }
        (Array(one), Array(other)) => {
            assert_eq!(one.len(), other.len(), "the same items");
            one.iter().zip(other).for_each(|(one, other)| assert_same(one, other));
        }
        (Object(one), Object(other)) => {
            assert!(one.keys().eq(other.keys()), "the same keys");
            one.values().zip(other.values()).for_each(|(one, other)| assert_same(one, other));
        }
        (one, other) => assert_eq!(one, other),
    }
}

//! Reading: RFC 8259 with the semantics of ECMAScript's `JSON.parse`.

use std::borrow::Cow;

use super::{Object, Pointer, Value};

/// A document that is not accepted: what is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {offset} (in {pointer})")]
pub struct JsonError {
    /// What is wrong.
    pub problem: Problem,
    /// Where it is wrong: bytes from the start of the document.
    pub offset: usize,
    /// The innermost value that holds the place.
    pub pointer: Pointer,
}

/// Why a document is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not JSON at all.
    #[error("malformed JSON: expected {expected}")]
    Malformed {
        /// What would have been right there.
        expected: &'static str,
    },
    /// Not UTF-8.
    #[error("malformed JSON: not UTF-8")]
    NotUtf8,
    /// Objects and arrays nested too deeply.
    #[error("nested deeper than {max} levels")]
    TooDeep {
        /// Levels allowed.
        max: usize,
    },
    /// An integer literal that a JavaScript number cannot hold exactly.
    #[error("the integer is beyond ±(2^53−1), which JavaScript cannot hold exactly: send it as a string")]
    IntegerOutOfRange,
    /// A number whose double is infinite.
    #[error("the number is too large for a double-precision number: send it as a string")]
    NumberOverflow,
    /// Half of a surrogate pair alone.
    #[error("the escape is a lone surrogate, half of a character: send the whole pair, or neither")]
    LoneSurrogate,
}

/// Reads a document with at most `max_depth` levels of objects and arrays.
///
/// As in ECMAScript, the last of duplicate keys counts, at the place of the first. Unlike ECMAScript, what
/// could not be printed again as it was meant is refused: see [`Problem`].
pub fn parse(bytes: &[u8], max_depth: usize) -> Result<Value<'_>, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError {
        problem: Problem::NotUtf8,
        offset: error.valid_up_to(),
        pointer: Pointer::default(),
    })?;
    let mut parser = Parser { text, at: 0, depth_left: max_depth, max_depth };
    let value = parser.document().map_err(|Failure(failure)| {
        let mut pointer = Pointer::default();
        failure.path.iter().rev().for_each(|token| pointer.push(token));
        JsonError { problem: failure.problem, offset: failure.offset, pointer }
    })?;
    Ok(value)
}

/// A failure on its way up: every level adds where it was. Boxed because results are returned at every value.
struct Failure(Box<JsonFailure>);

struct JsonFailure {
    problem: Problem,
    offset: usize,
    path: Vec<String>,
}

impl Failure {
    fn new(problem: Problem, offset: usize) -> Self {
        Self(Box::new(JsonFailure { problem, offset, path: Vec::new() }))
    }

    fn below(mut self, token: &impl ToString) -> Self {
        self.0.path.push(token.to_string());
        self
    }
}

type Parsed<T> = Result<T, Failure>;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth_left: usize,
    max_depth: usize,
}

impl<'a> Parser<'a> {
    fn document(&mut self) -> Parsed<Value<'a>> {
        let value = self.value()?;
        self.skip_whitespace();
        if self.at < self.text.len() {
            return Err(self.malformed("the end of the document"));
        }
        Ok(value)
    }

    fn value(&mut self) -> Parsed<Value<'a>> {
        self.skip_whitespace();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.malformed("a value")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Parsed<Value<'a>>) -> Parsed<Value<'a>> {
        let Some(left) = self.depth_left.checked_sub(1) else {
            return Err(self.fail(Problem::TooDeep { max: self.max_depth }));
        };
        self.depth_left = left;
        self.at += 1;
        let value = read(self)?;
        self.depth_left += 1;
        Ok(value)
    }

    fn object(&mut self) -> Parsed<Value<'a>> {
        let mut members = Object::new();
        if self.closes(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_whitespace();
            if self.peek() != Some(b'"') {
                return Err(self.malformed("a key in double quotes"));
            }
            let key = self.string()?;
            self.skip_whitespace();
            if self.peek() != Some(b':') {
                return Err(self.malformed("':' after the key"));
            }
            self.at += 1;
            let value = self.value().map_err(|failure| failure.below(&key))?;
            members.insert(key, value);
            if self.closes(b'}') {
                return Ok(Value::Object(members));
            }
            self.comma("',' or '}'")?;
        }
    }

    fn array(&mut self) -> Parsed<Value<'a>> {
        let mut items = Vec::new();
        if self.closes(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            let item = self.value().map_err(|failure| failure.below(&items.len()))?;
            items.push(item);
            if self.closes(b']') {
                return Ok(Value::Array(items));
            }
            self.comma("',' or ']'")?;
        }
    }

    fn closes(&mut self, bracket: u8) -> bool {
        self.skip_whitespace();
        let closes = self.peek() == Some(bracket);
        self.at += usize::from(closes);
        closes
    }

    fn comma(&mut self, expected: &'static str) -> Parsed<()> {
        if self.peek() != Some(b',') {
            return Err(self.malformed(expected));
        }
        self.at += 1;
        Ok(())
    }

    fn word(&mut self, word: &'static str, value: Value<'a>) -> Parsed<Value<'a>> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.malformed("a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn string(&mut self) -> Parsed<Cow<'a, str>> {
        self.at += 1;
        let mut unescaped: Option<String> = None;
        loop {
            let start = self.at;
            while self.peek().is_some_and(|b| b != b'"' && b != b'\\' && b >= 0x20) {
                self.at += 1;
            }
            let run = &self.text[start..self.at];
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(match unescaped {
                        None => Cow::Borrowed(run),
                        Some(text) => Cow::Owned(text + run),
                    });
                }
                Some(b'\\') => {
                    let text = unescaped.get_or_insert_default();
                    text.push_str(run);
                    let c = self.escape()?;
                    unescaped.get_or_insert_default().push(c);
                }
                Some(_) => return Err(self.malformed("control characters to be escaped in a string")),
                None => return Err(self.malformed("'\"' at the end of the string")),
            }
        }
    }

    fn escape(&mut self) -> Parsed<char> {
        let start = self.at;
        self.at += 1;
        let c = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(start),
            _ => return Err(self.malformed("one of \" \\ / b f n r t u after '\\'")),
        };
        self.at += 1;
        Ok(c)
    }

    /// `\uXXXX`, or two of them for a character beyond the basic plane.
    fn unicode_escape(&mut self, start: usize) -> Parsed<char> {
        self.at += 1;
        let first = self.four_hex_digits()?;
        if !(0xD800..=0xDFFF).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let lone = |at| Failure::new(Problem::LoneSurrogate, at);
        if first > 0xDBFF || !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
            return Err(lone(start));
        }
        self.at += 2;
        let second = self.four_hex_digits()?;
        if !(0xDC00..=0xDFFF).contains(&second) {
            return Err(lone(start));
        }
        let scalar = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        char::from_u32(scalar).ok_or_else(|| lone(start))
    }

    fn four_hex_digits(&mut self) -> Parsed<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|b| char::from(b).to_digit(16)) else {
                return Err(self.malformed("four hexadecimal digits after '\\u'"));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    fn number(&mut self) -> Parsed<f64> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.malformed("a digit")),
        }
        let mut integer_literal = true;
        if self.peek() == Some(b'.') {
            integer_literal = false;
            self.at += 1;
            self.at_least_one_digit()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integer_literal = false;
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.at_least_one_digit()?;
        }

        let failure = |problem| Err(Failure::new(problem, start));
        let literal = &self.text[start..self.at];
        let Ok(value) = literal.parse::<f64>() else {
            return failure(Problem::Malformed { expected: "a number" });
        };
        if integer_literal && !is_safe_integer(literal) {
            return failure(Problem::IntegerOutOfRange);
        }
        if value.is_infinite() {
            return failure(Problem::NumberOverflow);
        }
        Ok(value)
    }

    fn at_least_one_digit(&mut self) -> Parsed<()> {
        if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
            return Err(self.malformed("a digit"));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn malformed(&self, expected: &'static str) -> Failure {
        self.fail(Problem::Malformed { expected })
    }

    fn fail(&self, problem: Problem) -> Failure {
        Failure::new(problem, self.at)
    }
}

/// Whether an integer literal lies within ±(2^53−1). Judged on the text: its double may be rounded into range.
fn is_safe_integer(literal: &str) -> bool {
    const MAX_SAFE: u64 = (1 << 53) - 1;
    literal.trim_start_matches('-').parse::<u64>().is_ok_and(|magnitude| magnitude <= MAX_SAFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> (Problem, usize, String) {
        let error = parse(json.as_bytes(), 128).unwrap_err();
        (error.problem, error.offset, error.pointer.as_str().to_owned())
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for json in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":}",
            "{\"a\" 1}",
            "{a:1}",
            "nul",
            "NaN",
            "-",
            "01",
            "1.",
            "1e",
            "\"\u{1}\"",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "[1]]",
            "{} {}",
            "Infinity",
            "+1",
            "'a'",
            ".5",
            "0x1",
        ] {
            assert!(matches!(problem(json).0, Problem::Malformed { .. }), "{json}");
        }
        assert_eq!(
            problem(r#"{"data":{"price":NaN}}"#),
            (Problem::Malformed { expected: "a value" }, 17, "/data/price".to_owned())
        );
    }

    #[test]
    fn numbers_that_javascript_cannot_hold_are_refused() {
        assert_eq!(
            problem(r#"{"a":[1,9007199254740992]}"#),
            (Problem::IntegerOutOfRange, 8, "/a/1".to_owned())
        );
        assert_eq!(problem("-9007199254740992").0, Problem::IntegerOutOfRange);
        assert_eq!(problem("123456789012345678901234567890").0, Problem::IntegerOutOfRange);
        assert_eq!(problem("1e400").0, Problem::NumberOverflow);
        assert_eq!(problem("-1.5E+309").0, Problem::NumberOverflow);
        for json in ["9007199254740991", "-9007199254740991", "9007199254740993.0", "1e20", "1e-400", "-0"] {
            assert!(parse(json.as_bytes(), 128).is_ok(), "{json}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_refused() {
        for json in [r#""\ud83d""#, r#""\ude00""#, r#""\ud83dx""#, r#""\ud83d\u0041""#, r#"{"\udfff":1}"#] {
            assert_eq!(problem(json).0, Problem::LoneSurrogate, "{json}");
        }
        assert_eq!(parse(br#""\ud83d\ude00""#, 128).unwrap(), Value::String("😀".into()));
    }

    #[test]
    fn nesting_is_bounded_without_recursing_further() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(parse(nested(128).as_bytes(), 128).is_ok());
        assert_eq!(problem(&nested(129)).0, Problem::TooDeep { max: 128 });
        assert_eq!(problem(&"{\"a\":".repeat(10_000)).0, Problem::TooDeep { max: 128 });
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused() {
        let error = parse(b"\"a\xff\"", 128).unwrap_err();
        assert_eq!((error.problem, error.offset), (Problem::NotUtf8, 2));
    }

    #[test]
    fn the_place_is_a_json_pointer() {
        assert_eq!(problem(r#"{"a/b":{"c~d":[0,{"e":1e999}]}}"#).2, "/a~1b/c~0d/1/e");
    }
}

//! Webhook secrets in texts that are kept: whoever receives a secret may send it back, and what is kept of an answer must
//! not undo its encryption at rest.
//!
//! A text is read with its escapes undone, whatever they are nested in, because a secret's `/`, `+` and `=` are what JSON,
//! URLs and HTML escape. Two things are looked for: pieces of the secrets that the receiver was sent, and what has the form
//! of a secret, whoever it belongs to. This is against what happens, not against receivers that hide what they were sent:
//! they could keep it anyway.

use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroizing;

use crate::signature::{PREFIX, WebhookSecret};

/// What stands for a secret that has its prefix. Without it only the part in brackets does: it adds nothing that the text
/// did not say.
const REDACTED: &str = "whsec_[redacted]";

/// So many characters of a secret's base64 (48 of 256 bits) tell too much, and are no coincidence.
const TELLING: usize = 8;

/// So many escapes in each other are undone.
const DEEPEST: usize = 8;

/// The longest escape with a `;` that is undone, in bytes: `&#x000002f;` and shorter.
const LONGEST_ENTITY: usize = 11;

/// Finds secrets in texts. Holds pieces of them, and wipes them from memory when dropped.
#[derive(Clone)]
pub struct Redactor {
    /// Every run of [`TELLING`] characters of each secret's base64.
    pieces: Zeroizing<Vec<u64>>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor([redacted])")
    }
}

impl Redactor {
    /// Knows these secrets, and the form of all.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a WebhookSecret>) -> Self {
        let mut pieces = Zeroizing::new(Vec::new());
        for secret in secrets {
            let encoded = secret.expose()[PREFIX.len()..].trim_end_matches('=').as_bytes();
            let runs = encoded.array_windows::<TELLING>();
            // At once: growing would leave what was there behind.
            let mut more = Zeroizing::new(Vec::with_capacity(pieces.len() + encoded.len()));
            more.extend_from_slice(&pieces);
            more.extend(runs.map(|run| run.iter().fold(0, |piece, byte| push(piece, *byte))));
            pieces = more;
        }
        Self { pieces }
    }

    /// The text without secrets, whole or cut off. JSON stays JSON; what is redacted already stays as it is. Takes time in
    /// proportion to the text's length.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let plain = Plain::of(text);
        let mut redacted = String::new();
        let mut kept = 0;
        let (mut piece, mut at) = (0, 0);
        while at < plain.bytes.len() {
            piece = if is_base64(plain.bytes[at]) { push(piece, plain.bytes[at]) } else { 0 };
            let Some((start, end, instead)) = self.secret_at(&plain, at, piece) else {
                at += 1;
                continue;
            };
            redacted.push_str(&text[kept..plain.starts[start]]);
            redacted.push_str(instead);
            kept = plain.starts.get(end).copied().unwrap_or(text.len());
            (piece, at) = (0, end);
        }
        if kept == 0 {
            return Cow::Borrowed(text);
        }
        redacted.push_str(&text[kept..]);
        Cow::Owned(redacted)
    }

    /// Where a secret starts and ends that is known at this place, and what is to stand there instead.
    fn secret_at(&self, plain: &Plain, at: usize, piece: u64) -> Option<(usize, usize, &'static str)> {
        if plain.bytes[at..].starts_with(PREFIX.as_bytes()) {
            let encoded = at + PREFIX.len();
            let end = plain.end_of_base64(encoded);
            return (end - encoded >= TELLING).then_some((at, end, REDACTED));
        }
        // Most texts have no such run, and nothing has to be looked for.
        let is_known = piece >> (8 * (TELLING - 1)) != 0 && self.pieces.contains(&piece);
        is_known.then(|| (at + 1 - TELLING, plain.end_of_base64(at + 1), &REDACTED[PREFIX.len()..]))
    }
}

/// Of either alphabet, or padding.
fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte)
}

/// The last [`TELLING`] bytes, one of them new. The two alphabets of base64 are one here.
fn push(piece: u64, byte: u8) -> u64 {
    let byte = match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    };
    piece << 8 | u64::from(byte)
}

/// A text without its escapes, and where in the text each byte of it starts.
struct Plain {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Plain {
    fn of(text: &str) -> Self {
        // Every second byte of UTF-16 that is taken for UTF-8 is 0.
        let (starts, bytes) = text.bytes().enumerate().filter(|(_, byte)| *byte != 0).unzip();
        let mut plain = Self { bytes, starts };
        for _ in 0..DEEPEST {
            if !plain.undo_a_layer() {
                break;
            }
        }
        plain
    }

    /// Replaces all escapes by what they stand for, which may be parts of other escapes; `false` if there are none.
    fn undo_a_layer(&mut self) -> bool {
        let before = self.bytes.len();
        let (mut from, mut to) = (0, 0);
        while from < before {
            let (length, byte) = escape(&self.bytes[from..]).unwrap_or((1, self.bytes[from]));
            self.bytes[to] = byte;
            self.starts[to] = self.starts[from];
            from += length;
            to += 1;
        }
        self.bytes.truncate(to);
        self.starts.truncate(to);
        to < before
    }

    /// Where the base64 ends that goes on at `at`.
    fn end_of_base64(&self, at: usize) -> usize {
        at + self.bytes[at..].iter().take_while(|byte| is_base64(**byte)).count()
    }
}

/// How many bytes at the start are an escape, and the byte that they stand for.
fn escape(text: &[u8]) -> Option<(usize, u8)> {
    match *text {
        // JSON, JavaScript, Markdown.
        [b'\\', b'b' | b'f' | b'n' | b'r' | b't' | b'v', ..] => Some((2, b'\n')),
        [b'\\', byte, ..] if byte.is_ascii_punctuation() => Some((2, byte)),
        [b'\\', b'x', high, low, ..] => Some((4, ascii(high, low)?)),
        [b'\\', b'u', b'0', b'0', high, low, ..] => Some((6, ascii(high, low)?)),
        // URLs.
        [b'%', high, low, ..] => Some((3, ascii(high, low)?)),
        // HTML.
        [b'&', ..] => entity(text),
        _ => None,
    }
}

fn entity(text: &[u8]) -> Option<(usize, u8)> {
    let end = text.iter().take(LONGEST_ENTITY).position(|byte| *byte == b';')?;
    let byte = match &text[1..end] {
        b"amp" => b'&',
        b"bsol" => b'\\',
        b"equals" => b'=',
        b"lowbar" => b'_',
        b"num" => b'#',
        b"percnt" => b'%',
        b"plus" => b'+',
        b"semi" => b';',
        b"sol" => b'/',
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16)?,
        [b'#', digits @ ..] => number(digits, 10)?,
        _ => return None,
    };
    Some((end + 1, byte))
}

/// The character of two hexadecimal digits, if it is ASCII: nothing else is looked for.
fn ascii(high: u8, low: u8) -> Option<u8> {
    number(&[high, low], 16)
}

fn number(digits: &[u8], radix: u32) -> Option<u8> {
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let number = u8::from_str_radix(str::from_utf8(digits).ok()?, radix).ok()?;
    number.is_ascii().then_some(number)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// 32 bytes 0x00…0x1f, some of them others.
    const SECRET: &str = "whsec_AAEC/wQF+gcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn secret_of(bytes: [u8; 32]) -> WebhookSecret {
        WebhookSecret::parse(&format!("whsec_{}", STANDARD.encode(bytes))).unwrap()
    }

    /// Knows no secret but by its form.
    fn by_form() -> Redactor {
        Redactor::new([])
    }

    fn each(text: &str, escape: impl Fn(char) -> String) -> String {
        text.chars().map(escape).collect()
    }

    fn is_in(character: char, escaped: &str) -> bool {
        escaped.contains(character)
    }

    type Escaper = (&'static str, fn(&str) -> String);

    /// What languages, libraries and templates do to a text that they put into another.
    const ESCAPERS: [Escaper; 9] = [
        ("JSON as PHP writes it", |text| {
            each(text, |c| if is_in(c, "/\\\"") { format!("\\{c}") } else { c.to_string() })
        }),
        ("JSON as Go, Django and .NET write it", |text| {
            each(text, |c| match c {
                '\\' => "\\\\".to_owned(),
                c if is_in(c, "/+=&<>'\"") => format!("\\u{:04x}", u32::from(c)),
                c => c.to_string(),
            })
        }),
        ("a URL", |text| {
            each(text, |c| {
                if c.is_alphanumeric() || is_in(c, "-_.~") {
                    c.into()
                } else {
                    format!("%{:02X}", u32::from(c))
                }
            })
        }),
        ("a URL, lower case, all of it", |text| each(text, |c| format!("%{:02x}", u32::from(c)))),
        ("HTML by hexadecimal numbers", |text| {
            each(text, |c| match c {
                '&' => "&amp;".to_owned(),
                c if is_in(c, "/+=`'\"") => format!("&#x{:X};", u32::from(c)),
                c => c.to_string(),
            })
        }),
        ("HTML by decimal numbers", |text| {
            each(text, |c| if is_in(c, "&/+=`'\"_") { format!("&#{:03};", u32::from(c)) } else { c.into() })
        }),
        ("HTML by names", |text| {
            let named = text.replace('&', "&amp;").replace('/', "&sol;").replace('+', "&plus;");
            named
                .replace('=', "&equals;")
                .replace('_', "&lowbar;")
                .replace('%', "&percnt;")
                .replace('\\', "&bsol;")
        }),
        ("JavaScript", |text| {
            each(text, |c| if c.is_alphanumeric() { c.into() } else { format!("\\x{:02X}", u32::from(c)) })
        }),
        ("Markdown", |text| {
            each(text, |c| if is_in(c, "\\`*_{}[]()#+-=.!|") { format!("\\{c}") } else { c.into() })
        }),
    ];

    #[test]
    fn secrets_that_come_back_are_redacted_however_they_are_written() {
        for (text, kept) in [
            (SECRET.to_owned(), "whsec_[redacted]"),
            (format!("got {SECRET}, thanks"), "got whsec_[redacted], thanks"),
            (format!("{{\"a\":\"{SECRET}\",\"b\":1}}"), "{\"a\":\"whsec_[redacted]\",\"b\":1}"),
            (format!("got:\\n{SECRET}\\nthanks"), "got:\\nwhsec_[redacted]\\nthanks"),
            (format!("\"{{\\\"a\\\":\\\"{SECRET}\\\"}}\""), "\"{\\\"a\\\":\\\"whsec_[redacted]\\\"}\""),
            // JSON in JSON; HTML in JSON; a URL in a URL.
            (SECRET.replace('/', "\\\\\\/"), "whsec_[redacted]"),
            (SECRET.replace('/', "\\u0026#x2F;").replace('+', "\\u0026#43;"), "whsec_[redacted]"),
            (SECRET.replace('/', "%252F").replace('+', "%252b"), "whsec_[redacted]"),
            // Another alphabet; cut off where a response is; UTF-16.
            (SECRET.replace('/', "_").replace('+', "-"), "whsec_[redacted]"),
            (SECRET[..14].to_owned(), "whsec_[redacted]"),
            (SECRET[..13].to_owned(), &SECRET[..13]),
            (format!("\u{fffd}{}", each(SECRET, |c| format!("{c}\0"))), "\u{fffd}whsec_[redacted]"),
            (format!("{SECRET}{SECRET} {SECRET}é"), "whsec_[redacted] whsec_[redacted]é"),
            (format!("whsec_whsec_ {SECRET}"), "whsec_whsec_ whsec_[redacted]"),
        ] {
            assert_eq!(by_form().redact(&text), kept, "{text}");
        }
    }

    #[test]
    fn a_known_secret_is_found_without_its_prefix_and_in_pieces() {
        let bare = &SECRET["whsec_".len()..];
        let known = WebhookSecret::parse(SECRET).unwrap();
        let other = secret_of([7; 32]);
        for (text, kept) in [
            (format!("bad key \"{bare}\""), "bad key \"[redacted]\""),
            (format!("key={bare}&n=1"), "key=[redacted]&n=1"),
            (bare.replace('/', "_").replace('+', "-"), "[redacted]"),
            (bare.replace('/', "&#47;"), "[redacted]"),
            // An escape that nobody knows.
            (SECRET.replace("/wQF+", "<slash>wQF<plus>"), "whsec_AAEC<slash>wQF<plus>[redacted]"),
            ("seven: cICQoLD".to_owned(), "seven: cICQoLD"),
            ("eight: cICQoLDA!".to_owned(), "eight: [redacted]!"),
        ] {
            assert_eq!(Redactor::new([&other, &known]).redact(&text), kept, "{text}");
            assert_eq!(Redactor::new([&known, &other]).redact(&text), kept, "{text}");
        }
        assert_eq!(Redactor::new([&other]).redact(bare), bare);
    }

    proptest! {
        #[test]
        fn no_secret_survives_redaction_by_whatever_and_however_often_it_was_escaped(
            bytes: [u8; 32],
            escapers in prop::collection::vec(0..ESCAPERS.len(), 0..4),
            before in "(.{0,12}[ :>\"])?",
            after in "([ <\"'),.]\\PC{0,12})?",
        ) {
            let secret = secret_of(bytes);
            let escaped = |text: &str| escapers.iter().fold(text.to_owned(), |text, which| ESCAPERS[*which].1(&text));
            let names: Vec<_> = escapers.iter().map(|which| ESCAPERS[*which].0).collect();
            for redactor in [Redactor::new([]), Redactor::new([&secret])] {
                let text = format!("{before}{}{after}", escaped(secret.expose()));
                let redacted = redactor.redact(&text);
                prop_assert_eq!(&redacted, &format!("{before}whsec_[redacted]{after}"), "{} by {:?}", &text, names);
                prop_assert_eq!(redactor.redact(&redacted), redacted.as_ref());
            }
            let text = format!("{before}{}{after}", escaped(&secret.expose()[PREFIX.len()..]));
            let redacted = Redactor::new([&secret]).redact(&text).into_owned();
            prop_assert_eq!(&redacted, &format!("{before}[redacted]{after}"), "{} by {:?}", &text, names);
        }

        #[test]
        fn json_stays_json(bytes: [u8; 32], escapers in prop::collection::vec(0..ESCAPERS.len(), 0..3)) {
            let secret = secret_of(bytes);
            let text = escapers.iter().fold(secret.expose().to_owned(), |text, which| ESCAPERS[*which].1(&text));
            let answer = |text: &str| json!({ text: [text, format!("\\{text}\\"), format!("\n{text}\"")] });
            let redacted = Redactor::new([&secret]).redact(&answer(&text).to_string()).into_owned();
            prop_assert!(serde_json::from_str::<Value>(&redacted).is_ok(), "{}", redacted);
            prop_assert_eq!(redacted.matches("[redacted]").count(), 4, "{}", redacted);
        }

        #[test]
        fn a_text_without_a_secret_stays_as_it_is(bytes: [u8; 32], text in "(\\PC|\\s|[%&;\\\\]|whsec_ ){0,64}") {
            prop_assert_eq!(Redactor::new([&secret_of(bytes)]).redact(&text), text.as_str());
        }
    }

    #[test]
    fn what_is_no_secret_stays_as_it_is() {
        for text in [
            "",
            "OK",
            "{\"secret\":\"whsec_…\"}",
            "whsec_",
            "whsec_short",
            "a whsec_ é",
            "%",
            "\\",
            "&;",
            "%2",
        ] {
            assert!(matches!(by_form().redact(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_piece() {
        let known = WebhookSecret::parse(SECRET).unwrap();
        assert_eq!(format!("{:?}", Redactor::new([&known])), "Redactor([redacted])");
    }
}

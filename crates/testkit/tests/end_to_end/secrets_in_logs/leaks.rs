//! What must stay secret, in every form in which it may have been written, looked for in what a run left.

use std::fmt::Write as _;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use testkit::{Stack, TestDatabase};

/// Shorter parts of a secret are found by chance.
const SHORTEST: usize = 6;

/// Secrets, each with its name.
#[derive(Debug, Default, Clone)]
pub(super) struct Secrets(Vec<(String, Vec<u8>)>);

/// Something that a run left: where, and what stands there.
pub(super) type Left = (String, Vec<u8>);

impl Secrets {
    /// A text: a token, a password.
    pub(super) fn text(&mut self, what: &str, text: &str) {
        assert!(text.len() >= SHORTEST, "{what} is too short to be looked for");
        self.0.push((what.to_owned(), text.as_bytes().to_vec()));
    }

    /// A bearer token: whole and by its signature.
    pub(super) fn token(&mut self, what: &str, token: &str) {
        self.text(what, token);
        let (_, signature) = token.rsplit_once('.').expect("a token has three parts");
        self.text(&format!("the signature of {what}"), signature);
    }

    /// Something in base64: the text and the bytes.
    pub(super) fn base64(&mut self, what: &str, encoded: &str) {
        self.text(&format!("{what} in base64"), encoded);
        self.0.push((format!("the bytes of {what}"), STANDARD.decode(encoded).expect("it is base64")));
    }

    /// A webhook's secret: what a developer needs of it is after `whsec_`.
    pub(super) fn webhook(&mut self, what: &str, secret: &str) {
        self.base64(what, secret.strip_prefix("whsec_").expect("a secret starts with whsec_"));
    }

    /// A password in a URL.
    pub(super) fn password_in(&mut self, what: &str, url: &str) {
        let url = url::Url::parse(url).expect("a URL");
        self.text(what, url.password().unwrap_or_else(|| panic!("{what} is in the URL")));
    }

    /// Which of these stand in what was left, in whatever form, and where.
    pub(super) fn found_in(&self, left: &[Left]) -> Vec<String> {
        let forms: Vec<(&str, &str, Vec<u8>)> = self
            .0
            .iter()
            .flat_map(|(what, secret)| {
                forms(secret).into_iter().map(move |(form, bytes)| (&**what, form, bytes))
            })
            .collect();
        let search = AhoCorasick::new(forms.iter().map(|(_, _, bytes)| bytes)).expect("few patterns");
        let mut found = Vec::new();
        for (place, bytes) in left {
            for bytes in [bytes, &unhexed(bytes)] {
                for occurrence in search.find_overlapping_iter(bytes) {
                    let (what, form, _) = &forms[occurrence.pattern().as_usize()];
                    let from = occurrence.start().saturating_sub(60);
                    let around = String::from_utf8_lossy(&bytes[from..occurrence.end()]);
                    found.push(format!("{what} ({form}) is in {place}: …{around}"));
                }
            }
        }
        found.truncate(20);
        found
    }
}

/// A secret in the forms in which programs write bytes.
fn forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex = secret.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let list: Vec<_> = secret.iter().map(ToString::to_string).collect();
    let text = String::from_utf8_lossy(secret);
    let percent: String = url::form_urlencoded::byte_serialize(secret).collect();
    let debugged = format!("{:?}", Bytes::copy_from_slice(secret));
    let debugged = debugged.trim_start_matches("b\"").trim_end_matches('"');
    let mut forms = vec![
        ("as it is", secret.to_vec()),
        ("in upper-case hex", hex.to_uppercase().into_bytes()),
        ("in hex", hex.into_bytes()),
        ("as a list", list.join(", ").into_bytes()),
        ("as a list without spaces", list.join(",").into_bytes()),
        ("escaped", secret.escape_ascii().to_string().into_bytes()),
        ("escaped in a JSON string", secret.escape_ascii().to_string().replace('\\', "\\\\").into_bytes()),
        ("as Rust shows it", debugged.as_bytes().to_vec()),
        ("as Rust shows it, in a JSON string", debugged.replace('\\', "\\\\").into_bytes()),
        ("escaped as PHP does", text.replace('/', "\\/").into_bytes()),
        ("percent-encoded", percent.into_bytes()),
    ];
    forms.sort_by(|(_, one), (_, other)| one.cmp(other));
    forms.dedup_by(|(_, one), (_, other)| one == other);
    // Somewhere within what was encoded: what depends on the neighbours is cut off.
    for before in 0..3 {
        let padded = [vec![0; before], secret.to_vec()].concat();
        let encoded = STANDARD.encode(&padded);
        let inner = &encoded[if before == 0 { 0 } else { 4 }..padded.len() / 3 * 4];
        forms.push(("in base64", inner.as_bytes().to_vec()));
        forms.push(("in base64 for URLs", inner.replace('+', "-").replace('/', "_").into_bytes()));
    }
    forms
}

/// The bytes behind PostgreSQL's `\x…`, one after the other.
fn unhexed(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = bytes;
    while let Some(found) = rest.windows(2).position(|two| two == b"\\x") {
        rest = &rest[found + 2..];
        let digits: Vec<u32> = rest.iter().map_while(|byte| char::from(*byte).to_digit(16)).collect();
        let pairs = digits.as_chunks::<2>().0;
        plain.extend(pairs.iter().filter_map(|[high, low]| u8::try_from(high * 16 + low).ok()));
        plain.push(b' ');
        rest = &rest[digits.len()..];
    }
    plain
}

/// Every row of every table.
pub(super) async fn tables(database: &TestDatabase) -> Vec<Left> {
    let client = database.connect().await;
    let names = "SELECT relname::text FROM pg_class
                  WHERE relkind IN ('r', 'p', 'm') AND NOT relispartition
                    AND relnamespace = to_regnamespace('public')";
    let mut left = Vec::new();
    for name in client.query(names, &[]).await.expect("pg_class can be read") {
        let table: String = name.get(0);
        let rows = client.query(&format!("SELECT t::text FROM {table} t"), &[]).await;
        let rows = rows.unwrap_or_else(|error| panic!("{table}: {error}"));
        let text: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        left.push((format!("table {table}"), text.join("\n").into_bytes()));
    }
    left
}

/// Every message in every queue, with what stands around it. They go back.
pub(super) async fn messages(stack: &Stack) -> Vec<Left> {
    let mut left = Vec::new();
    for queue in stack.queues().topology().queue_names() {
        let pulled = stack.broker().inspector().pull(queue, 1000).await.expect("the queue can be looked at");
        for message in pulled.messages() {
            let mut around = message.clone();
            left.push((format!("the body of a message in {queue}"), around.body.to_vec()));
            around.body.clear();
            left.push((format!("the headers of a message in {queue}"), format!("{around:?}").into_bytes()));
        }
        pulled.close().await.expect("messages are given back");
    }
    left
}

/// What each service tells of itself.
pub(super) async fn metrics(stack: &mut Stack) -> Vec<Left> {
    let mut left = Vec::new();
    for service in stack.services().filter(|service| service.admin_url_now().is_some()) {
        for path in ["metrics", "readyz", "healthz"] {
            let url = format!("{}/{path}", service.admin_url().await);
            let answer = testkit::HttpClient::default().get(&url).await;
            left.push((format!("{path} of {}", service.name()), answer.body.to_vec()));
        }
    }
    left
}

/// What every service logged.
pub(super) fn logs(stack: &mut Stack) -> Vec<Left> {
    stack.services().map(|service| (format!("the log of {}", service.name()), service.log().into())).collect()
}

/// What the servers of the stack alone logged.
pub(super) fn server_logs(stack: &Stack) -> Vec<Left> {
    let servers = stack.servers();
    let directories = [servers.postgres.log_directory(), servers.rabbitmq.log_directory()];
    let files = directories.iter().flat_map(|directory| std::fs::read_dir(directory).expect("it is there"));
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.ok()?.path();
        Some((path.display().to_string(), std::fs::read(path).ok()?))
    };
    files.filter_map(read).collect()
}

#[test]
fn a_secret_is_found_in_every_form_in_which_programs_write_bytes() {
    let mut secrets = Secrets::default();
    secrets.webhook("it", "whsec_AAEC/wQF+gcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let text = secrets.0[0].1.clone();
    let bytes = secrets.0[1].1.clone();
    for secret in [&text, &bytes] {
        let hex = secret.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")).into_bytes();
        let debugged = format!("{:?}", Bytes::from(secret.clone()));
        for written in [
            secret.clone(),
            hex.to_ascii_uppercase(),
            [b"\\x00".as_slice(), &hex, b"00"].concat(),
            format!("{secret:?}").into_bytes(),
            serde_json::to_vec(secret).expect("a list is JSON"),
            serde_json::to_vec(&debugged).expect("text is JSON"),
            debugged.into_bytes(),
            STANDARD.encode([b"a", secret.as_slice(), b"b"].concat()).into_bytes(),
            STANDARD.encode([b"ab", secret.as_slice(), b"c"].concat()).into_bytes(),
            STANDARD.encode([b"abc", secret.as_slice()].concat()).into_bytes(),
        ] {
            let shown = String::from_utf8_lossy(&written).into_owned();
            let left = [("here".to_owned(), [b"before ", written.as_slice(), b" after"].concat())];
            assert!(!secrets.found_in(&left).is_empty(), "not found: {shown}");
        }
    }
    let nothing = [("here".to_owned(), b"whsec_[redacted] and AAEC, 0, 1, 2 \\x000102".to_vec())];
    assert_eq!(secrets.found_in(&nothing), Vec::<String>::new());
}

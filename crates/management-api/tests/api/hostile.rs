//! Whatever is sent, the answer is the sender's fault or the right one, and the service goes on.

use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use testkit::Stack;

use crate::raw::{RawAnswer, exchange, request};
use crate::{UNLIMITED, api_alone, given};

type Header<'a> = (&'a str, &'a [u8]);

const JSON: Header<'_> = ("content-type", b"application/json");

/// A stack whose rates nothing here meets.
async fn unlimited() -> Stack {
    let builder = Stack::builder().ingests(0).dispatchers(0).env("LOK__LIMITS__WEBHOOKS_PER_USER", "10000");
    UNLIMITED.into_iter().fold(builder, |builder, (name, value)| builder.env(name, value)).start().await
}

struct Target {
    url: String,
    bearer: String,
    paths: Vec<String>,
}

impl Target {
    async fn of(stack: &mut Stack) -> Self {
        let (webhook, _) = given(&stack.api("user_1")).await;
        let paths = ["", "/test", "/regenerate-secret", "/deliveries"].map(|path| format!("{webhook}{path}"));
        let mut paths = Vec::from(paths);
        paths.extend(["/api/webhooks".to_owned(), "/api/event-types".to_owned()]);
        let token = testkit::token::hs256(stack.hs256_secret(), "user_1");
        let url = stack.api.as_mut().expect("an API").url().await;
        Self { url, bearer: format!("Bearer {token}"), paths }
    }

    async fn send(&self, method: &str, target: &[u8], headers: &[Header<'_>], body: &[u8]) -> RawAnswer {
        let mut all = vec![("authorization", self.bearer.as_bytes())];
        all.extend(headers);
        exchange(&self.url, &request(method, target, &all, body)).await
    }

    /// Sends it, and looks at the answer: a success, or a problem of the sender's. What is not HTTP may be refused without
    /// a body, by the parser.
    async fn check(&self, method: &str, target: &[u8], headers: &[Header<'_>], body: &[u8]) {
        let answer = self.send(method, target, headers, body).await;
        let is_fine = match answer.status {
            200..=299 => true,
            400 | 431 if answer.body.is_empty() => answer.head.contains("content-length: 0"),
            400..=499 => method == "HEAD" || answer.is_problem(),
            _ => false,
        };
        let shown = String::from_utf8_lossy(body);
        assert!(
            is_fine,
            "{method} {} {headers:?} {}: {answer:?}",
            String::from_utf8_lossy(target),
            shown.chars().take(300).collect::<String>()
        );
    }
}

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "BREW"];

fn bodies() -> Vec<Vec<u8>> {
    let deep = |open: &str, count: usize| format!("{{\"url\":{}", open.repeat(count)).into_bytes();
    let mut bodies: Vec<Vec<u8>> = [
        "",
        "null",
        "{}",
        "{",
        "[]",
        "\0",
        "{\"url\":\"https://example.com/\",\"events\":[\"booking.created\"],\"description\":\"\\u0000\"}",
        "{\"url\":\"https://example.com/\\u0000\",\"events\":[\"booking.created\"]}",
        "{\"url\":\"https://example.com/\\ud800\",\"events\":[\"booking.created\"]}",
        "{\"url\":\"https://example.com/\\udc00\\ud800\",\"events\":[\"\\ud83d\"]}",
        "{\"url\":\"https://\\ud83d\\ude00.example/\",\"events\":[\"booking.created\"]}",
        "{\"url\":\"https://example.com/\",\"events\":[1e400, -1e400, 1e-400, 123456789012345678901234567890]}",
        "{\"url\":1e999999999999999999,\"events\":-0}",
        "{\"url\":{\"url\":{\"url\":[]}},\"events\":{\"0\":\"booking.created\"}}",
        "{\"url\":\"a\",\"url\":\"b\",\"url\":null,\"events\":[],\"events\":[[]]}",
        "{\"__proto__\":{},\"constructor\":null,\"toString\":1,\"\":\"\"}",
        "{\"event\":\"booking.created\\u0000\"}",
        "{\"event\":[\"booking.created\"]}",
        "{\"active\":\"true\",\"description\":[]}",
        "{\"active\":null,\"url\":null,\"events\":null,\"description\":null}",
        "\u{feff}{}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":0x10}",
        "{'a':1}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\x41\"}",
    ]
    .map(|body| body.as_bytes().to_vec())
    .into();
    bodies.push(b"{\"url\":\"\xff\xfe\",\"events\":[]}".to_vec());
    bodies.push(b"\xed\xa0\x80".to_vec());
    bodies.push(b"{\"\xc0\xaf\":1}".to_vec());
    bodies.extend([deep("[", 10_000), deep("{\"a\":", 10_000), deep("[", 31)]);
    let many = |item: &str, count: usize| format!("{{\"events\":[{}]}}", vec![item; count].join(","));
    bodies.extend([
        many("\"booking.created\"", 3000).into(),
        many("0", 30_000).into(),
        many("[]", 20_000).into(),
    ]);
    let keys: Vec<_> = (0..4000).map(|key| format!("\"k{key}\":0")).collect();
    bodies.push(format!("{{{}}}", keys.join(",")).into());
    for length in [500, 501, 2048, 2049, 60_000] {
        let text = "é".repeat(length / 2);
        bodies.push(format!("{{\"url\":\"https://example.com/{text}\",\"events\":[\"booking.created\"],\"description\":\"{text}\"}}").into());
    }
    bodies
}

#[tokio::test(flavor = "multi_thread")]
async fn no_body_is_our_fault() {
    let mut stack = unlimited().await;
    let target = Target::of(&mut stack).await;
    for path in &target.paths {
        // Deleting would leave nothing to try.
        for method in ["GET", "POST", "PUT"] {
            let bodies = bodies();
            join_all(bodies.iter().map(|body| target.check(method, path.as_bytes(), &[JSON], body))).await;
        }
    }
    stack.api("user_1").get("/api/webhooks").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_or_query_is_our_fault() {
    let mut stack = unlimited().await;
    let target = Target::of(&mut stack).await;
    let ids = [
        "%00",
        "%ff",
        "%",
        "%zz",
        "..",
        "%2e%2e",
        "%2f",
        "a%2fb",
        "webhook_",
        "webhook_0",
        "webhook_%00",
        "null",
        "webhook_7zzzzzzzzzzzzzzzzzzzzzzzzz",
        "webhook_8zzzzzzzzzzzzzzzzzzzzzzzzz",
        "delivery_01h455vb4pex5vsknk084sn02q",
        "WEBHOOK_01h455vb4pex5vsknk084sn02q",
        "{id}",
        "'",
        "';--",
        "%F0%9F%98%80",
        "é",
        "*",
        "-1",
        "+",
        "a;b=c",
        "a?b#c",
    ];
    let long = "x".repeat(4000);
    for id in ids.into_iter().chain([long.as_str()]) {
        for rest in
            ["", "/", "/test", "/regenerate-secret", "/deliveries", "/deliveries/x", "/deliveries/x/retry"]
        {
            let path = format!("/api/webhooks/{id}{rest}");
            join_all(METHODS.map(|method| target.check(method, path.as_bytes(), &[], b""))).await;
        }
    }
    let queries = [
        "page=%00",
        "page=%ff",
        "page=1e3",
        "page=99999999999999999999999",
        "page=-0",
        "pageSize=0x10",
        "page=1;pageSize=2",
        "page[]=1",
        "page=1&page=1",
        "=&=&=",
        "&&&&",
        "%",
        "%=%",
        "status=%00",
        "status=pending%00",
        "event=booking.created%00",
        "event=%ed%a0%80",
        "status=PENDING",
        "page=%D9%A1",
        "page=1000&pageSize=100",
        "?",
        "a=b?c=d",
        "\u{a0}=1",
    ];
    let crowded = vec!["page=1"; 500].join("&");
    for query in queries.into_iter().chain([crowded.as_str()]) {
        for path in &target.paths {
            target.check("GET", format!("{path}?{query}").as_bytes(), &[], b"").await;
        }
    }
    for raw in [
        &b"/api/webhooks/\xff"[..],
        b"/api/webhooks?page=\xff",
        b"//",
        b"/../../etc/passwd",
        b"*",
        b"http://x/api/webhooks",
    ] {
        for method in METHODS {
            target.check(method, raw, &[], b"").await;
        }
    }
    let answer = target.send("GET", format!("/api/webhooks?{}", "x".repeat(5000)).as_bytes(), &[], b"").await;
    assert!(answer.status == 414 && answer.is_problem(), "{answer:?}");
    stack.api("user_1").get("/api/webhooks").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_header_is_our_fault() {
    let mut stack = unlimited().await;
    let target = Target::of(&mut stack).await;
    let values: [&[u8]; 12] = [
        b"",
        b"\xff\xfe",
        b"a, b, c",
        b"\t",
        b"0",
        b"-1",
        b"99999999999999999999999",
        b"\"",
        b"*/*;q=,",
        b"chunked, identity",
        b"fr;q=9999999999999999999999, en;q=-1, *;q=NaN",
        b"{\"a\":1}",
    ];
    let names = [
        "accept",
        "accept-language",
        "accept-encoding",
        "authorization",
        "content-type",
        "content-encoding",
        "content-length",
        "transfer-encoding",
        "expect",
        "connection",
        "upgrade",
        "host",
        "idempotency-key",
        "if-match",
        "if-none-match",
        "range",
        "cookie",
        "x-forwarded-for",
        "forwarded",
        "x-http-method-override",
        "traceparent",
        "te",
        "trailer",
        "date",
    ];
    for name in names {
        for value in values {
            for (method, path) in
                [("GET", "/api/webhooks"), ("POST", "/api/webhooks"), ("POST", &*target.paths[1])]
            {
                target.check(method, path.as_bytes(), &[(name, value)], b"").await;
            }
        }
    }
    let crowd: Vec<Header<'_>> = vec![("x", b"y"); 70];
    let answer = target.send("GET", b"/api/webhooks", &crowd, b"").await;
    assert!(answer.status == 431 && answer.is_problem(), "{answer:?}");
    let large = vec![b'x'; 40 * 1024];
    let answer = target.send("GET", b"/api/webhooks", &[("x", &large)], b"").await;
    assert!(answer.status == 431 && answer.is_problem(), "{answer:?}");
    stack.api("user_1").get("/api/webhooks").await.expect(200);
}

/// Anything put together of pieces that mean something, and some that don't.
fn request_pieces() -> impl Strategy<Value = (usize, usize, String, Vec<u8>)> {
    let piece = prop_oneof![
        Just("\"".to_owned()),
        Just("{\"url\":\"https://example.com/\",\"events\":[\"booking.created\"]".to_owned()),
        Just(",\"description\":".to_owned()),
        Just("\\u0000".to_owned()),
        Just("\\ud800".to_owned()),
        Just("}".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("1e308".to_owned()),
        Just(",".to_owned()),
        Just(":".to_owned()),
        "\\PC{0,6}",
    ];
    let text = proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes());
    let body = prop_oneof![text, proptest::collection::vec(any::<u8>(), 0..40)];
    (0..3_usize, 0..6_usize, "[a-zA-Z0-9%&=._-]{0,20}", body)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_chance_puts_together_is_our_fault() {
    let mut stack = unlimited().await;
    let target = Target::of(&mut stack).await;
    let (mut runner, pieces) = (TestRunner::deterministic(), request_pieces());
    for _ in 0..600 {
        let (method, path, query, body) = pieces.new_tree(&mut runner).unwrap().current();
        let line = format!("{}?{query}", target.paths[path]);
        target.check(["GET", "POST", "PUT"][method], line.as_bytes(), &[JSON], &body).await;
    }
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_the_service_goes_on() {
    let mut stack = api_alone().await;
    let url = stack.api.as_mut().unwrap().url().await;
    for nonsense in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"POST /api/webhooks HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/webhooks HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"GET / HTTP/1.1\r\nhost: x\r\nna me: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nname: \0\r\n\r\n",
    ] {
        let mut request = nonsense.to_vec();
        request.extend(b"\r\n\r\n");
        let mut stream = crate::raw::connect(&url).await;
        let answer = {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let _ = stream.write_all(&request).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(crate::raw::PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
            RawAnswer::read(&answer)
        };
        assert!(matches!(answer.status, 0 | 400..=499), "{}: {answer:?}", String::from_utf8_lossy(nonsense));
    }
    stack.api("user_1").get("/api/webhooks").await.expect(200);
}

//! The guide's own code, unchanged, takes our requests and refuses others.

use std::path::PathBuf;

use domain::EventType::{self, BookingCreated};
use serde_json::Value;
use testkit::{Binary, DEADLINE, Event, Service, Stack, eventually};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{root, settled, tool};

/// What JavaScript and Python could stumble over.
const UNICODE: &str = r#"{
  "id": "b \u00e9\u20ac\ud83d\ude00 \u0000\u001f\u007f\u2028 \"\\\/", "listingId": "é€😀", "guestId": "ك", "startDate": "2024-02-01T14:00:00Z",
  "endDate": "2024-02-03T11:00:00Z", "totalPrice": 250.00, "currency": "EUR", "status": "PENDING", "pricingMode": "DAILY",
  "createdAt": "2024-01-15T10:30:00Z",
  "numbers": [1e21, 1e-7, 0.1, -0, 123456789.125000, 5e-324, 9007199254740991, 1.0E+2, 100000000000000000000.5],
  "2": {"b": [], "a": {}}, "10": null, "1": true, "": false, "__proto__": {"x": 1}
}"#;

#[derive(Clone, Copy)]
enum Language {
    Node,
    Python,
    Php,
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Python => "python",
            Self::Php => "php",
        }
    }

    /// The server around the guide's code; see `deploy/demo/receivers`.
    fn server(self, port: u16, secret: &str) -> Binary {
        let wrapper =
            |file: &str| root().join("deploy/demo/receivers").join(file).to_string_lossy().into_owned();
        let (program, arguments) = match self {
            Self::Node => {
                tool("node/node_modules/express");
                (PathBuf::from("node"), vec![wrapper("node.js")])
            }
            Self::Python => (tool("python/bin/python"), vec![wrapper("python.py")]),
            Self::Php => {
                (PathBuf::from("php"), vec!["-S".into(), format!("127.0.0.1:{port}"), wrapper("php.php")])
            }
        };
        let binary = Binary::program(self.name(), program)
            .env("PORT", port.to_string())
            .env("LOKROOM_WEBHOOK_SECRET", secret);
        arguments.into_iter().fold(binary, Binary::arg)
    }
}

/// A port that is free now. The secret has to be known before the server starts, and the URL before the secret.
async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

async fn listens(server: &mut Service, port: u16) {
    eventually(&format!("{} listens", server.name()), DEADLINE, async || {
        TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)
    })
    .await;
}

async fn the_guides_code_verifies_our_requests(language: Language) {
    let stack = Stack::builder().env("LOK__DELIVERY__RETRY_DELAYS", "").start().await;
    let port = free_port().await;
    let url = format!("http://127.0.0.1:{port}/webhooks/lokroom");
    let webhook = stack.given_webhook("user_1", &url, EventType::ALL).await;
    // The same server, but not the secret that it knows.
    let wrong = stack.given_webhook("user_2", &url, EventType::ALL).await;
    let mut server = language.server(port, &webhook.secret).spawn();
    listens(&mut server, port).await;

    let events = EventType::ALL.iter().map(|event_type| Event::example(*event_type));
    let events = events.chain([Event::example(BookingCreated).data(UNICODE)]);
    let events: Vec<_> = events.map(|event| event.to("user_1").to("user_2")).collect();
    stack.publish_all(&events).await;

    for delivery in settled(&stack, &webhook, events.len() as u64).await {
        assert_eq!(delivery["responseStatus"], 200, "{delivery}");
        assert_eq!(delivery["response"], "OK", "{delivery}");
    }
    for delivery in settled(&stack, &wrong, events.len() as u64).await {
        assert_eq!(delivery["responseStatus"], 401, "{delivery}");
        assert_eq!(delivery["response"], Value::from("Invalid signature"), "{delivery}");
    }
    let log = server.log();
    assert!(log.contains("handles booking booking_abc123"), "the guide's handler was called: {log}");
}

/// From a client that is not ours to a receiver that is not ours: the fields that JSON libraries like to rewrite, in
/// the bytes that Python sends them in.
#[tokio::test]
async fn an_event_published_by_pika_reaches_the_guides_express_app() {
    let stack = Stack::builder().env("LOK__DELIVERY__RETRY_DELAYS", "").start().await;
    let port = free_port().await;
    let url = format!("http://127.0.0.1:{port}/webhooks/lokroom");
    let webhook = stack.given_webhook("user_1", &url, EventType::ALL).await;
    let mut server = Language::Node.server(port, &webhook.secret).spawn();
    listens(&mut server, port).await;

    let data = r#"{"totalPrice": 250.00, "note": "é \u20ac 😀", "10": 1, "9": 2,
        "id": "booking_1", "listingId": "listing_1", "guestId": "user_1", "startDate": "2024-02-01T14:00:00Z",
        "endDate": "2024-02-03T11:00:00Z", "currency": "EUR", "status": "PENDING", "pricingMode": "DAILY",
        "createdAt": "2024-01-15T10:30:00Z"}"#;
    let event = format!(r#"{{"event": "booking.created", "recipients": ["user_1"], "data": {data}}}"#);
    let script = root().join("crates/testkit/tests/end_to_end/publish.py").to_string_lossy().into_owned();
    let published = Binary::program("pika", tool("python/bin/python"))
        .arg(script)
        .arg(stack.queues().names().events_exchange())
        .arg("booking.created")
        .env("AMQP_URL", testkit::servers::amqp_url())
        .input(event)
        .output()
        .await;
    assert_eq!(published.code, Some(0), "{published:?}");

    let delivery = settled(&stack, &webhook, 1).await.remove(0);
    assert_eq!(
        (&delivery["responseStatus"], &delivery["response"]),
        (&200.into(), &"OK".into()),
        "{delivery}"
    );
}

#[tokio::test]
async fn the_guides_node_code_verifies_our_requests() {
    the_guides_code_verifies_our_requests(Language::Node).await;
}

#[tokio::test]
async fn the_guides_python_code_verifies_our_requests() {
    the_guides_code_verifies_our_requests(Language::Python).await;
}

#[tokio::test]
async fn the_guides_php_code_verifies_our_requests() {
    the_guides_code_verifies_our_requests(Language::Php).await;
}

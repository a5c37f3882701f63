//! Requests byte by byte, as no HTTP library would send them.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Far beyond every time that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    /// The status; 0 if there was none.
    pub(crate) status: u16,
    /// Everything before the body, in lower case.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: String,
}

impl RawAnswer {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// Whether it is a complete problem.
    pub(crate) fn is_problem(&self) -> bool {
        let document: Value = serde_json::from_str(&self.body).unwrap_or_default();
        self.head.contains("content-type: application/problem+json")
            && document["status"] == self.status
            && document["code"].as_str().is_some_and(|code| !code.is_empty())
    }
}

/// A connection to a service at `http://host:port`.
pub(crate) async fn connect(url: &str) -> TcpStream {
    let address = url.strip_prefix("http://").expect("a plain URL");
    TcpStream::connect(address).await.expect("the service listens")
}

/// Sends, and reads until the service closes the connection.
pub(crate) async fn exchange(url: &str, request: &[u8]) -> RawAnswer {
    let mut stream = connect(url).await;
    // It may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
    RawAnswer::read(&answer)
}

/// A request whose connection ends with it.
pub(crate) fn request(method: &str, target: &[u8], headers: &[(&str, &[u8])], body: &[u8]) -> Vec<u8> {
    let mut request =
        [method.as_bytes(), b" ", target, b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"].concat();
    for (name, value) in headers {
        request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    if !body.is_empty() {
        request.extend(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    request.extend(b"\r\n");
    request.extend(body);
    request
}

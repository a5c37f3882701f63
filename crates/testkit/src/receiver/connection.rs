//! HTTP/1.1 on one connection, parsed here so that nothing of what was sent gets lost.

use std::fmt::Write as _;
use std::time::Instant;

use bytes::{Buf as _, Bytes, BytesMut};
use service::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::reply::{Action, Reply};
use super::request::Request;

/// Most bytes of a request's line and headers.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Most bytes of a request's body: far more than an event may have.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// Serves requests until the connection ends.
pub(super) async fn serve(mut stream: TcpStream, take: impl Fn(Request) -> Reply) {
    let _ = stream.set_nodelay(true);
    let mut buffer = BytesMut::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let reply = take(request);
        if let Some(gate) = &reply.gate {
            gate.opened().await;
        }
        if !reply.delay.is_zero() {
            sleep(reply.delay).await;
        }
        let (bytes, goes_on) = match reply.action {
            Action::Answer { status, headers, body } => (answer(status, &headers, &body), true),
            Action::Raw(bytes) => (bytes, false),
            Action::Close => return,
            Action::Reset => {
                let _ = stream.set_zero_linger();
                return;
            }
            Action::Hang => {
                // Until the sender gives up.
                while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
                    buffer.clear();
                }
                return;
            }
        };
        if stream.write_all(&bytes).await.is_err() || !goes_on {
            return;
        }
    }
}

/// The next request; `None` at the end of the connection or after something that is not HTTP/1.1.
async fn read_request(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<Request> {
    loop {
        if let Some((mut request, head_bytes, body_bytes)) = parse_head(buffer)? {
            while buffer.len() < head_bytes + body_bytes {
                if stream.read_buf(buffer).await.ok()? == 0 {
                    return None;
                }
            }
            buffer.advance(head_bytes);
            request.body = buffer.split_to(body_bytes).freeze();
            request.arrived = Instant::now();
            request.arrived_at = Clock::system().now();
            return Some(request);
        }
        if buffer.len() > MAX_HEAD_BYTES || stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// A request without its body, the length of its head and of its body; `Some(None)` while the head is not whole.
#[expect(clippy::option_option, reason = "the outer one is for `?`: this connection is of no more use")]
fn parse_head(buffer: &[u8]) -> Option<Option<(Request, usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = head.parse(buffer).ok()? else { return Some(None) };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = head.headers.iter().map(|header| (header.name.to_owned(), text(header.value)));
    let request = Request {
        method: head.method?.to_owned(),
        target: head.path?.to_owned(),
        headers: headers.collect(),
        body: Bytes::new(),
        arrived: Instant::now(),
        arrived_at: Clock::system().now(),
    };
    // Our requests carry their length; what does not is not one of them.
    let body_bytes = match request.header("content-length") {
        Some(length) => length.parse().ok().filter(|length| *length <= MAX_BODY_BYTES)?,
        None => 0,
    };
    Some(Some((request, head_bytes, body_bytes)))
}

fn answer(status: u16, headers: &[(String, String)], body: &[u8]) -> Bytes {
    let mut text = format!("HTTP/1.1 {status} Told\r\n");
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    // RFC 9110 §8.6: no length on a 204, whose body is none.
    if status != 204 {
        let _ = write!(text, "content-length: {}\r\n", body.len());
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes.into()
}

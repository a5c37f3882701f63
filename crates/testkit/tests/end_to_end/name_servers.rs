//! Names are looked up at the configured name servers, and what they lead to is checked.

use std::net::{Ipv4Addr, SocketAddr};

use domain::EventType::BookingCreated;
use testkit::{Event, Receiver, Stack};
use tokio::net::UdpSocket;

use crate::support::settled;

/// Bytes of a question's head, with its flags at 2 and its numbers of records from 4 on (RFC 1035 §4.1.1).
const HEAD: usize = 12;

/// A name server that leads `good.…` to loopback and all other names to a cloud's metadata.
async fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("the system has a free port");
    let address = socket.local_addr().expect("a bound socket has an address");
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut question).await {
            if let Some(answer) = answer(&question[..length]) {
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    });
    address
}

fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let name = question.get(HEAD..)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    let is_v4 = name.get(end + 1..end + 3)? == [0, 1];
    let leads_to = match name {
        [4, b'g', b'o', b'o', b'd', ..] => Ipv4Addr::LOCALHOST,
        _ => Ipv4Addr::new(169, 254, 169, 254),
    };
    // Type and class follow the name.
    let mut answer = question.get(..HEAD + end + 5)?.to_vec();
    answer[2..HEAD].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
    if is_v4 {
        // The name above, type A, class IN, for 0 seconds, 4 bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(leads_to.octets());
    }
    Some(answer)
}

#[tokio::test]
async fn a_name_that_leads_inside_fails_and_one_that_does_not_is_reached() {
    let server = name_server().await;
    let stack = Stack::builder()
        .env("LOK__DELIVERY__RETRY_DELAYS", "")
        .env("LOK__EGRESS__NAME_SERVERS", server.to_string())
        .start()
        .await;
    let receiver = Receiver::start().await;
    let [good, bad] =
        ["good", "bad"].map(|name| receiver.url("/").replace("127.0.0.1", &format!("{name}.example.com")));
    let bad = stack.given_webhook("user_1", &bad, &[BookingCreated]).await;
    let good = stack.given_webhook("user_1", &good, &[BookingCreated]).await;

    stack.publish(&Event::example(BookingCreated).to("user_1")).await;

    receiver.expect_request().await;
    assert_eq!(settled(&stack, &good, 1).await[0]["status"], "success");
    let failed = settled(&stack, &bad, 1).await.remove(0);
    assert_eq!(failed["status"], "failed");
    assert_eq!(failed["error"], "blocked: the host leads to an address that is not public (link local)");
}

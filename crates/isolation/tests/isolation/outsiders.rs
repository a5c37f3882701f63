//! What publishers write into headers changes nothing.

use std::sync::Arc;

use broker::Message;

use crate::support::{Bench, Process, Scripted, until};

/// Headers that would condemn a message if anyone believed them.
fn pretending(mut message: Message) -> Message {
    for (name, value) in [
        ("x-delivery-count", "1000"),
        ("x-lok-failures", "99"),
        ("x-lok-isolated-exchange", "other"),
        ("x-lok-isolated-routing-key", "other"),
    ] {
        message = message.header(name, value);
    }
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_cannot_make_a_message_look_guilty() {
    let bench = Bench::new().await;
    let message = Message::to_queue(bench.queue(), "innocent".into());
    bench.publish_messages([pretending(message)]).await;
    // Isolated, it carries what we wrote.
    bench.take_and_drop(&bench.queue(), 1, 6).await;
    bench.depth(&bench.queue(), 1).await;

    let work = Arc::new(Scripted::default());
    let process = Process::start(&bench, &work);
    until("it is worked off", || work.texts() == ["innocent"]).await;
    let [worked] = &work.worked("innocent")[..] else { panic!("once") };
    assert_eq!((worked.exchange.as_str(), worked.routing_key.clone()), ("", bench.queue()));
    assert!(bench.rejected(0).await.is_empty());
    process.stop().await;
    bench.end().await;
}

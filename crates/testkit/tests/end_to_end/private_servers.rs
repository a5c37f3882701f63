//! Servers of a test's own can be killed and wiped, and leave nothing behind.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use broker::{Broker, Message, PublisherConfig, Topology};
use domain::EventType::BookingCreated;
use testkit::{DEADLINE, Event, PrivateServer, Receiver, ServerKind, Stack, eventually, queues};
use wire::Names;

use crate::support::{root, settled};

const MESSAGES: usize = 200;

fn topology() -> Topology {
    wire::topology::topology(
        &Names::new("own.".to_owned()),
        &[Duration::from_secs(60)],
        &Duration::from_secs(5).into(),
    )
}

fn connect(server: &PrivateServer) -> Broker {
    queues::connect_to(server.url().as_str(), topology())
}

async fn eventually_holds(server: &PrivateServer, count: usize) {
    let broker = connect(server);
    let queue = Names::new("own.".to_owned()).deliver_queue();
    eventually(&format!("{queue} holds {count} messages"), DEADLINE, async || {
        let depth = broker.inspector().depth(&queue).await.ok()??;
        (usize::try_from(depth) == Ok(count)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_broker_of_ones_own_survives_kill_9_with_its_messages_and_has_none_when_wiped() {
    let server = PrivateServer::rabbitmq().await;
    let queue = Names::new("own.".to_owned()).deliver_queue();
    let messages = (0..MESSAGES).map(|n| Message::to_queue(&queue, n.to_string().into()));
    let published = connect(&server).publisher(PublisherConfig::default()).publish_all(messages).await;
    let _ = published.expect("the broker takes messages");

    server.kill9().await;
    server.start_again().await;
    eventually_holds(&server, MESSAGES).await;

    server.stop().await;
    server.wipe().await;
    server.start_again().await;
    // Declared anew by whoever connects: with a message in it that was not there before, nothing else is.
    let fresh = connect(&server).publisher(PublisherConfig::default());
    let _ = fresh.publish(Message::to_queue(&queue, "new".into())).await.expect("the same user may publish");
    eventually_holds(&server, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_on_servers_of_its_own_goes_on_when_they_are_killed_paused_and_started_again() {
    let mut stack = Stack::builder().private_servers().behind_proxies().start().await;
    let receiver = Receiver::start().await;
    let webhook = stack.given_webhook("user_1", &receiver.url("/"), &[BookingCreated]).await;
    for kind in [ServerKind::Postgres, ServerKind::Rabbitmq] {
        let server = stack.servers().get(kind);
        server.kill9().await;
        server.start_again().await;
        server.pause().await;
        server.resume().await;
    }
    for service in stack.services() {
        service.wait_ready(DEADLINE).await;
    }
    stack.publish(&Event::example(BookingCreated).to("user_1")).await;
    receiver.until(1).await;
    settled(&stack, &webhook, 1).await;
}

/// `private-server.sh postgres` with this standard input, and its folder, once it is ready.
async fn script(input: Stdio) -> (Child, PathBuf) {
    let mut script = Command::new(root().join("deploy/dev/private-server.sh"));
    let script = script.arg("postgres").stdin(input).stdout(Stdio::piped()).spawn();
    let mut script = script.expect("the script runs");
    let answers = script.stdout.take().expect("standard output is piped");
    let line = tokio::task::spawn_blocking(|| BufReader::new(answers).lines().next());
    let line = line.await.expect("reading does not panic").expect("a line").expect("the line is text");
    (script, line.split(' ').nth(1).expect("ready DIRECTORY URL").into())
}

#[tokio::test]
async fn a_server_is_removed_when_it_is_dropped_and_when_its_test_is_killed() {
    let dropped = PrivateServer::postgres().await;
    let directory = dropped.log_directory();
    assert!(directory.exists());
    drop(dropped);
    assert!(!directory.exists());

    // The process that holds the script's standard input, and nothing else, stands for the test.
    let mut test = Command::new("sleep").arg("600").stdout(Stdio::piped()).spawn().expect("sleep runs");
    let output = test.stdout.take().expect("standard output is piped");
    let (mut script, directory) = script(output.into()).await;
    assert!(directory.join("postgres").exists());
    test.kill().expect("sleep is ours");
    test.wait().expect("sleep is ours");
    eventually("the script ends", DEADLINE, async || script.try_wait().expect("the script is ours")).await;
    assert!(!directory.exists());
}

#[tokio::test]
async fn what_a_killed_script_left_is_removed_by_the_next() {
    let (mut script, directory) = script(Stdio::piped()).await;
    script.kill().expect("the script is ours");
    script.wait().expect("the script is ours");
    let _next = PrivateServer::postgres().await;
    // Another test's may be at it at the same time.
    eventually("it is gone", DEADLINE, async || (!directory.exists()).then_some(())).await;
}

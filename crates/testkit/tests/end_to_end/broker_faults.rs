//! Whatever happens to RabbitMQ, services say so, hold publishers back, and go on by themselves.

use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use lapin::{Connection, ConnectionProperties};
use testkit::{Binary, DEADLINE, PrivateServer, Reply, eventually, servers};

use crate::trial::Trial;

/// Long enough to see a loop that does not wait, and every second of a minute the same.
const OUTAGE: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_restarted_is_waited_for() {
    let mut trial = Trial::start(Trial::builder().private_servers()).await;
    trial.publish(300).await;
    trial.stack.servers().rabbitmq.stop().await;
    trial.expect_not_ready("broker").await;
    trial.expect_back_pressure().await;
    trial.stack.servers().rabbitmq.start_again().await;
    trial.expect_recovered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_cannot_be_reached_holds_publishers_back_and_keeps_nobody_busy() {
    let builder = Trial::builder().behind_proxies().env("LOK__DELIVERY__RETRY_DELAYS", "300ms");
    let mut trial = Trial::start(builder).await;
    // Their next attempts cannot be handed over.
    let gate = trial.with_requests_on_the_wire(30, 500).await;
    trial.stack.amqp_proxy().cut();
    gate.open();
    trial.publish(300).await;
    trial.expect_not_ready("broker").await;
    let effort = trial.effort();
    trial.expect_back_pressure().await;
    trial.expect_calm(effort, OUTAGE).await;
    trial.stack.amqp_proxy().restore();
    trial.expect_recovered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_stopped_in_the_middle_is_told_by_its_heartbeat() {
    let mut trial = Trial::start(Trial::builder().private_servers()).await;
    trial.publish(300).await;
    trial.stack.servers().rabbitmq.pause().await;
    trial.expect_not_ready("broker").await;
    let effort = trial.effort();
    trial.expect_back_pressure().await;
    trial.expect_calm(effort, OUTAGE).await;
    trial.stack.servers().rabbitmq.resume().await;
    trial.expect_recovered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_reset_in_the_middle_of_publishes_lose_nothing() {
    const EVENTS: usize = 600;
    let mut trial = Trial::start(Trial::builder().behind_proxies()).await;
    let before = trial.receiver.requests().len();
    trial.publish(EVENTS).await;
    for cut in 1..=4 {
        trial.receiver.until(before + EVENTS / 8 * cut).await;
        trial.stack.amqp_proxy().cut();
        trial.stack.amqp_proxy().restore();
    }
    trial.expect_recovered_from(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_under_our_feet_is_there_again_and_worked_off() {
    // A failed attempt is made again within the test.
    let mut trial = Trial::start(Trial::builder().env("LOK__DELIVERY__RETRY_DELAYS", "300ms")).await;
    let names = trial.stack.queues().names();
    let retry = names.first().retry_queue(Duration::from_millis(300));
    let connection =
        Connection::connect(&servers::amqp_url(), ConnectionProperties::default()).await.expect("the broker");
    let channel = connection.create_channel().await.expect("a channel");
    let deletions = [
        vec![names.ingest_queue()],
        vec![names.fan_out_queue()],
        vec![names.deliver_queue(), retry, names.dead_queue(), names.rejected_queue()],
    ];
    let faults = deletions.len();
    for queues in deletions {
        for queue in queues {
            let deleted = channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
            assert_eq!(deleted.expect("the queue is there"), 0, "{queue} was empty");
        }
        trial.receiver.answer_next(Reply::status(500));
        // Over HTTP first: the test's own publisher would declare what is not there.
        let _ = trial.publish_over_http().await;
        trial.publish(5).await;
        trial.all_are_delivered().await;
    }
    trial.expect_recovered_from(faults).await;
    drop(connection);
}

/// Evaluates an Erlang expression in a broker: a setting that is read when a channel is opened.
async fn evaluate(broker: &PrivateServer, expression: &str) {
    let directory = broker.log_directory().parent().expect("the logs are in the server's folder").to_owned();
    let port = broker.url().port().expect("a port of its own");
    let script = "exec $(ls -d /usr/lib/rabbitmq/bin /usr/lib/rabbitmq/lib/*/sbin 2>/dev/null | head -1)/rabbitmqctl \
                  --node lokroom@localhost eval \"$0\"";
    let run = Binary::program("rabbitmqctl", "sh").arg("-c").arg(script).arg(expression);
    let home = directory.join("rabbitmq");
    let run = run.env("HOME", home.to_str().expect("a path in UTF-8"));
    let output = run.env("ERL_EPMD_PORT", (port + 2000).to_string()).output().await;
    assert_eq!(output.code, Some(0), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_the_broker_closes_for_a_late_acknowledgement_is_opened_again() {
    // An event's message is held for as long as the request takes.
    let builder = Trial::builder().private_servers().dispatchers(1).env("LOK__DELIVERY__HOLD", "9s");
    let mut trial = Trial::start(builder).await;
    // A channel looks at its oldest delivery from time to time. Both times are read when it is opened.
    let broker = &trial.stack.servers().rabbitmq;
    evaluate(broker, "application:set_env(rabbit, consumer_timeout, 1500).").await;
    evaluate(broker, "application:set_env(rabbit, channel_tick_interval, 500).").await;
    trial.stack.dispatchers[0].terminate(DEADLINE).await;
    trial.stack.dispatchers[0].restart().await;

    trial.receiver.answer_next(Reply::status(200).after(Duration::from_secs(6)));
    trial.publish(1).await;
    eventually("the broker closes the channel", DEADLINE, async || {
        let log = trial.stack.dispatchers[0].log();
        log.lines().any(|line| line.contains("consumer lost") && line.contains("PRECONDITION")).then_some(())
    })
    .await;
    let before = trial.receiver.requests().len();
    trial.publish(20).await;
    trial.receiver.until(before + 20).await;
    trial.expect_recovered().await;
    let twice = trial.receiver.requests().len() - trial.published();
    assert_eq!(twice, 0, "the copy of a request on the wire was sent");
}

use std::collections::BTreeSet;
use std::time::Duration;

use broker::{Message, PublishError, PublisherConfig, Queue, Topology};
use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use testkit::eventually_ok;

use crate::proxy::Proxy;
use crate::support::{DEADLINE, config, config_by_way_of, connect, connect_with, number, server, with_bench};

#[tokio::test]
async fn a_message_arrives_as_it_was_published_and_persistent() {
    with_bench(async |bench| {
        let (topic, work) = (bench.name("topic"), bench.name("work"));
        let topology =
            Topology::default().topic_exchange(&topic).queue(Queue::work(&work)).bind(&work, &topic, "a.#");
        let publisher = connect(topology).await.publisher(PublisherConfig::default());
        let message = Message::to_exchange(&topic, "a.b", "body".into())
            .content_type("application/json")
            .message_id("id-1")
            .header("x-lok-test", "ü");
        let _proof = publisher.publish(message).await.unwrap();
        let taken = bench.drain("work").await;
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].data, b"body");
        assert_eq!(taken[0].routing_key.as_str(), "a.b");
        let properties = &taken[0].properties;
        assert_eq!(properties.delivery_mode(), &Some(2));
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "id-1");
        let headers = properties.headers().as_ref().unwrap();
        assert_eq!(headers.inner()["x-lok-test"], AMQPValue::LongString("ü".into()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_empty_payloads_arrive_whole() {
    with_bench(async |bench| {
        let broker = connect(Topology::default().queue(Queue::work(bench.name("work")))).await;
        let publisher = broker.publisher(PublisherConfig { window: 100, window_bytes: 1000 });
        // Frames hold 128 KiB; the window's bytes are exceeded by one message alone, never by two.
        let sizes = [0, 1, 131_064, 131_065, 1_000_000, 0];
        let messages = sizes.map(|size| Message::to_queue(bench.name("work"), vec![b'x'; size].into()));
        let _proof = publisher.publish_all(messages).await.unwrap();
        let taken: Vec<_> = bench.drain("work").await.iter().map(|message| message.data.len()).collect();
        assert_eq!(taken, sizes);
    })
    .await;
}

/// What a service may be given at once bounds its memory, and only the broker can refuse it before it is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_a_service_has_memory_for_is_refused_by_the_broker() {
    with_bench(async |bench| {
        const LARGEST: usize = 4 * 1024 * 1024;
        let _broker = connect(Topology::default().queue(Queue::work(bench.name("work")))).await;
        let url = testkit::servers::amqp_url();
        let outsider = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let publish = async |bytes: usize| {
            let channel = outsider.create_channel().await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            let body = vec![b'x'; bytes];
            let sent = channel
                .basic_publish("".into(), bench.name("work").into(), options, &body, properties)
                .await
                .unwrap();
            sent.await.is_ok_and(|confirm| matches!(confirm, Confirmation::Ack(None)))
        };
        assert!(publish(LARGEST).await);
        assert!(!publish(LARGEST + 1).await, "`max_message_size` is not set");
        assert_eq!(bench.drain("work").await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_queue_deleted_under_our_feet_is_declared_again_and_the_message_arrives() {
    with_bench(async |bench| {
        let broker = connect(Topology::default().queue(Queue::work(bench.name("work")))).await;
        let publisher = broker.publisher(PublisherConfig::default());
        let _first = publisher.publish(bench.message("work", 1)).await.unwrap();
        bench.delete("work").await;
        let _second = publisher.publish(bench.message("work", 2)).await.unwrap();
        let taken: Vec<_> = bench.drain("work").await.iter().map(|message| number(&message.data)).collect();
        assert_eq!(taken, [2]);
    })
    .await;
}

#[tokio::test]
async fn an_exchange_deleted_under_our_feet_is_declared_again_and_the_message_arrives() {
    with_bench(async |bench| {
        let (topic, work) = (bench.name("topic"), bench.name("work"));
        let topology =
            Topology::default().topic_exchange(&topic).queue(Queue::work(&work)).bind(&work, &topic, "#");
        let publisher = connect(topology).await.publisher(PublisherConfig::default());
        let _first = publisher.publish(Message::to_exchange(&topic, "a", "1".into())).await.unwrap();
        bench
            .channel()
            .exchange_delete(topic.as_str().into(), ExchangeDeleteOptions::default())
            .await
            .unwrap();
        let _second = publisher.publish(Message::to_exchange(&topic, "a", "2".into())).await.unwrap();
        assert_eq!(bench.drain("work").await.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_only_those_without_a_queue_are_refused() {
    with_bench(async |bench| {
        let broker = connect(Topology::default().queue(Queue::work(bench.name("work")))).await;
        let publisher = broker.publisher(PublisherConfig::default());
        let all = (0..500).map(|number| {
            let queue = if number == 123 { "nowhere" } else { "work" };
            publisher.publish(bench.message(queue, number))
        });
        let results = join_all(all).await;
        for (number, result) in results.into_iter().enumerate() {
            match result {
                Ok(_proof) => assert_ne!(number, 123),
                Err(PublishError::Unroutable { routing_key, .. }) => {
                    assert_eq!((number, routing_key), (123, bench.name("nowhere")));
                }
                Err(other) => panic!("{number}: {other}"),
            }
        }
        let arrived: BTreeSet<_> =
            bench.drain("work").await.iter().map(|message| number(&message.data)).collect();
        assert_eq!(arrived, (0..500).filter(|number| *number != 123).collect());
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_refuses() {
    with_bench(async |bench| {
        let broker = connect(Topology::default()).await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        bench.channel().queue_declare(bench.name("other").into(), options, arguments).await.unwrap();
        let publisher = broker.publisher(PublisherConfig::default());
        let _first = publisher.publish(bench.message("other", 1)).await.unwrap();
        let refused = publisher.publish(bench.message("other", 2)).await.unwrap_err();
        assert_eq!(refused, PublishError::Refused { routing_key: bench.name("other") });
        assert_eq!(bench.drain("other").await.len(), 1);
        let _third = publisher.publish(bench.message("other", 3)).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_window_is_in_flight() {
    with_bench(async |bench| {
        const WINDOW: usize = 10;
        let proxy = Proxy::to(server()).await;
        let topology = Topology::default().queue(Queue::work(bench.name("work")));
        let broker = connect_with(config_by_way_of(proxy.address), topology).await;
        let publisher = broker.publisher(PublisherConfig { window: WINDOW, window_bytes: 1024 * 1024 });
        let _first = publisher.publish(bench.message("work", 0)).await.unwrap();
        proxy.hold_answers();
        let window = tokio::spawn({
            let messages: Vec<_> = (1..=50).map(|number| bench.message("work", number)).collect();
            let publisher = publisher.clone();
            async move { publisher.publish_all(messages).await.map(drop) }
        });
        let in_flight = async || match bench.depth("work").await as usize - 1 {
            WINDOW => Ok(()),
            other => Err(format!("{other} in flight")),
        };
        eventually_ok("the window is filled", DEADLINE, in_flight).await;
        // Whatever else was on its way had the time of many round trips.
        for _ in 0..200 {
            assert_eq!(in_flight().await, Ok(()));
        }
        proxy.pass();
        window.await.unwrap().unwrap();
        let arrived: Vec<_> = bench.drain("work").await.iter().map(|message| number(&message.data)).collect();
        assert_eq!(arrived, (0..=50).collect::<Vec<_>>(), "in order and once");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_is_not_confirmed_in_time_is_an_error() {
    with_bench(async |bench| {
        let proxy = Proxy::to(server()).await;
        let mut config = config_by_way_of(proxy.address);
        config.publish_timeout = Duration::from_millis(300);
        let topology = Topology::default().queue(Queue::work(bench.name("work")));
        let broker = connect_with(config, topology).await;
        let publisher = broker.publisher(PublisherConfig { window: 1, window_bytes: 1024 });
        let _first = publisher.publish(bench.message("work", 1)).await.unwrap();
        proxy.hold_answers();
        let late = PublishError::Timeout(Duration::from_millis(300));
        for number in [2, 3] {
            assert_eq!(publisher.publish(bench.message("work", number)).await.unwrap_err(), late);
        }
        proxy.pass();
        let _after = publisher.publish(bench.message("work", 4)).await.unwrap();
        let arrived: Vec<_> = bench.drain("work").await.iter().map(|message| number(&message.data)).collect();
        assert_eq!(arrived, [1, 2, 4], "nobody waited for 3 when its turn came");
    })
    .await;
}

#[tokio::test]
async fn after_closing_publishing_is_an_error() {
    with_bench(async |bench| {
        let broker = connect_with(config(), Topology::default().queue(Queue::work(bench.name("work")))).await;
        let publisher = broker.publisher(PublisherConfig::default());
        broker.close(Duration::from_millis(100)).await;
        assert_eq!(publisher.publish(bench.message("work", 1)).await.unwrap_err(), PublishError::Closed);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_waits_for_what_is_not_confirmed_yet() {
    with_bench(async |bench| {
        let broker = connect(Topology::default().queue(Queue::work(bench.name("work")))).await;
        let publisher = broker.publisher(PublisherConfig::default());
        let messages: Vec<_> = (0..2000).map(|number| bench.message("work", number)).collect();
        let publishing = tokio::spawn(async move { publisher.publish_all(messages).await.map(drop) });
        eventually_ok("the first has arrived", DEADLINE, async || match bench.depth("work").await {
            0 => Err("nothing there"),
            _ => Ok(()),
        })
        .await;
        broker.close(DEADLINE).await;
        publishing.await.unwrap().unwrap();
        assert_eq!(bench.drain("work").await.len(), 2000);
    })
    .await;
}

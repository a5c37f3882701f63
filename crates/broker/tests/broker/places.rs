//! What is held is bounded, also while the broker sends again what is being worked on.

use std::collections::BTreeSet;
use std::time::Duration;

use broker::{Confirmed, PublisherConfig, Queue, Topology};
use tokio::time::timeout;

use crate::proxy::Proxy;
use crate::support::{
    DEADLINE, config, config_by_way_of, connect_with, consumer, next, number, server, with_bench,
};

/// Far longer than it takes to be connected again and to be sent messages again.
const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_channel_left_behind_counts_until_it_is_let_go() {
    with_bench(async |bench| {
        const PREFETCH: u16 = 4;
        let proxy = Proxy::to(server()).await;
        let topology = Topology::default().queue(Queue::work(bench.name("work")));
        let broker = connect_with(config_by_way_of(proxy.address), topology.clone()).await;
        let direct = connect_with(config(), topology).await;
        let messages = (0..10).map(|number| bench.message("work", number));
        let _proof = direct.publisher(PublisherConfig::default()).publish_all(messages).await.unwrap();
        let mut consumer = consumer(&broker, &bench, "work", PREFETCH);
        let mut held = Vec::new();
        for _ in 0..PREFETCH {
            held.push(next(&mut consumer).await);
        }

        proxy.cut();
        assert!(timeout(A_WHILE, consumer.next()).await.is_err(), "more is held than the prefetch");
        held.pop().unwrap().acker.ack(Confirmed::nothing_to_publish());
        let again = next(&mut consumer).await;
        assert!(again.received.redelivered, "it comes on a new channel");
        assert!(timeout(A_WHILE / 4, consumer.next()).await.is_err(), "one place was free");
        drop((held, again));

        // Dropped, that one comes again only when its channel closes.
        proxy.cut();
        let mut seen = BTreeSet::new();
        while seen.len() < 10 {
            let batch = timeout(DEADLINE, consumer.next_batch(3, 1000)).await.unwrap().unwrap();
            seen.extend(batch.messages().iter().map(|message| number(&message.body)));
            batch.ack(Confirmed::nothing_to_publish());
        }
        drop(consumer);
        broker.close(DEADLINE).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_holds_the_places_of_all_its_messages() {
    with_bench(async |bench| {
        const PREFETCH: u16 = 3;
        let proxy = Proxy::to(server()).await;
        let topology = Topology::default().queue(Queue::work(bench.name("work")));
        let broker = connect_with(config_by_way_of(proxy.address), topology.clone()).await;
        let direct = connect_with(config(), topology).await;
        let publisher = direct.publisher(PublisherConfig::default());
        let mut consumer = consumer(&broker, &bench, "work", PREFETCH);
        let publish = async || {
            let messages = (0..PREFETCH.into()).map(|number| bench.message("work", number));
            let _proof = publisher.publish_all(messages).await.unwrap();
        };
        let mut batch = async || timeout(DEADLINE, consumer.next_batch(9, 1000)).await.unwrap().unwrap();
        let full = loop {
            publish().await;
            let mut first = batch().await;
            let mut taken = first.messages().len();
            if taken == usize::from(PREFETCH) {
                break first;
            }
            // They did not come together.
            while taken < usize::from(PREFETCH) {
                first.ack(Confirmed::nothing_to_publish());
                first = batch().await;
                taken += first.messages().len();
            }
            first.ack(Confirmed::nothing_to_publish());
        };

        proxy.cut();
        assert!(
            timeout(A_WHILE, consumer.next_batch(9, 1000)).await.is_err(),
            "more is held than the prefetch"
        );
        drop(full);
        assert!(timeout(DEADLINE, consumer.next_batch(9, 1000)).await.is_ok(), "and then it goes on");
        drop(consumer);
        broker.close(DEADLINE).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_messages_sees_that_their_channel_is_lost_also_with_all_places_taken() {
    with_bench(async |bench| {
        for prefetch in [1, 10] {
            let proxy = Proxy::to(server()).await;
            let topology = Topology::default().queue(Queue::work(bench.name("work")));
            let broker = connect_with(config_by_way_of(proxy.address), topology).await;
            let publisher = broker.publisher(PublisherConfig::default());
            let _proof = publisher.publish(bench.message("work", 1)).await.unwrap();
            let mut consumer = consumer(&broker, &bench, "work", prefetch);
            let batch = timeout(DEADLINE, consumer.next_batch(9, 1000)).await.unwrap().unwrap();
            let held = batch.held();
            assert!(!held.is_lost(), "its channel is there");

            proxy.cut();
            let lost = timeout(DEADLINE, async {
                while !held.is_lost() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            assert!(lost.await.is_ok(), "with a prefetch of {prefetch} nobody is told");

            drop(batch);
            let again = timeout(DEADLINE, consumer.next_batch(9, 1000)).await.unwrap().unwrap();
            assert!(again.messages()[0].redelivered && !again.held().is_lost(), "and the next one is there");
            again.ack(Confirmed::nothing_to_publish());
            drop((publisher, consumer));
            broker.close(DEADLINE).await;
        }
    })
    .await;
}

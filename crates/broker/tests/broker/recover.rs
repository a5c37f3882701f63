use std::collections::BTreeSet;
use std::time::Duration;

use broker::{Backoff, Broker, BrokerConfig, Confirmed, Delivery, Health, PublisherConfig, Queue, Topology};

use testkit::FaultProxy;

use crate::proxy::Proxy;
use crate::support::{DEADLINE, config_by_way_of, connect_with, consumer, next, number, server, with_bench};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_connections_are_cut_again_and_again() {
    with_bench(async |bench| {
        const MESSAGES: usize = 5000;
        let proxy = Proxy::to(server()).await;
        let topology = Topology::default().queue(Queue::work(bench.name("work")));
        let broker = connect_with(config_by_way_of(proxy.address), topology).await;
        let publisher = broker.publisher(PublisherConfig { window: 200, window_bytes: 1024 * 1024 });
        let messages: Vec<_> = (0..MESSAGES).map(|number| bench.message("work", number)).collect();
        let publishing = tokio::spawn(async move { publisher.publish_all(messages).await.map(drop) });
        let mut consumer = consumer(&broker, &bench, "work", 100);
        let mut seen = BTreeSet::new();
        let mut next_cut = MESSAGES / 8;
        while seen.len() < MESSAGES {
            let delivery = next(&mut consumer).await;
            seen.insert(number(&delivery.received.body));
            delivery.acker.ack(Confirmed::nothing_to_publish());
            if seen.len() >= next_cut {
                next_cut += MESSAGES / 8;
                proxy.cut();
            }
        }
        publishing.await.unwrap().unwrap();
        drop(consumer);
        broker.close(DEADLINE).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_told_and_found_again() {
    with_bench(async |bench| {
        let proxy = Proxy::to(server()).await;
        proxy.refuse();
        let topology = Topology::default().queue(Queue::work(bench.name("work")));
        let broker = Broker::connect(config_by_way_of(proxy.address), topology).unwrap();
        let [mut publishing, mut consuming] = broker.health();
        let publisher = broker.publisher(PublisherConfig::default());
        let mut consumer = consumer(&broker, &bench, "work", 10);
        let waiting = tokio::spawn({
            let message = bench.message("work", 1);
            async move { publisher.publish(message).await.map(drop) }
        });
        let is_away = |health: &Health| matches!(health, Health::Disconnected { reason } if reason != "not connected yet");
        let told = async |health: &mut tokio::sync::watch::Receiver<Health>, what: &str, is: fn(&Health) -> bool| {
            tokio::time::timeout(DEADLINE, health.wait_for(is)).await.expect(what).unwrap();
        };
        tokio::time::timeout(DEADLINE, publishing.wait_for(is_away)).await.expect("away").unwrap();

        proxy.pass();
        told(&mut publishing, "publishing", |health| *health == Health::Connected).await;
        told(&mut consuming, "consuming", |health| *health == Health::Connected).await;
        waiting.await.unwrap().unwrap();
        next(&mut consumer).await.acker.ack(Confirmed::nothing_to_publish());

        proxy.refuse();
        told(&mut publishing, "away again", |health| matches!(health, Health::Disconnected { .. })).await;
        told(&mut consuming, "away again", |health| matches!(health, Health::Disconnected { .. })).await;
        proxy.pass();
        told(&mut publishing, "back again", |health| *health == Health::Connected).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_does_not_mix_messages_of_two_channels() {
    with_bench(async |bench| {
        let proxy = Proxy::to(server()).await;
        let topology = Topology::default().queue(Queue::work(bench.name("work")));
        let broker = connect_with(config_by_way_of(proxy.address), topology.clone()).await;
        let direct = connect_with(crate::support::config(), topology).await;
        let messages = (0..20).map(|number| bench.message("work", number));
        let _proof = direct.publisher(PublisherConfig::default()).publish_all(messages).await.unwrap();
        let mut consumer = consumer(&broker, &bench, "work", 40);
        // Wait until the consumer holds all, then give them a second life on another channel.
        let first = tokio::time::timeout(DEADLINE, consumer.next_batch(1, 1000)).await.unwrap().unwrap();
        testkit::eventually("all are taken", DEADLINE, async || {
            (bench.depth("work").await == 0).then_some(())
        })
        .await;
        proxy.cut();
        drop(first);
        let mut seen = BTreeSet::new();
        while seen.len() < 20 {
            let batch =
                tokio::time::timeout(DEADLINE, consumer.next_batch(100, 1000)).await.unwrap().unwrap();
            let all_old = batch.messages().iter().all(|message| !message.redelivered);
            let all_new = batch.messages().iter().all(|message| message.redelivered);
            assert!(all_old || all_new, "one channel a batch");
            // The connection may be cut a moment later than it was asked for: until then an old batch could be acknowledged.
            if all_new {
                seen.extend(batch.messages().iter().map(|message| number(&message.body)));
                batch.ack(Confirmed::nothing_to_publish());
            }
        }
        drop(consumer);
        broker.close(DEADLINE).await;
        direct.close(Duration::from_secs(1)).await;
        assert_eq!(bench.drain("work").await.len(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_again_because_its_confirm_was_lost_says_that_it_may_be_a_copy() {
    with_bench(async |bench| {
        const DELAY: Duration = Duration::from_millis(50);
        let mut config = crate::support::config();
        let proxy = FaultProxy::put_before(&mut config.url, 5672).await;
        let topology = Topology::default().queue(Queue::work(bench.name("work"))).queue(Queue::delay(
            bench.name("delay"),
            DELAY,
            bench.name("work"),
        ));
        let broker = connect_with(config, topology.clone()).await;
        let direct = connect_with(crate::support::config(), topology).await;
        let mut consumer = consumer(&direct, &bench, "work", 10);
        let mut next = async || {
            let Delivery { received, acker } = next(&mut consumer).await;
            acker.ack(Confirmed::nothing_to_publish());
            (number(&received.body), received.may_be_copy, received.redelivered)
        };
        let publisher = broker.publisher(PublisherConfig::default());
        let _proof = publisher.publish(bench.message("work", 0)).await.unwrap();
        assert_eq!(next().await, (0, false, false));

        proxy.mute();
        let publishing = tokio::spawn({
            let messages = [bench.message("work", 1), bench.message("work", 2), bench.message("delay", 3)];
            let publisher = publisher.clone();
            async move { publisher.publish_all(messages).await.map(drop) }
        });
        let mut firsts = [next().await, next().await, next().await];
        firsts.sort_unstable();
        assert_eq!(firsts, [(1, false, false), (2, false, false), (3, false, false)]);
        proxy.cut();
        proxy.restore();
        let mut seconds = [next().await, next().await, next().await];
        seconds.sort_unstable();
        assert_eq!(seconds, [(1, true, false), (2, true, false), (3, true, false)], "a delay keeps the mark");
        publishing.await.unwrap().unwrap();
        let _proof = publisher.publish(bench.message("work", 4)).await.unwrap();
        assert_eq!(next().await, (4, false, false));

        drop((publisher, consumer));
        broker.close(DEADLINE).await;
        direct.close(DEADLINE).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_first_after_a_channel_was_lost_is_no_copy() {
    with_bench(async |bench| {
        let proxy = Proxy::to(server()).await;
        let topology = Topology::default().queue(Queue::work(bench.name("work")));
        let broker = connect_with(config_by_way_of(proxy.address), topology.clone()).await;
        let direct = connect_with(crate::support::config(), topology).await;
        let publisher = broker.publisher(PublisherConfig::default());
        let mut consumer = consumer(&direct, &bench, "work", 10);
        for sent in 0..3 {
            let _proof = publisher.publish(bench.message("work", sent)).await.unwrap();
            let Delivery { received, acker } = next(&mut consumer).await;
            assert_eq!((number(&received.body), received.may_be_copy), (sent, false));
            acker.ack(Confirmed::nothing_to_publish());

            // Nobody publishes meanwhile.
            let [mut publishing, _] = broker.health();
            proxy.cut();
            for is_connected in [false, true] {
                let told = publishing.wait_for(|health| (*health == Health::Connected) == is_connected);
                tokio::time::timeout(DEADLINE, told).await.expect("it is told").unwrap();
            }
        }
        drop((publisher, consumer));
        broker.close(DEADLINE).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gave_up_waiting_for_a_confirm_publishes_what_may_be_a_copy() {
    with_bench(async |bench| {
        let mut config = crate::support::config();
        config.publish_timeout = Duration::from_millis(500);
        let proxy = FaultProxy::put_before(&mut config.url, 5672).await;
        let topology = Topology::default().queue(Queue::work(bench.name("work")));
        let broker = connect_with(config, topology.clone()).await;
        let direct = connect_with(crate::support::config(), topology).await;
        let publisher = broker.publisher(PublisherConfig::default());
        let _proof = publisher.publish(bench.message("work", 0)).await.unwrap();
        proxy.mute();
        let publishing = tokio::spawn({
            let (publisher, message) = (publisher.clone(), bench.message("work", 1));
            async move { publisher.publish_until_confirmed(message).await }
        });
        testkit::eventually("it is tried again", DEADLINE, async || {
            (bench.depth("work").await >= 3).then_some(())
        })
        .await;
        proxy.restore();
        let _proof = publishing.await.unwrap();

        let mut consumer = consumer(&direct, &bench, "work", 1);
        for expected in [(0, false), (1, false), (1, true)] {
            let Delivery { received, acker } = next(&mut consumer).await;
            acker.ack(Confirmed::nothing_to_publish());
            assert_eq!((number(&received.body), received.may_be_copy), expected);
        }
        drop((publisher, consumer));
        broker.close(DEADLINE).await;
        direct.close(DEADLINE).await;
    })
    .await;
}

/// After so long without a message a consumer subscribes again.
const IDLE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_an_idle_consumer_subscribes_again_is_not_taken_for_something_that_came_back() {
    with_bench(async |bench| {
        const ONE_WAY: Duration = Duration::from_secs(1);
        let mut config = crate::support::config();
        let proxy = FaultProxy::put_before(&mut config.url, 5672).await;
        let topology = Topology::default().queue(Queue::work(bench.name("work")));
        let broker = connect_with(config, topology.clone()).await;
        let direct = connect_with(crate::support::config(), topology).await;
        let publisher = direct.publisher(PublisherConfig::default());
        let mut consumer = consumer(&broker, &bench, "work", 10);
        let publish = async |number| {
            let _proof = publisher.publish(bench.message("work", number)).await.unwrap();
        };
        publish(0).await;
        next(&mut consumer).await.acker.ack(Confirmed::nothing_to_publish());
        let last = tokio::time::Instant::now();
        proxy.delay(ONE_WAY);

        // Under way when the consumer has heard nothing for long enough, and before the broker knows.
        tokio::time::sleep_until(last + IDLE - ONE_WAY / 2).await;
        publish(1).await;
        publish(2).await;
        for expected in [1, 2] {
            let found = next(&mut consumer).await;
            assert_eq!((number(&found.received.body), found.received.redelivered), (expected, false));
            found.acker.ack(Confirmed::nothing_to_publish());
        }
        assert!(last.elapsed() > IDLE, "it was idle");
        proxy.restore();
        publish(3).await;
        let found = next(&mut consumer).await;
        assert_eq!((number(&found.received.body), found.received.redelivered), (3, false));
        found.acker.ack(Confirmed::nothing_to_publish());
        drop(consumer);
        broker.close(DEADLINE).await;
        assert_eq!(bench.drain("work").await.len(), 0, "acknowledged on the old channel and on the new one");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_cancelled_and_a_broker_closed_in_time_however_silent_the_other_side_is() {
    with_bench(async |bench| {
        let mut config = crate::support::config();
        let proxy = FaultProxy::put_before(&mut config.url, 5672).await;
        let topology = Topology::default().queue(Queue::work(bench.name("work")));
        for fail in [FaultProxy::freeze, FaultProxy::cut] {
            let broker = connect_with(config.clone(), topology.clone()).await;
            let publisher = broker.publisher(PublisherConfig::default());
            let _proof = publisher.publish(bench.message("work", 1)).await.unwrap();
            let mut consumer = consumer(&broker, &bench, "work", 10);
            let held = next(&mut consumer).await;
            fail(&proxy);
            let start = tokio::time::Instant::now();
            consumer.cancel().await;
            assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
            held.acker.ack(Confirmed::nothing_to_publish());
            let start = tokio::time::Instant::now();
            broker.close(Duration::from_secs(1)).await;
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
            proxy.restore();
        }
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_another_version_declared_is_told_until_it_is_gone_without_trying_all_the_time() {
    with_bench(async |bench| {
        let limited = |limit| {
            let aside = Queue::work(bench.name("aside"));
            let work = Queue::work_setting_aside(bench.name("work"), limit, bench.name("aside"));
            Topology::default().queue(aside).queue(work)
        };
        connect_with(crate::support::config(), limited(20)).await.close(DEADLINE).await;

        let proxy = Proxy::to(server()).await;
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let config = BrokerConfig { backoff, ..config_by_way_of(proxy.address) };
        let broker = Broker::connect(config, limited(1000)).unwrap();
        let [mut publishing, mut consuming] = broker.health();
        let is_told = |health: &Health| {
            let Health::Disconnected { reason } = health else { return false };
            reason.contains("was declared otherwise") && reason.contains("x-delivery-limit")
        };
        for health in [&mut publishing, &mut consuming] {
            let told = tokio::time::timeout(DEADLINE, health.wait_for(is_told)).await.map(drop);
            assert!(told.is_ok(), "{:?}", health.borrow());
        }
        // Waits double from a tenth of a second: two connections, at most six tries each in this time.
        let connected = publishing.wait_for(|health| *health == Health::Connected);
        assert!(
            tokio::time::timeout(Duration::from_millis(1500), connected).await.is_err(),
            "not while it is there"
        );
        assert!(proxy.connections() <= 2 * 6, "{} connections", proxy.connections());

        bench.delete("work").await;
        for health in [&mut publishing, &mut consuming] {
            let connected = health.wait_for(|health| *health == Health::Connected);
            tokio::time::timeout(DEADLINE, connected).await.expect("it goes on").unwrap();
        }
        broker.close(DEADLINE).await;
    })
    .await;
}

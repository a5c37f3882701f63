use std::time::{Duration, Instant};

use broker::{COPY_HEADER, Confirmed, Message, PublisherConfig, Queue, REDELIVERED_HEADER, Topology};
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use testkit::eventually_ok;

use crate::support::{Bench, DEADLINE, connect, consumer, next, number, with_bench};

async fn publish(broker: &broker::Broker, bench: &Bench, numbers: std::ops::Range<usize>) {
    let messages = numbers.map(|number| bench.message("work", number));
    let _proof = broker.publisher(PublisherConfig::default()).publish_all(messages).await.unwrap();
}

fn work(bench: &Bench) -> Topology {
    Topology::default().queue(Queue::work(bench.name("work")))
}

#[tokio::test]
async fn what_is_acknowledged_is_gone_and_the_rest_comes_back_marked() {
    with_bench(async |bench| {
        let broker = connect(work(&bench)).await;
        publish(&broker, &bench, 0..3).await;
        let mut first = consumer(&broker, &bench, "work", 10);
        let [zero, one, two] = [next(&mut first).await, next(&mut first).await, next(&mut first).await];
        assert!(!zero.received.redelivered);
        one.acker.ack(Confirmed::nothing_to_publish());
        drop((zero, two, first));

        let mut second = consumer(&broker, &bench, "work", 10);
        for expected in [0, 2] {
            let again = next(&mut second).await;
            assert_eq!(number(&again.received.body), expected);
            assert!(again.received.redelivered);
            again.acker.ack(Confirmed::nothing_to_publish());
        }
        second.cancel().await;
        drop(second);
        broker.close(DEADLINE).await;
        assert_eq!(bench.drain("work").await.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn batches_take_what_is_there_within_their_bounds_and_are_acknowledged_together() {
    with_bench(async |bench| {
        let broker = connect(work(&bench)).await;
        publish(&broker, &bench, 0..100).await;
        let mut consumer = consumer(&broker, &bench, "work", 100);
        let mut taken = Vec::new();
        let mut batches = Vec::new();
        while taken.len() < 100 {
            // Payloads from 10 on have two bytes: at most twelve of them in 25 bytes.
            let batch = consumer.next_batch(30, 25).await.unwrap();
            let numbers: Vec<_> = batch.messages().iter().map(|message| number(&message.body)).collect();
            let bytes: usize = batch.messages().iter().map(|message| message.body.len()).sum();
            assert!(numbers.len() <= 30 && bytes <= 25, "{numbers:?}");
            taken.extend(numbers);
            batches.push(batch);
        }
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
        let last = batches.pop().unwrap();
        last.ack(Confirmed::nothing_to_publish());
        drop((batches, consumer));
        broker.close(DEADLINE).await;
        assert_eq!(bench.drain("work").await.len(), 0, "the last batch's ack covers those before");
    })
    .await;
}

#[tokio::test]
async fn a_batch_that_is_acknowledged_alone_leaves_those_before_it_where_they_are() {
    with_bench(async |bench| {
        let broker = connect(work(&bench)).await;
        publish(&broker, &bench, 0..9).await;
        let mut consumer = consumer(&broker, &bench, "work", 9);
        let mut batches = Vec::new();
        let mut taken = 0;
        while taken < 9 {
            let batch = consumer.next_batch(3, 1000).await.unwrap();
            taken += batch.messages().len();
            batches.push(batch);
        }
        let later = batches.split_off(1);
        let first = batches[0].messages().len();
        for batch in later {
            batch.ack_alone(Confirmed::nothing_to_publish());
        }
        drop((batches, consumer));
        broker.close(DEADLINE).await;
        let left: Vec<_> = bench.drain("work").await.iter().map(|left| number(&left.data)).collect();
        assert_eq!(left.len(), first, "{left:?}");
        assert_eq!(left[0], 0);
    })
    .await;
}

#[tokio::test]
async fn a_message_given_back_is_delivered_again() {
    with_bench(async |bench| {
        let broker = connect(work(&bench)).await;
        publish(&broker, &bench, 0..1).await;
        let mut consumer = consumer(&broker, &bench, "work", 10);
        next(&mut consumer).await.acker.requeue();
        let again = next(&mut consumer).await;
        assert!(again.received.redelivered);
        assert_eq!(again.received.delivery_count, 1);
        again.acker.ack(Confirmed::nothing_to_publish());
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_consumer_gives_back_what_it_holds_and_still_acknowledges() {
    with_bench(async |bench| {
        let broker = connect(work(&bench)).await;
        publish(&broker, &bench, 0..100).await;
        let mut first = consumer(&broker, &bench, "work", 50);
        let mut handed_out = Vec::new();
        for _ in 0..10 {
            handed_out.push(next(&mut first).await);
        }
        first.cancel().await;
        assert!(first.next().await.is_none());
        eventually_ok("the others are back", DEADLINE, async || match bench.depth("work").await {
            90 => Ok(()),
            depth => Err(format!("{depth} there")),
        })
        .await;
        for delivery in handed_out {
            delivery.acker.ack(Confirmed::nothing_to_publish());
        }
        drop(first);
        broker.close(DEADLINE).await;
        assert_eq!(bench.drain("work").await.len(), 90);
    })
    .await;
}

#[tokio::test]
async fn closing_flushes_acknowledgements() {
    with_bench(async |bench| {
        let broker = connect(work(&bench)).await;
        publish(&broker, &bench, 0..2000).await;
        let mut consumer = consumer(&broker, &bench, "work", 2000);
        for _ in 0..2000 {
            next(&mut consumer).await.acker.ack(Confirmed::nothing_to_publish());
        }
        drop(consumer);
        broker.close(DEADLINE).await;
        assert_eq!(bench.drain("work").await.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn no_more_than_the_prefetch_is_taken() {
    with_bench(async |bench| {
        let broker = connect(work(&bench)).await;
        publish(&broker, &bench, 0..50).await;
        let mut consumer = consumer(&broker, &bench, "work", 7);
        let held = next(&mut consumer).await;
        eventually_ok("the prefetch is taken", DEADLINE, async || match bench.depth("work").await {
            43 => Ok(()),
            depth => Err(format!("{depth} left")),
        })
        .await;
        held.acker.ack(Confirmed::nothing_to_publish());
        eventually_ok("another is taken", DEADLINE, async || match bench.depth("work").await {
            42 => Ok(()),
            depth => Err(format!("{depth} left")),
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_message_that_comes_back_too_often_is_set_aside() {
    with_bench(async |bench| {
        let (work, aside) = (bench.name("work"), bench.name("aside"));
        let topology =
            Topology::default().queue(Queue::work(&aside)).queue(Queue::work_setting_aside(&work, 3, &aside));
        let broker = connect(topology).await;
        let poison = Message::to_queue(&work, "7".into()).header("x-lok-kept", "yes");
        let _proof = broker.publisher(PublisherConfig::default()).publish(poison).await.unwrap();
        let mut consumer = consumer(&broker, &bench, "work", 10);
        for _ in 0..4 {
            next(&mut consumer).await.acker.requeue();
        }
        let mut set_aside = crate::support::consumer(&broker, &bench, "aside", 10);
        let found = next(&mut set_aside).await;
        assert_eq!(number(&found.received.body), 7);
        assert_eq!(found.received.headers.text("x-lok-kept").as_deref(), Some("yes"));
        assert_eq!(found.received.headers.first_death_queue(), Some(work));
        found.acker.ack(Confirmed::nothing_to_publish());
    })
    .await;
}

#[tokio::test]
async fn a_message_that_is_moved_stays_one_that_came_back() {
    with_bench(async |bench| {
        let topology = work(&bench).queue(Queue::work(bench.name("other")));
        let broker = connect(topology).await;
        let publisher = broker.publisher(PublisherConfig::default());
        let _proof = publisher.publish(bench.message("work", 1)).await.unwrap();
        let mut work = consumer(&broker, &bench, "work", 1);
        let fresh = next(&mut work).await;
        assert!(!fresh.received.redelivered);
        let moved = fresh.received.forward_to(bench.name("other"));
        assert_eq!(moved.headers.iter().count(), 0, "{moved:?}");
        fresh.acker.requeue();

        let again = next(&mut work).await;
        let moved = again.received.forward_to(bench.name("other"));
        again.acker.ack(publisher.publish(moved).await.unwrap());
        let mut other = consumer(&broker, &bench, "other", 1);
        let moved = next(&mut other).await;
        assert!(moved.received.redelivered, "an earlier holder may have done part of the work");
        assert_eq!(moved.received.delivery_count, 0, "this queue delivered it once");
        moved.acker.ack(Confirmed::nothing_to_publish());
    })
    .await;
}

#[tokio::test]
async fn what_a_publisher_says_about_deliveries_is_not_believed() {
    with_bench(async |bench| {
        let topology = work(&bench).topic_exchange(bench.name("topic")).bind(
            bench.name("work"),
            bench.name("topic"),
            "#",
        );
        let broker = connect(topology).await;
        let headers = [
            ("x-delivery-count", AMQPValue::LongLongInt(1000)),
            (REDELIVERED_HEADER, AMQPValue::LongString("true".into())),
            (COPY_HEADER, AMQPValue::LongString("true".into())),
        ];
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert(name.into(), value);
        }
        let properties = BasicProperties::default().with_headers(table);
        let (topic, options) = (bench.name("topic"), BasicPublishOptions::default());
        let published = bench.channel().basic_publish(topic.into(), "a".into(), options, b"1", properties);
        published.await.unwrap();

        let mut consumer = consumer(&broker, &bench, "work", 1);
        let fresh = next(&mut consumer).await;
        assert_eq!((fresh.received.redelivered, fresh.received.delivery_count), (false, 0));
        assert!(!fresh.received.may_be_copy);
        fresh.acker.requeue();
        let again = next(&mut consumer).await;
        assert_eq!(
            (again.received.redelivered, again.received.delivery_count),
            (true, 1),
            "the broker's word"
        );
        again.acker.ack(Confirmed::nothing_to_publish());
    })
    .await;
}

#[tokio::test]
async fn headers_that_would_not_fit_stay_behind_when_a_message_is_moved() {
    with_bench(async |bench| {
        let broker = connect(work(&bench)).await;
        let publisher = broker.publisher(PublisherConfig::default());
        let mut consumer = consumer(&broker, &bench, "work", 1);
        // The most that fits into a stranger's frame with the rest, and the most that goes along.
        for (bytes, stays_behind) in [(120_000, true), (32_000, false)] {
            let mut table = FieldTable::default();
            table.insert("large".into(), AMQPValue::LongString("x".repeat(bytes).into()));
            let properties = BasicProperties::default().with_headers(table);
            let (queue, options) = (bench.name("work"), BasicPublishOptions::default());
            let publishing =
                bench.channel().basic_publish("".into(), queue.into(), options, b"1", properties);
            publishing.await.unwrap();
            let taken = next(&mut consumer).await;
            assert_eq!(taken.received.headers.text("large").map(|text| text.len()), Some(bytes));
            let moved = taken.received.forward_to(bench.name("work")).header("more", &"x".repeat(24_000));
            taken.acker.ack(publisher.publish(moved).await.unwrap());
            let moved = next(&mut consumer).await;
            assert_eq!(number(&moved.received.body), 1);
            assert_eq!(moved.received.headers.text("large").is_none(), stays_behind, "{bytes}");
            moved.acker.ack(Confirmed::nothing_to_publish());
        }
    })
    .await;
}

#[tokio::test]
async fn a_delayed_message_comes_after_its_delay() {
    with_bench(async |bench| {
        let (delay, work) = (bench.name("delay"), bench.name("work"));
        let ttl = Duration::from_millis(700);
        let topology = Topology::default().queue(Queue::work(&work)).queue(Queue::delay(&delay, ttl, &work));
        let broker = connect(topology).await;
        let mut consumer = consumer(&broker, &bench, "work", 10);
        let start = Instant::now();
        let _proof =
            broker.publisher(PublisherConfig::default()).publish(bench.message("delay", 5)).await.unwrap();
        let back = next(&mut consumer).await;
        let elapsed = start.elapsed();
        assert_eq!(number(&back.received.body), 5);
        assert!(elapsed >= ttl && elapsed < ttl + Duration::from_secs(2), "{elapsed:?}");
        back.acker.ack(Confirmed::nothing_to_publish());
    })
    .await;
}

#[tokio::test]
async fn a_queue_deleted_under_a_consumer_is_declared_and_consumed_again() {
    with_bench(async |bench| {
        let broker = connect(work(&bench)).await;
        let mut consumer = consumer(&broker, &bench, "work", 10);
        publish(&broker, &bench, 0..1).await;
        next(&mut consumer).await.acker.ack(Confirmed::nothing_to_publish());
        bench.delete("work").await;
        publish(&broker, &bench, 1..2).await;
        let found = next(&mut consumer).await;
        assert_eq!(number(&found.received.body), 1);
        found.acker.ack(Confirmed::nothing_to_publish());
    })
    .await;
}

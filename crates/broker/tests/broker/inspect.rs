use broker::{Confirmed, PublisherConfig, Queue, Topology};
use testkit::eventually_ok;

use crate::support::{DEADLINE, connect, number, with_bench};

#[tokio::test]
async fn looking_into_a_queue_leaves_what_is_not_removed() {
    with_bench(async |bench| {
        let broker = connect(Topology::default().queue(Queue::work(bench.name("work")))).await;
        let messages = (0..5).map(|number| bench.message("work", number));
        let _proof = broker.publisher(PublisherConfig::default()).publish_all(messages).await.unwrap();
        let inspector = broker.inspector();
        assert_eq!(inspector.depth(&bench.name("nowhere")).await.unwrap(), None);
        eventually_ok("all are counted", DEADLINE, async || {
            match inspector.depth(&bench.name("work")).await.unwrap() {
                Some(5) => Ok(()),
                depth => Err(format!("{depth:?}")),
            }
        })
        .await;

        let pulled = inspector.pull(&bench.name("work"), 3).await.unwrap();
        let seen: Vec<_> = pulled.messages().map(|message| number(&message.body)).collect();
        assert_eq!(seen, [0, 1, 2]);
        pulled.remove(1, Confirmed::nothing_to_publish()).await.unwrap();
        pulled.close().await.unwrap();
        let pulled = inspector.pull(&bench.name("work"), 10).await.unwrap();
        let mut seen: Vec<_> = pulled.messages().map(|message| number(&message.body)).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 2, 3, 4]);
        drop(pulled);
        eventually_ok("what was only looked at is back", DEADLINE, async || {
            match bench.depth("work").await {
                4 => Ok(()),
                depth => Err(format!("{depth} there")),
            }
        })
        .await;
    })
    .await;
}

//! Which queues there are and where their dead letters go. Every service declares all of them, so that the
//! order in which services start does not matter.

use std::time::Duration;

use broker::{Queue, Topology};
use domain::pace::ParkDelays;

use crate::names::Names;

/// Deliveries of one message in vain after which the broker itself sets it aside: far beyond what the consumers do
/// about such a message (crate `isolation`), because it counts for the innocent as for the guilty, and gives no reason.
/// RabbitMQ 4 has a limit of 20 by default and then drops the message; 3.10 has none. Said here, both set it aside.
const DELIVERY_LIMIT: u32 = 1000;

/// Final failures kept for operators to look at.
const DEAD_MESSAGES: u32 = 100_000;

/// The platform's topology. Every shard has one retry queue for every delay of the schedule and one park queue for every
/// rung of the ladder: what comes out of them goes to the same shard.
pub fn topology(names: &Names, retry_delays: &[Duration], park_delays: &ParkDelays) -> Topology {
    let rejected = names.rejected_queue();
    let work = |name: String| Queue::work_setting_aside(name, DELIVERY_LIMIT, &rejected);
    let mut topology = Topology::default()
        .topic_exchange(names.events_exchange())
        .queue(Queue::work(&rejected))
        .queue(Queue::feed(names.dead_queue(), DEAD_MESSAGES))
        .queue(work(names.ingest_queue()))
        .queue(work(names.bulk_queue()));
    for shard in names.all_shards() {
        topology = topology.queue(work(shard.fan_out_queue())).queue(work(shard.deliver_queue()));
    }
    topology = topology
        .queue(work(names.isolated_queue(&names.ingest_queue())))
        .queue(work(names.isolated_queue(&names.bulk_queue())))
        .queue(work(names.isolated_queue(&names.fan_out_queue())))
        .queue(work(names.isolated_queue(&names.deliver_queue())))
        .bind(names.ingest_queue(), names.events_exchange(), "#");

    let mut delays = retry_delays.to_vec();
    delays.sort_unstable();
    delays.dedup();
    let shortest = park_delays.delay(0);
    for shard in names.all_shards() {
        for delay in &delays {
            topology = topology.queue(Queue::delay(shard.retry_queue(*delay), *delay, shard.deliver_queue()));
        }
        for delay in park_delays.all() {
            topology = topology.queue(Queue::delay(shard.park_queue(*delay), *delay, shard.deliver_queue()));
        }
        let parked = Queue::delay(shard.fan_out_park_queue(shortest), shortest, shard.fan_out_queue());
        topology = topology.queue(parked);
    }
    topology
}

#[cfg(test)]
mod tests {
    use domain::shard::Shards;

    use super::*;

    #[test]
    fn every_delay_of_the_schedule_has_its_queue_once_and_work_queues_come_before_delays() {
        let delays = [300, 60, 60].map(Duration::from_secs);
        let topology = topology(&Names::default(), &delays, &ParkDelays::default());
        let names: Vec<_> = topology.queue_names().collect();
        assert_eq!(
            names,
            [
                "lokroom.events.rejected",
                "webhooks.dead",
                "ingest.events",
                "ingest.events.bulk",
                "webhooks.fanout",
                "webhooks.deliver",
                "ingest.events.isolated",
                "ingest.events.bulk.isolated",
                "webhooks.fanout.isolated",
                "webhooks.deliver.isolated",
                "webhooks.retry.60s",
                "webhooks.retry.300s",
                "webhooks.park.5s",
                "webhooks.park.10s",
                "webhooks.park.20s",
                "webhooks.park.40s",
                "webhooks.park.80s",
                "webhooks.park.160s",
                "webhooks.park.320s",
                "webhooks.park.640s",
                "webhooks.fanout.park.5s",
            ]
        );
    }

    #[test]
    fn every_shard_has_all_its_queues_and_what_waits_comes_back_to_its_own() {
        let minute = Duration::from_secs(60);
        let names = Names::default().with_shards(Shards::new(2)).draining(Shards::new(3));
        let work = |name: &str| Queue::work_setting_aside(name, DELIVERY_LIMIT, "lokroom.events.rejected");
        let delay = |name: &str, delay, target: &str| Queue::delay(name, delay, target);
        let mut expected = Topology::default()
            .topic_exchange("lokroom.events")
            .queue(Queue::work("lokroom.events.rejected"))
            .queue(Queue::feed("webhooks.dead", DEAD_MESSAGES))
            .queue(work("ingest.events"))
            .queue(work("ingest.events.bulk"));
        for shard in ["", ".s1", ".s2"] {
            expected = expected
                .queue(work(&format!("webhooks.fanout{shard}")))
                .queue(work(&format!("webhooks.deliver{shard}")));
        }
        expected = expected
            .queue(work("ingest.events.isolated"))
            .queue(work("ingest.events.bulk.isolated"))
            .queue(work("webhooks.fanout.isolated"))
            .queue(work("webhooks.deliver.isolated"))
            .bind("ingest.events", "lokroom.events", "#");
        for shard in ["", ".s1", ".s2"] {
            let (fan_out, deliver) = (format!("webhooks.fanout{shard}"), format!("webhooks.deliver{shard}"));
            expected = expected
                .queue(delay(&format!("webhooks.retry.60s{shard}"), minute, &deliver))
                .queue(delay(&format!("webhooks.park.5s{shard}"), minute / 12, &deliver))
                .queue(delay(&format!("webhooks.fanout.park.5s{shard}"), minute / 12, &fan_out));
        }
        assert_eq!(topology(&names, &[minute], &ParkDelays::new([minute / 12])), expected);
    }
}

//! Processes that end: the broker's count makes suspects, isolation finds the guilty.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use wire::names::{ERROR_CODE_HEADER, ERROR_HEADER};

use crate::support::{Bench, Process, Scripted, log, logged, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_ends_its_process_again_and_again_is_set_aside_and_no_other() {
    let bench = Bench::new().await;
    let work = Arc::new(Scripted { hangs: ["poison"].into(), ..Scripted::default() });
    bench.publish((0..10).map(|n| n.to_string())).await;
    bench.publish(["poison"]).await;
    bench.publish((10..20).map(|n| n.to_string())).await;

    // Five times on the queue, six times in isolation.
    for death in 1..=11 {
        let process = Process::start(&bench, &work);
        if death > 5 {
            // What is tried again waits for another message to get through: there has to be one.
            bench.publish(["evidence"]).await;
        }
        until("the poison is at work", || work.hanging.load(Ordering::Relaxed) == death).await;
        if death > 5 {
            process.settle().await;
        }
        if death > 6 {
            // Once each, or twice where an acknowledgement was on its way at a death.
            let others: BTreeSet<_> = work.texts().into_iter().filter(|text| *text != "evidence").collect();
            assert_eq!(others.len(), 20, "those that may be innocent go first");
        }
        process.kill().await;
    }
    bench.publish(["evidence"]).await;
    let process = Process::start(&bench, &work);
    let [set_aside] = &bench.rejected(1).await[..] else { panic!("one message") };
    assert_eq!(&set_aside.body[..], b"poison");
    assert_eq!(set_aside.headers.text(ERROR_CODE_HEADER).as_deref(), Some("poison"));
    let reason = set_aside.headers.text(ERROR_HEADER).unwrap();
    assert!(reason.contains("6 times") && reason.contains("the process ended"), "{reason}");
    assert_eq!(work.given_up.lock().unwrap().len(), 1);
    assert_eq!(work.hanging.load(Ordering::Relaxed), 11, "it is not tried again");
    process.stop().await;
    for queue in [bench.queue(), bench.isolated_queue()] {
        bench.depth(&queue, 0).await;
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_the_process_also_when_it_is_given_up_is_set_aside_without() {
    let bench = Bench::new().await;
    let work = Arc::new(Scripted { panics: ["poison"].into(), give_up_panics: true, ..Scripted::default() });
    bench.publish(["poison"]).await;
    let process = Process::start(&bench, &work);
    let mut n = 0;
    while bench.broker.inspector().depth(&bench.names.rejected_queue()).await.unwrap() == Some(0) {
        bench.publish([n]).await;
        n += 1;
        until("the queue flows", || work.texts().len() == n).await;
    }
    assert_eq!(bench.rejected(1).await.len(), 1);
    process.stop().await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn innocent_messages_that_came_back_many_times_are_worked_off_one_at_a_time() {
    let bench = Bench::new().await;
    bench.publish((0..30).map(|n| n.to_string())).await;
    bench.take_and_drop(&bench.queue(), 30, 6).await;
    bench.depth(&bench.queue(), 30).await;

    let work = Arc::new(Scripted::default());
    let process = Process::start(&bench, &work);
    until("all are worked off", || work.texts().len() == 30).await;
    assert!(work.worked.lock().unwrap().iter().all(|worked| worked.together == 1 && worked.redelivered));
    process.stop().await;
    for queue in [bench.queue(), bench.isolated_queue(), bench.names.rejected_queue()] {
        bench.depth(&queue, 0).await;
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_waits_in_isolation_survives_any_number_of_deployments() {
    log();
    let bench = Bench::new().await;
    let work = Arc::new(Scripted::default());
    work.always_panics.store(true, Ordering::Relaxed);
    bench.publish(["innocent"]).await;
    for deployment in 1..=6 {
        let process = Process::start(&bench, &work);
        until("it waits", || logged(&bench.queue(), "waits until another gets through") == deployment).await;
        process.stop().await;
    }
    work.always_panics.store(false, Ordering::Relaxed);
    let process = Process::start(&bench, &work);
    bench.publish(["evidence"]).await;
    until("it is worked off", || work.texts() == ["evidence", "innocent"]).await;
    process.stop().await;
    assert!(bench.rejected(0).await.is_empty());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_channel_is_not_the_end_of_the_process() {
    let bench = Bench::new().await;
    bench.publish(["slow"]).await;
    bench.take_and_drop(&bench.queue(), 1, 5).await;
    bench.depth(&bench.queue(), 1).await;
    let work = Arc::new(Scripted { slow: ["slow"].into(), ..Scripted::default() });
    let (process, proxy) = Process::start_behind_proxy(&bench, &work).await;
    for time in 1..=5 {
        until("it is at work", || work.hanging.load(Ordering::Relaxed) == time).await;
        process.settle().await;
        proxy.cut();
        proxy.restore();
        // The broker knows that it was lost before it is done.
        bench.depth(&bench.isolated_queue(), 1).await;
        work.permits.0.add_permits(1);
    }
    until("it is at work", || work.hanging.load(Ordering::Relaxed) == 6).await;
    work.permits.0.add_permits(1);
    until("it is worked off", || work.texts().len() == 6).await;
    process.stop().await;
    bench.depth(&bench.isolated_queue(), 0).await;
    assert!(bench.rejected(0).await.is_empty());
    bench.end().await;
}

//! Work that panics: the one that is guilty is set aside, no other, and the process goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use testkit::{DEADLINE, eventually_ok};
use wire::names::{ERROR_CODE_HEADER, ERROR_HEADER, SOURCE_QUEUE_HEADER};

use crate::support::{Bench, Process, Scripted, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_panics_is_set_aside_with_its_reason_and_all_others_are_worked_off() {
    let bench = Bench::new().await;
    let work = Arc::new(Scripted { panics: ["poison"].into(), ..Scripted::default() });
    bench.publish((0..50).map(|n| n.to_string())).await;
    bench.publish(["poison"]).await;
    bench.publish((50..100).map(|n| n.to_string())).await;
    let process = Process::start(&bench, &work);

    // Others go on coming: each is evidence that the stage works.
    let mut n = 100;
    while work.given_up.lock().unwrap().is_empty() {
        bench.publish([n]).await;
        n += 1;
        until("it is worked off", || work.texts().len() == n).await;
    }

    let [set_aside] = &bench.rejected(1).await[..] else { panic!("one message") };
    assert_eq!(&set_aside.body[..], b"poison");
    let header = |name| set_aside.headers.text(name);
    assert_eq!(header(ERROR_CODE_HEADER).as_deref(), Some("poison"));
    assert_eq!(header(SOURCE_QUEUE_HEADER), Some(bench.queue()));
    let reason = header(ERROR_HEADER).unwrap();
    assert!(reason.contains("6 times") && reason.ends_with("it panicked: on purpose"), "{reason}");
    assert_eq!(
        work.given_up.lock().unwrap()[..],
        [("poison".to_owned(), reason)],
        "ended in the database, once"
    );
    assert!(set_aside.redelivered, "put back, it is not taken for new");

    let worked: BTreeSet<_> = work.texts().into_iter().collect();
    assert_eq!(worked.len(), n, "all others are worked off");
    for text in &worked {
        let times = work.worked(text);
        assert_eq!(times.len(), 1, "{text} was worked off once, in the half that did not panic");
    }
    process.stop().await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_panic_the_messages_are_worked_off_again_as_ones_that_may_be_half_done() {
    let bench = Bench::new().await;
    let work = Scripted { panics: ["poison"].into(), ..Scripted::default() };
    bench.publish(["innocent", "poison"]).await;
    let pulled = bench.broker.inspector().pull(&bench.queue(), 2).await.unwrap();
    let messages: Vec<_> = pulled.messages().cloned().collect();
    assert!(messages.iter().all(|message| !message.redelivered));
    let isolation = bench.isolation();
    let _proof = isolation.work_off(&work, &messages).await.unwrap();
    let [innocent] = &work.worked("innocent")[..] else { panic!("once") };
    assert!(innocent.redelivered);
    bench.depth(&bench.isolated_queue(), 1).await;
    drop((isolation, pulled));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_message_of_many_only_the_guilty_part_is_set_aside() {
    let bench = Bench::new().await;
    let work = Arc::new(Scripted { panics: ["poison"].into(), ..Scripted::default() });
    bench.publish(["a,b,poison,c"]).await;
    let process = Process::start(&bench, &work);
    let mut n = 0;
    while work.given_up.lock().unwrap().is_empty() {
        bench.publish([n]).await;
        n += 1;
        until("it is worked off", || work.texts().len() >= n).await;
    }
    let [set_aside] = &bench.rejected(1).await[..] else { panic!("one message") };
    assert_eq!(&set_aside.body[..], b"poison");
    for innocent in ["a", "b", "c"] {
        until("the innocent parts are worked off", || work.worked(innocent).len() == 1).await;
    }
    process.stop().await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_gets_through_nothing_is_set_aside() {
    let bench = Bench::new().await;
    let work = Arc::new(Scripted::default());
    work.always_panics.store(true, Ordering::Relaxed);
    bench.publish((0..20).map(|n| n.to_string())).await;
    let process = Process::start(&bench, &work);
    // All are isolated, each with one failure; one of them is held, until something got through.
    bench.depth(&bench.isolated_queue(), 19).await;
    bench.depth(&bench.queue(), 0).await;
    work.always_panics.store(false, Ordering::Relaxed);
    eventually_ok("all are worked off", DEADLINE, async || match work.texts() {
        texts if texts.len() == 20 => Ok(()),
        texts => Err(format!("{texts:?}")),
    })
    .await;
    assert!(bench.rejected(0).await.is_empty());
    assert!(work.worked.lock().unwrap().iter().all(|worked| worked.together == 1), "one at a time");
    process.stop().await;
    bench.depth(&bench.isolated_queue(), 0).await;
    bench.end().await;
}

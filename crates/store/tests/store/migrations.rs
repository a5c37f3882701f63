use store::SchemaMismatch;
use testkit::{DEADLINE, TestDatabase, eventually};

use crate::support::{now, store_of};

#[tokio::test]
async fn migrating_twice_applies_nothing_the_second_time() {
    let database = TestDatabase::create_empty().await;
    let store = store_of(&database);
    let applied = store.migrate(now()).await.unwrap();
    assert!(!applied.is_empty());
    assert_eq!(store.migrate(now()).await.unwrap(), Vec::<String>::new());
    store.check_schema().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_waits_for_a_table_holds_up_nobody_for_long() {
    let database = TestDatabase::create().await;
    let (user, bystander) = (database.connect().await, database.connect().await);
    // As if it had not run yet.
    let undone = "DELETE FROM __diesel_schema_migrations WHERE version = '20261125100000'";
    bystander.batch_execute(undone).await.unwrap();
    user.batch_execute("BEGIN; LOCK TABLE webhooks IN ACCESS SHARE MODE").await.unwrap();

    let store = store_of(&database);
    let migrating = tokio::spawn(async move { store.migrate(now()).await });
    let waiting = "SELECT FROM pg_locks WHERE relation = 'webhooks'::regclass AND NOT granted";
    eventually("the migration waits", DEADLINE, async || {
        (!bystander.query(waiting, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    // Whoever comes behind it gets through, though the table stays in use.
    let read = bystander.query("SELECT FROM webhooks", &[]);
    tokio::time::timeout(DEADLINE, read).await.expect("in time").unwrap();
    assert!(!migrating.is_finished());

    user.batch_execute("COMMIT").await.unwrap();
    assert_eq!(migrating.await.unwrap().unwrap(), ["20261125100000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_migrations_at_once_apply_everything_once() {
    let database = TestDatabase::create_empty().await;
    let migrating = (0..8).map(|_| {
        let store = store_of(&database);
        tokio::spawn(async move { store.migrate(now()).await })
    });
    let mut applied = Vec::new();
    for migrated in migrating.collect::<Vec<_>>() {
        applied.extend(migrated.await.unwrap().unwrap());
    }
    let once = applied.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(applied.len(), once, "{applied:?}");
    store_of(&database).check_schema().await.unwrap();
}

#[tokio::test]
async fn a_schema_without_migrations_is_too_old() {
    let database = TestDatabase::create_empty().await;
    match store_of(&database).check_schema().await {
        Err(SchemaMismatch::TooOld(missing)) => assert!(!missing.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_schema_with_migrations_that_are_not_known_is_too_new() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    client
        .batch_execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')")
        .await
        .unwrap();
    match store_of(&database).check_schema().await {
        Err(SchemaMismatch::TooNew(unknown)) => assert_eq!(unknown, ["99990101000000"]),
        other => panic!("{other:?}"),
    }
}

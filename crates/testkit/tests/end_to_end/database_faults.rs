//! Whatever happens to PostgreSQL, services say so, hold publishers back, set nothing aside, and go on by themselves.

use std::time::Duration;

use crate::trial::Trial;

/// Long enough to see a loop that does not wait.
const OUTAGE: Duration = Duration::from_secs(6);

/// Ends every session of the stack's database but the test's own.
const END_SESSIONS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                             WHERE datname = current_database() AND pid <> pg_backend_pid()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_restarted_is_waited_for() {
    let mut trial = Trial::start(Trial::builder().private_servers()).await;
    trial.publish(300).await;
    trial.stack.servers().postgres.stop().await;
    trial.publish(50).await;
    trial.expect_not_ready("database").await;
    let effort = trial.effort();
    trial.expect_back_pressure().await;
    trial.expect_calm(effort, OUTAGE).await;
    trial.stack.servers().postgres.start_again().await;
    trial.expect_recovered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_ended_again_and_again_lose_nothing() {
    const EVENTS: usize = 600;
    let mut trial = Trial::start(Trial::builder()).await;
    let database = trial.stack.database.connect().await;
    let before = trial.receiver.requests().len();
    trial.publish(EVENTS).await;
    for time in 1..=4 {
        trial.receiver.until(before + EVENTS / 8 * time).await;
        database.execute(END_SESSIONS, &[]).await.expect("sessions can be ended");
    }
    trial.expect_recovered_from(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_no_writes_until_its_fail_over_is_through_is_waited_for() {
    let mut trial = Trial::start(Trial::builder()).await;
    let database = trial.stack.database.connect().await;
    let name: String =
        database.query_one("SELECT current_database()::text", &[]).await.expect("a name").get(0);
    let gate = trial.with_requests_on_the_wire(30, 200).await;
    let read_only = |switch| format!("ALTER DATABASE {name} SET default_transaction_read_only = {switch}");
    database.batch_execute(&read_only("on")).await.expect("the database is the test's own");
    database.execute(END_SESSIONS, &[]).await.expect("sessions can be ended");

    gate.open();
    trial.publish(200).await;
    trial.expect_events_stuck().await;
    trial.expect_deliveries_stuck().await;
    let effort = trial.effort();
    trial.expect_back_pressure().await;
    trial.expect_calm(effort, OUTAGE).await;
    let writable = format!("SET default_transaction_read_only = off; {}", read_only("off"));
    database.batch_execute(&writable).await.expect("the database is the test's own");
    // What was connected to the server that takes no writes is connected to it still.
    database.execute(END_SESSIONS, &[]).await.expect("sessions can be ended");
    trial.expect_recovered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_every_connection_waits_for_a_lock_everything_waits() {
    let mut trial = Trial::start(Trial::builder().env("LOK__DATABASE__POOL_SIZE", "1")).await;
    let database = trial.stack.database.connect().await;
    let gate = trial.with_requests_on_the_wire(30, 200).await;
    let lock = "BEGIN; LOCK TABLE events, deliveries IN ACCESS EXCLUSIVE MODE";
    database.batch_execute(lock).await.expect("the tables are the test's own");
    gate.open();
    trial.publish(300).await;
    // No connection is left to ask for a sign of life with.
    trial.expect_not_ready("database").await;
    let effort = trial.effort();
    trial.expect_back_pressure().await;
    trial.expect_calm(effort, OUTAGE).await;
    database.batch_execute("COMMIT").await.expect("the lock is let go");
    trial.expect_recovered().await;
}

/// For a while nothing can be written for want of space, which PostgreSQL tells in these words.
async fn full_disk(told: &str) {
    let mut trial = Box::pin(Trial::start(Trial::builder())).await;
    let database = trial.stack.database.connect().await;
    let gate = trial.with_requests_on_the_wire(30, 200).await;
    let function = format!(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION '{told}' USING ERRCODE = '53100';
         END $$"
    );
    database.batch_execute(&function).await.expect("the name is free");
    for table in ["events", "deliveries", "delivery_attempts"] {
        let trigger = format!(
            "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON {table}
                FOR EACH ROW EXECUTE FUNCTION full_disk()"
        );
        database.batch_execute(&trigger).await.expect("the tables are the test's own");
    }
    gate.open();
    trial.publish(200).await;
    trial.expect_events_stuck().await;
    trial.expect_deliveries_stuck().await;
    let effort = trial.effort();
    trial.expect_back_pressure().await;
    trial.expect_calm(effort, OUTAGE).await;
    database.batch_execute("DROP FUNCTION full_disk CASCADE").await.expect("the function is the test's own");
    trial.expect_recovered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_for() {
    full_disk("could not extend file \"base/5/16385\": No space left on device").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_for_in_any_language() {
    full_disk(
        "kann Datei »base/5/16385« nicht erweitern: Auf dem Gerät ist kein Speicherplatz mehr verfügbar",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_stopped_in_the_middle_is_given_up_and_found_again() {
    let builder = Trial::builder().private_servers().env("LOK__DATABASE__STATEMENT_TIMEOUT", "1s");
    let mut trial = Trial::start(builder).await;
    let gate = trial.with_requests_on_the_wire(30, 200).await;
    trial.stack.servers().postgres.pause().await;
    gate.open();
    trial.publish(50).await;
    trial.expect_not_ready("database").await;
    let effort = trial.effort();
    trial.expect_back_pressure().await;
    // Statements under way are given up, and tried anew in vain.
    trial.expect_deliveries_stuck().await;
    trial.expect_events_stuck().await;
    trial.expect_calm(effort, OUTAGE).await;
    trial.stack.servers().postgres.resume().await;
    trial.expect_recovered().await;
}

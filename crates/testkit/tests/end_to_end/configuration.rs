//! Wrong configuration is refused before anything is touched, with words that mend it.

use testkit::database::SECRET_KEYS;
use testkit::{Binary, Output, TestDatabase, servers};

const SERVICES: [&str; 3] = ["management-api", "event-ingest", "dispatcher"];

/// A service with everything it needs, on servers that are not asked: nothing may be connected to before the
/// configuration is checked.
fn configured(name: &str) -> Binary {
    Binary::new(name)
        .env("LOK__DATABASE__URL", "postgres://lok:hunter2@127.0.0.1:1/lok")
        .env("LOK__AMQP__URL", "amqp://lok:hunter3@127.0.0.1:1/%2f")
        .env("LOK__SECRETS__KEYS", SECRET_KEYS)
        .env("LOK__AUTH__HS256_SECRET", "hunter4-hunter4-hunter4-hunter4-hunter4")
        .env("LOK__INGEST__TOKEN", "hunter5-hunter5-hunter5")
        .env("LOK__ADMIN__LISTEN", "127.0.0.1:0")
        .env("LOK__API__LISTEN", "127.0.0.1:0")
        .env("LOK__INGEST__LISTEN", "127.0.0.1:0")
}

#[track_caller]
fn assert_refused(output: &Output, says: &[&str]) {
    assert_eq!(output.code, Some(2), "{output:?}");
    for text in says {
        assert!(output.stderr.contains(text), "{text:?} is missing in {:?}", output.stderr);
    }
    assert_eq!(output.stderr.trim_end().lines().count(), 1, "one line: {:?}", output.stderr);
    assert!(!output.stderr.contains("hunter"), "a secret is shown: {:?}", output.stderr);
}

#[tokio::test]
async fn an_unknown_key_is_named_with_the_one_that_was_meant() {
    for name in SERVICES {
        let output = configured(name).env("LOK__DELIVERY__TIMOUT", "1s").output().await;
        assert_refused(&output, &[name, "LOK__DELIVERY__TIMOUT", "unknown key", "delivery.timeout"]);
    }
}

#[tokio::test]
async fn a_wrong_value_is_told_with_what_is_expected() {
    for name in SERVICES {
        let output = configured(name).env("LOK__DELIVERY__TIMEOUT", "hunter-seconds").output().await;
        assert_refused(&output, &[name, "LOK__DELIVERY__TIMEOUT", "expected a duration such as"]);
    }
}

#[tokio::test]
async fn a_dispatcher_wants_more_time_to_stop_than_an_attempt_takes() {
    for (variable, value) in [("LOK__SHUTDOWN__GRACE", "12s"), ("LOK__DELIVERY__TIMEOUT", "13s")] {
        let output = configured("dispatcher").env(variable, value).output().await;
        assert_refused(&output, &["dispatcher", "shutdown.grace", "delivery.timeout", value]);
    }
}

#[tokio::test]
async fn what_is_missing_is_listed_with_its_variables() {
    for name in SERVICES {
        let output = Binary::new(name).output().await;
        assert_refused(&output, &[name, "LOK__DATABASE__URL", "LOK__AMQP__URL"]);
    }
}

#[tokio::test]
async fn an_unknown_argument_and_a_wrong_log_filter_are_refused() {
    for name in SERVICES {
        let output = configured(name).arg("--verbose").output().await;
        assert_refused(&output, &[name, "--verbose", "--help"]);
        let output = configured(name).env("RUST_LOG", "dispatcher=loud").output().await;
        assert_refused(&output, &[name, "RUST_LOG"]);
    }
}

#[tokio::test]
async fn a_file_is_used_and_its_mistakes_are_told() {
    let path = std::env::temp_dir().join(format!("lok-configuration-{}.toml", std::process::id()));
    let file = TemporaryFile(path);
    for name in SERVICES {
        file.write("[delivery]\ntimeout = \"3s\"\n");
        let printed = configured(name).arg("--print-config").env("LOK_CONFIG", file.path()).output().await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        assert!(printed.stdout.contains("timeout = \"3s\""), "{}", printed.stdout);

        file.write("[delivery]\nretries = 3\n");
        let output = configured(name).env("LOK_CONFIG", file.path()).output().await;
        assert_refused(&output, &[name, "delivery.retries", "unknown key"]);
    }
}

struct TemporaryFile(std::path::PathBuf);

impl TemporaryFile {
    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("the temporary folder can be written to");
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the path is UTF-8")
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn help_lists_every_key_and_print_config_masks_secrets() {
    for name in SERVICES {
        let help = Binary::new(name).arg("--help").output().await;
        assert_eq!(help.code, Some(0));
        for text in [name, "LOK_CONFIG", "LOK__DELIVERY__RETRY_DELAYS", "60s,300s", "LOK__SECRETS__KEYS"] {
            assert!(help.stdout.contains(text), "{text} is missing in {}", help.stdout);
        }

        let printed = configured(name).arg("--print-config").output().await;
        assert_eq!(printed.code, Some(0));
        assert!(printed.stdout.contains("[redacted]") && printed.stdout.contains("pool_size = 16"));
        assert!(!printed.stdout.contains("hunter"), "{}", printed.stdout);
        assert!(!printed.stdout.contains("AAECAwQF"), "{}", printed.stdout);
    }
}

#[tokio::test]
async fn a_database_that_was_not_migrated_is_refused_until_lokctl_migrate() {
    let database = TestDatabase::create_empty().await;
    let on_database = |name: &str| {
        configured(name).env("LOK__DATABASE__URL", database.url()).env("LOK__AMQP__URL", servers::amqp_url())
    };
    for name in SERVICES {
        let output = on_database(name).output().await;
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stdout.contains("lokctl migrate"), "{output:?}");
    }

    let migrated = on_database("lokctl").arg("migrate").output().await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    database.store().check_schema().await.expect("lokctl made the schema this program knows");
}

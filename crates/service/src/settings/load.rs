//! Reading the configuration, and saying precisely what is wrong with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use config::{Config, Environment, File, FileFormat};

use super::{KEYS, Settings};

/// The prefix of the environment variables, separator included.
const PREFIX: &str = "LOK__";

/// The configuration is wrong: which key, where it was set, what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file named by `LOK_CONFIG` cannot be read as TOML.
    #[error("LOK_CONFIG names {path}, which cannot be used: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A key has a value that is not possible, or is not known.
    #[error("{key}: {reason}")]
    Key {
        /// The key as it was written: an environment variable, or the key in the file.
        key: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// Keys that this service cannot do without.
    #[error("not configured: {}", .0.join(", "))]
    Missing(Vec<String>),
}

/// Reads the configuration from the environment's variables and the file that `LOK_CONFIG` names, and checks that
/// every key in `required` is set: `section.key`, or several joined by `|` of which one will do.
pub fn load(environment: &BTreeMap<String, String>, required: &[&str]) -> Result<Settings, ConfigError> {
    let mut builder = Config::builder();
    let file = environment.get("LOK_CONFIG").filter(|path| !path.is_empty());
    if let Some(path) = file {
        let unusable = |reason: String| ConfigError::File { path: path.clone(), reason };
        let text = std::fs::read_to_string(Path::new(path)).map_err(|error| unusable(error.to_string()))?;
        // Parsed on its own first: its errors tell the line.
        text.parse::<toml::Table>().map_err(|error| unusable(not_toml(&text, &error)))?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let ours: config::Map<String, String> = environment
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let variables =
        Environment::with_prefix("LOK").prefix_separator("__").separator("__").source(Some(ours.clone()));
    let config = builder
        .add_source(variables)
        .build()
        .map_err(|error| ConfigError::Key { key: "configuration".into(), reason: error.to_string() })?;

    let settings: Settings =
        serde_path_to_error::deserialize(config).map_err(|error| explain(&error, &ours))?;
    if let Some((key, reason)) = settings.out_of_bounds().into_iter().next() {
        return Err(ConfigError::Key { key: as_written(key, &ours), reason });
    }
    let missing = missing(&settings, required);
    if missing.is_empty() { Ok(settings) } else { Err(ConfigError::Missing(missing)) }
}

/// Where a file is not TOML, and why; not what stands there, as the error itself would say: it may be a password.
fn not_toml(text: &str, error: &toml::de::Error) -> String {
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {}", before.matches('\n').count() + 1, error.message()),
        None => error.message().to_owned(),
    }
}

/// Names the key as the user wrote it and, for an unknown one, the nearest that exists.
fn explain(
    error: &serde_path_to_error::Error<config::ConfigError>,
    ours: &config::Map<String, String>,
) -> ConfigError {
    let mut path = error.path().to_string();
    let message = root_message(error.inner());
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let reason = match unknown {
        None => message.clone(),
        Some(name) => {
            let whole = if path == "." { name.to_owned() } else { format!("{path}.{name}") };
            // The path may already end with the unknown field.
            path = if path == name || path.ends_with(&format!(".{name}")) { path } else { whole };
            let whole_path = set_by(&path, ours)
                .map_or(path.clone(), |name| name[PREFIX.len()..].to_lowercase().replace("__", "."));
            match nearest(&whole_path) {
                Some(known) => format!("unknown key; did you mean {known}? --help lists every key"),
                None => "unknown key; --help lists every key".to_owned(),
            }
        }
    };
    ConfigError::Key { key: as_written(&path, ours), reason }
}

/// The innermost message, without the value: it may be a secret.
fn root_message(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::At { error, .. } => root_message(error),
        config::ConfigError::Type { expected, .. } => format!("expected {expected}"),
        config::ConfigError::Message(message) => message.clone(),
        other => other.to_string(),
    }
}

/// `delivery.timeout`, or `LOK__DELIVERY__TIMEOUT` if the environment sets it.
fn as_written(path: &str, ours: &config::Map<String, String>) -> String {
    set_by(path, ours).map_or_else(|| format!("{path} (in the file)"), Clone::clone)
}

/// The variable that sets a key, or a key below an unknown section.
fn set_by<'a>(path: &str, ours: &'a config::Map<String, String>) -> Option<&'a String> {
    let variable = variable(path);
    ours.keys().find(|name| {
        let name = name.to_uppercase();
        name == variable || name.strip_prefix(&variable).is_some_and(|rest| rest.starts_with("__"))
    })
}

fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_uppercase())
}

fn nearest(path: &str) -> Option<String> {
    let known = KEYS.iter().map(|key| format!("{}.{}", key.section, key.name));
    let (distance, name) = known.map(|name| (edit_distance(&name, path), name)).min()?;
    (distance <= 4).then_some(name)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

fn missing(settings: &Settings, required: &[&str]) -> Vec<String> {
    let table = as_table(settings);
    let is_set = |path: &str| {
        let (section, key) = path.split_once('.').unwrap_or((path, ""));
        table.get(section).and_then(|section| section.get(key)).is_some()
    };
    let absent = required.iter().filter(|paths| !paths.split('|').any(is_set));
    absent
        .map(|paths| {
            let variables: Vec<_> = paths.split('|').map(variable).collect();
            let (paths, variables) = (paths.replace('|', " or "), variables.join(" or "));
            format!("{paths} (set {variables} or put it into the file)")
        })
        .collect()
}

fn as_table(settings: &Settings) -> toml::Table {
    toml::Table::try_from(settings).unwrap_or_default()
}

/// The effective configuration as TOML, secrets masked.
pub fn print(settings: &Settings) -> String {
    toml::to_string(settings).unwrap_or_default()
}

/// Every key with its variable, default and meaning, for `--help`.
pub fn key_table() -> String {
    let defaults = as_table(&Settings::default());
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            let _ = writeln!(text, "\n[{section}]");
        }
        let default = defaults.get(section).and_then(|values| values.get(key.name));
        let default = default.map_or_else(|| "none".to_owned(), ToString::to_string);
        let variable = variable(&format!("{section}.{}", key.name));
        let _ = writeln!(text, "  {} = {default}\n      {variable}\n      {}", key.name, key.meaning.trim());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::values::{Size, Span};

    fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn error(variables: &[(&str, &str)]) -> String {
        load(&environment(variables), &[]).unwrap_err().to_string()
    }

    #[test]
    fn of_several_required_keys_one_will_do() {
        let required = &["auth.hs256_secret|auth.jwks_file"];
        let error = load(&environment(&[]), required).unwrap_err().to_string();
        assert!(error.contains("auth.hs256_secret or auth.jwks_file"), "{error}");
        assert!(error.contains("LOK__AUTH__HS256_SECRET or LOK__AUTH__JWKS_FILE"), "{error}");
        assert!(load(&environment(&[("LOK__AUTH__JWKS_FILE", "/keys.json")]), required).is_ok());
    }

    struct TempFile(std::path::PathBuf);

    impl TempFile {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lok-settings-{}-{name}.toml", std::process::id()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }
    }

    impl Drop for TempFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_environment_overrides_the_file_which_overrides_the_defaults() {
        let file = TempFile::new("order", "[delivery]\ntimeout = \"3s\"\nprefetch = 7\n");
        let settings = load(
            &environment(&[("LOK_CONFIG", file.path()), ("LOK__DELIVERY__TIMEOUT", "2s"), ("HOME", "/")]),
            &[],
        )
        .unwrap();
        assert_eq!(settings.delivery.timeout, Span::secs(2));
        assert_eq!(settings.delivery.prefetch, 7);
        assert_eq!(settings.delivery.retry_delays.0, [Span::secs(60), Span::secs(300)]);
    }

    #[test]
    fn every_kind_of_value_is_read_from_the_environment() {
        let settings = load(
            &environment(&[
                ("LOK__DELIVERY__RETRY_DELAYS", "1s, 500ms"),
                ("LOK__EGRESS__ALLOW_HTTP", "true"),
                ("LOK__EGRESS__ALLOWED_NETWORKS", "127.0.0.0/8,::1/128"),
                ("LOK__EGRESS__NAME_SERVERS", "10.0.0.53:53, [fd00::53]:5353"),
                ("LOK__API__LISTEN", "0.0.0.0:80"),
                ("LOK__API__BODY_LIMIT", "1MiB"),
                ("LOK__DATABASE__POOL_SIZE", "3"),
                ("LOK__LOG__FORMAT", "text"),
                ("LOK__AMQP__PREFIX", "123"),
            ]),
            &[],
        )
        .unwrap();
        assert_eq!(settings.delivery.retry_delays.0, [Span::secs(1), Span::millis(500)]);
        assert!(settings.egress.allow_http);
        assert_eq!(settings.egress.allowed_networks.0.len(), 2);
        let ports: Vec<u16> = settings.egress.name_servers.0.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [53, 5353]);
        assert_eq!(settings.api.body_limit.0, 1 << 20);
        assert_eq!(settings.database.pool_size, 3);
        assert_eq!(settings.amqp.prefix, "123");
    }

    #[test]
    fn an_unknown_key_is_named_as_written_with_the_nearest_known_one() {
        let message = error(&[("LOK__DELIVRY__TIMEOUT", "1s")]);
        assert!(message.starts_with("LOK__DELIVRY__TIMEOUT: unknown key"), "{message}");
        let message = error(&[("LOK__DELIVERY__TIMOUT", "1s")]);
        assert!(
            message.starts_with("LOK__DELIVERY__TIMOUT: unknown key; did you mean delivery.timeout?"),
            "{message}"
        );

        let file = TempFile::new("unknown", "[amqp]\nurrl = \"x\"\n");
        let message = error(&[("LOK_CONFIG", file.path())]);
        assert!(
            message.starts_with("amqp.urrl (in the file): unknown key; did you mean amqp.url?"),
            "{message}"
        );
    }

    #[test]
    fn an_impossible_value_is_told_with_what_is_expected_and_without_the_value() {
        let message = error(&[("LOK__DELIVERY__TIMEOUT", "hunter2")]);
        assert_eq!(message, "LOK__DELIVERY__TIMEOUT: expected a duration such as 250ms, 10s, 5m or 1h");
        let message = error(&[("LOK__DATABASE__POOL_SIZE", "many")]);
        assert!(message.starts_with("LOK__DATABASE__POOL_SIZE: ") && !message.contains("many"), "{message}");
        assert_eq!(
            error(&[("LOK__DATABASE__POOL_SIZE", "0")]),
            "LOK__DATABASE__POOL_SIZE: must be 1 to 1000, is 0"
        );
    }

    #[test]
    fn what_is_wrong_in_a_list_is_told_with_what_is_expected() {
        let message = error(&[("LOK__EGRESS__ALLOWED_NAMES", "hooks.internal, *.hooks.internal")]);
        assert!(
            message.starts_with(
                "LOK__EGRESS__ALLOWED_NAMES: `*.hooks.internal` is not valid in this list: expected a host name \
                 such as hooks.internal"
            ),
            "{message}"
        );
        let message = error(&[("LOK__DELIVERY__RETRY_DELAYS", "60s,five minutes")]);
        assert_eq!(
            message,
            "LOK__DELIVERY__RETRY_DELAYS: `five minutes` is not valid in this list: expected a duration such as \
             250ms, 10s, 5m or 1h"
        );
        let settings = load(&environment(&[("LOK__EGRESS__ALLOWED_NAMES", "Hooks.Internal.,intra")]), &[]);
        assert!(print(&settings.unwrap()).contains("allowed_names = \"hooks.internal,intra\""));
    }

    #[test]
    fn no_wait_and_no_capacity_may_be_nothing() {
        /// Nothing is a choice: no leeway, no bodies inline, no wait for others, no response kept.
        const MAY_BE_NOTHING: [&str; 7] = [
            "auth.leeway",
            "delivery.inline_body",
            "delivery.park_together",
            "delivery.response_limit",
            "egress.dns_cache",
            "egress.dns_max_ttl",
            "egress.dns_max_negative_ttl",
        ];
        let defaults = as_table(&Settings::default());
        let mut refused = 0;
        for key in KEYS {
            let (path, default) =
                (format!("{}.{}", key.section, key.name), &defaults[key.section].get(key.name));
            let nothing = match default {
                Some(toml::Value::Integer(_)) => "0",
                Some(toml::Value::String(text)) if text.parse::<Span>().is_ok() => "0s",
                Some(toml::Value::String(text)) if text.parse::<Size>().is_ok() => "0B",
                _ => continue,
            };
            let loaded = load(&environment(&[(&variable(&path), nothing)]), &[]);
            if MAY_BE_NOTHING.contains(&path.as_str()) {
                loaded.unwrap();
                continue;
            }
            let message = loaded.expect_err(&path).to_string();
            assert!(message.starts_with(&format!("{}: must be ", variable(&path))), "{message}");
            refused += 1;
        }
        assert!(refused > 25, "{refused}");
    }

    #[test]
    fn parking_is_a_ladder_that_ends_beyond_the_longest_attempt() {
        let refused = |delays: &str, timeout: &str| {
            error(&[("LOK__DELIVERY__PARK_DELAYS", delays), ("LOK__DELIVERY__TIMEOUT", timeout)])
        };
        for (delays, timeout, why) in [
            ("", "10s", "must be 1 to 10 delays"),
            ("30s,5s", "2s", "must ascend"),
            ("5s,5s", "2s", "must ascend"),
            ("5s,11s", "10s", "the last must be longer than 11s, which is delivery.timeout and 1s, is 11s"),
            ("5s,2h", "10s", "must be 10ms to 3600s, is 7200s"),
        ] {
            assert_eq!(refused(delays, timeout), format!("LOK__DELIVERY__PARK_DELAYS: {why}"));
        }
        let settings = load(&environment(&[("LOK__DELIVERY__PARK_DELAYS", "1s, 11001ms")]), &[]).unwrap();
        assert_eq!(settings.delivery.park_delays.0, [Span::secs(1), Span::millis(11_001)]);
    }

    #[test]
    fn what_a_service_needs_and_nobody_set_is_listed() {
        let message = load(&environment(&[]), &["database.url", "amqp.url"]).unwrap_err().to_string();
        assert!(message.contains("LOK__DATABASE__URL") && message.contains("LOK__AMQP__URL"), "{message}");
    }

    #[test]
    fn a_file_that_is_absent_or_not_toml_is_named() {
        assert!(error(&[("LOK_CONFIG", "/does/not/exist.toml")]).contains("/does/not/exist.toml"));
        let file = TempFile::new("broken", "[amqp\n");
        assert!(error(&[("LOK_CONFIG", file.path())]).contains("line 1"));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_line_and_without_what_stands_there() {
        for (name, text, line) in [
            ("unterminated", "[database]\nurl = \"postgres://u:hunter2@h/d\n", "line 2: "),
            ("unquoted", "[ingest]\n\ntoken = hunter2\n", "line 3: "),
            ("twice", "[ingest]\ntoken = \"hunter2\"\ntoken = \"hunter2\"\n", "line 3: "),
            ("escape", "[auth]\nhs256_secret = \"\\hunter2\"\n", "line 2: "),
        ] {
            let file = TempFile::new(name, text);
            let message = error(&[("LOK_CONFIG", file.path())]);
            assert!(message.contains(line) && !message.contains("unter2"), "{message}");
        }
    }

    #[test]
    fn a_secret_of_the_wrong_kind_is_told_without_it() {
        for (name, text) in [
            ("list", "[ingest]\ntoken = [\"hunter2\"]\n"),
            ("table", "[secrets]\nkeys = { k1 = \"hunter2\" }\n"),
            ("below", "[amqp]\nurl = { password = \"hunter2\" }\n"),
        ] {
            let file = TempFile::new(&format!("secret-{name}"), text);
            let message = error(&[("LOK_CONFIG", file.path())]);
            assert!(message.contains("(in the file)") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn the_effective_configuration_is_printed_with_secrets_masked() {
        let url = "amqp://guest:hunter2@localhost";
        let settings = load(&environment(&[("LOK__AMQP__URL", url)]), &[]).unwrap();
        let printed = print(&settings);
        assert!(printed.contains("url = \"[redacted]\""), "{printed}");
        assert!(!printed.contains("hunter2") && !format!("{settings:?}").contains("hunter2"));
        assert!(key_table().contains("LOK__DELIVERY__RETRY_DELAYS"));
    }
}

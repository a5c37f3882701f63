//! Where the stack is: `.dev/env` in the working directory, unless the environment says otherwise.

use std::collections::BTreeMap;
use std::path::Path;

use service::Settings;
use service::settings::{self, ConfigError};

/// What `make up` writes.
const DEV_ENV: &str = ".dev/env";

/// The names under which `.dev/env` tells what is a setting of ours.
const ALIASES: [(&str, &str); 2] =
    [("LOK_DATABASE_URL", "LOK__DATABASE__URL"), ("LOK_AMQP_URL", "LOK__AMQP__URL")];

/// The configuration does not say what a command needs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotConfigured {
    /// `.dev/env` cannot be read.
    #[error("{DEV_ENV} in the working directory cannot be read: {0}; `make up` writes it")]
    DevEnv(std::io::Error),
    /// A line of `.dev/env` is not `KEY=value`.
    #[error("{DEV_ENV}, line {line}: expected KEY=value; `make up` writes it anew")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// A setting is wrong or missing, and there is no `.dev/env`.
    #[error(
        "{0}\nThere is no {DEV_ENV} here either: run this in the project's directory after `make up`, or set the variable."
    )]
    Alone(ConfigError),
    /// A setting is wrong or missing, with `.dev/env` taken into account.
    #[error("{0}\n{DEV_ENV} was read too.")]
    WithDevEnv(ConfigError),
    /// A setting is wrong or missing, and the file replaces `.dev/env`.
    #[error("{0}\n{DEV_ENV} is not read because LOK_CONFIG is set.")]
    WithFile(ConfigError),
    /// A setting cannot be used.
    #[error(transparent)]
    Unusable(#[from] backends::ConfigureError),
}

/// The variables that count.
#[derive(Debug)]
pub(crate) struct Environment {
    variables: BTreeMap<String, String>,
    source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Alone,
    WithDevEnv,
    WithFile,
}

/// Reads the process's environment and, unless `LOK_CONFIG` names a file, `.dev/env`.
pub(crate) fn read() -> Result<Environment, NotConfigured> {
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    if variables.get("LOK_CONFIG").is_some_and(|path| !path.is_empty()) {
        return Ok(Environment { variables: with_aliases(variables), source: Source::WithFile });
    }
    match std::fs::read_to_string(Path::new(DEV_ENV)) {
        Ok(text) => {
            let variables = merge(parse(&text)?, with_aliases(variables));
            Ok(Environment { variables, source: Source::WithDevEnv })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(Environment { variables: with_aliases(variables), source: Source::Alone })
        }
        Err(error) => Err(NotConfigured::DevEnv(error)),
    }
}

impl Environment {
    /// The settings, with every key in `required` set.
    pub(crate) fn settings(&self, required: &[&str]) -> Result<Settings, NotConfigured> {
        settings::load(&self.variables, required).map_err(match self.source {
            Source::Alone => NotConfigured::Alone,
            Source::WithDevEnv => NotConfigured::WithDevEnv,
            Source::WithFile => NotConfigured::WithFile,
        })
    }
}

/// `KEY=value` lines; empty ones and comments are passed over.
fn parse(text: &str) -> Result<BTreeMap<String, String>, NotConfigured> {
    let mut variables = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or(NotConfigured::Line { line: index + 1 })?;
        variables.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(with_aliases(variables))
}

/// Adds the settings that are told under another name, unless they are told under their own.
fn with_aliases(mut variables: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for (alias, name) in ALIASES {
        if let Some(value) = variables.get(alias).cloned() {
            variables.entry(name.to_owned()).or_insert(value);
        }
    }
    variables
}

/// The environment wins.
fn merge(
    dev_env: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut variables = dev_env;
    variables.extend(environment);
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# written by make up\n\nLOK_DATABASE_URL=postgres://a:b=c@h/d\nLOK_AMQP_URL=amqp://dev\nLOK__AUTH__HS256_SECRET=s\n";

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_stacks_urls_become_settings() {
        let merged = merge(parse(TEXT).unwrap(), BTreeMap::new());
        assert_eq!(merged["LOK__DATABASE__URL"], "postgres://a:b=c@h/d");
        assert_eq!(merged["LOK__AMQP__URL"], "amqp://dev");
        assert_eq!(merged["LOK__AUTH__HS256_SECRET"], "s");
    }

    #[test]
    fn the_environment_wins_under_either_name() {
        for name in ["LOK__AMQP__URL", "LOK_AMQP_URL"] {
            let environment = with_aliases(variables(&[(name, "amqp://mine")]));
            let merged = merge(parse(TEXT).unwrap(), environment);
            assert_eq!(merged["LOK__AMQP__URL"], "amqp://mine", "{name}");
        }
    }

    #[test]
    fn a_line_that_is_no_assignment_is_named() {
        assert!(matches!(parse("A=1\nnonsense\n"), Err(NotConfigured::Line { line: 2 })));
    }
}

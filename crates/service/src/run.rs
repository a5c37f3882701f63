//! The start-up story of a service.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::admin;
use crate::clock::Clock;
use crate::open_files;
use crate::readiness::Readiness;
use crate::settings::{self, Settings};
use crate::shutdown::{self, Shutdown};
use crate::telemetry;

/// Exit code for wrong configuration or arguments.
const WRONG_CONFIGURATION: u8 = 2;

/// How often what was measured is summed up. Without it samples would pile up while nobody reads the metrics.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// What a service says of itself.
#[derive(Debug, Clone, Copy)]
pub struct ServiceInfo {
    /// The binary's name.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// The settings it cannot do without, as `section.key`; of several joined by `|`, one will do.
    pub required: &'static [&'static str],
    /// Checks what only the service can judge of its settings; an error names the key and how to mend it.
    pub check: fn(&Settings) -> Result<(), String>,
    /// Files and connections that it has open at the same time, at most.
    pub open_files: fn(&Settings) -> u64,
    /// Where its admin server listens unless configured.
    pub admin: SocketAddr,
}

/// What a service gets to work with.
#[derive(Debug)]
pub struct Context {
    /// The configuration, checked.
    pub settings: Settings,
    /// What has to work before the service may get traffic.
    pub readiness: Readiness,
    /// Going down.
    pub shutdown: Shutdown,
    /// The time.
    pub clock: Clock,
}

/// Runs a service from its command line to its exit code: arguments and configuration are checked completely
/// before any port is bound; `service` returns after it was drained.
#[expect(clippy::print_stderr, reason = "a command line speaks to its user")]
pub fn run<F, E>(info: ServiceInfo, service: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let refuse = |reason: &dyn std::fmt::Display| {
        eprintln!("{}: {reason}", info.name);
        ExitCode::from(WRONG_CONFIGURATION)
    };
    let environment = match utf8(std::env::vars_os()) {
        Ok(environment) => environment,
        Err(name) => return refuse(&format!("{name}: not UTF-8")),
    };
    let load = |required| settings::load(&environment, required);

    let settings = match arguments[..] {
        [] => load(info.required),
        ["--help" | "-h"] => {
            say(&help(info));
            return ExitCode::SUCCESS;
        }
        ["--version" | "-V"] => {
            say(&format!("{} {}", info.name, env!("CARGO_PKG_VERSION")));
            return ExitCode::SUCCESS;
        }
        ["--print-config"] => match load(&[]) {
            Ok(settings) => {
                say(&settings::print(&settings));
                return ExitCode::SUCCESS;
            }
            Err(error) => Err(error),
        },
        [unknown, ..] => return refuse(&format!("unknown argument `{unknown}`; --help tells what there is")),
    };
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return refuse(&error),
    };
    if let Err(reason) = (info.check)(&settings) {
        return refuse(&reason);
    }
    let filter = environment.get("RUST_LOG").map(String::as_str);
    if let Err(error) = telemetry::init_logs(settings.log.format, filter) {
        return refuse(&error);
    }
    let _ = rustls::crypto::ring::default_provider().install_default();

    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("the runtime does not start: {error}")),
    };
    let code = runtime.block_on(async {
        match start(info, settings, service).await {
            Ok(()) => {
                info!("stopped");
                ExitCode::SUCCESS
            }
            Err(reason) => {
                error!(reason, "stopped");
                ExitCode::FAILURE
            }
        }
    });
    // Dropped, the runtime would wait for blocking work without bound.
    runtime.shutdown_timeout(shutdown::ENDING);
    code
}

/// Writes to standard output; that nobody reads to the end (`--help | head`) is no failure.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The environment's variables as text. Others' may be what they like; ours are text, or their name is the error.
fn utf8(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<BTreeMap<String, String>, String> {
    let mut environment = BTreeMap::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => drop(environment.insert(name, value)),
            Err(_) if name.starts_with("LOK_") => return Err(name),
            Err(_) => {}
        }
    }
    Ok(environment)
}

async fn start<F, E>(
    info: ServiceInfo,
    settings: Settings,
    service: impl FnOnce(Context) -> F,
) -> Result<(), String>
where
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let metrics = telemetry::init_metrics().map_err(|error| error.to_string())?;
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(METRICS_UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    let shutdown = Shutdown::install(settings.shutdown.grace.0).map_err(|error| error.to_string())?;
    let readiness = Readiness::default();
    let stopping = readiness.check("not stopping");
    stopping.pass();

    let address = settings.admin.listen.map_or(info.admin, |listen| listen.0);
    let (admin, bound) =
        admin::start(address, readiness.clone(), metrics).map_err(|error| error.to_string())?;
    let (may, needs) = (open_files::raise(), (info.open_files)(&settings));
    if may < needs {
        warn!(
            may,
            needs,
            "the hard limit of open files is below what the settings can need; raise it, or lower them"
        );
    }
    info!(service = info.name, version = env!("CARGO_PKG_VERSION"), admin = %bound, "starting");
    let (soft, over) = (shutdown.soft().clone(), shutdown.clone());
    tokio::spawn(async move {
        soft.cancelled().await;
        stopping.fail("stopping");
    });

    let context = Context { settings, readiness, shutdown, clock: Clock::system() };
    let result = tokio::select! {
        ended = service(context) => ended.map_err(|error| format!("{error:#}")),
        () = over.over() => {
            warn!("grace period over; leaving what does not end");
            Ok(())
        }
    };
    admin.stop(false).await;
    result
}

fn help(info: ServiceInfo) -> String {
    let required: Vec<_> =
        info.required.iter().map(|key| format!("  {}", key.replace('|', " or "))).collect();
    format!(
        "{name}: {about}\n\n\
         Usage: {name} [--help | --version | --print-config]\n\n\
         Configuration: built-in defaults < the TOML file named by LOK_CONFIG < environment variables.\n\
         Admin server (/healthz, /readyz, /metrics): {admin} unless admin.listen says otherwise.\n\n\
         Needed:\n{required}\n\n\
         Keys, defaults and variables (one file serves all services):\n{keys}",
        name = info.name,
        about = info.about,
        admin = info.admin,
        required = required.join("\n"),
        keys = settings::key_table(),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn only_our_own_variables_have_to_be_text() {
        let text = |text: &str| OsString::from(text);
        let latin1 = OsString::from_vec(vec![b'c', 0xe9]);
        let foreign = [(text("LANG"), latin1.clone()), (latin1.clone(), text("x")), (text("A"), text("b"))];
        assert_eq!(utf8(foreign.into_iter()), Ok(BTreeMap::from([("A".to_owned(), "b".to_owned())])));
        let ours = [(text("LOK__AMQP__PREFIX"), latin1)];
        assert_eq!(utf8(ours.into_iter()), Err("LOK__AMQP__PREFIX".to_owned()));
    }
}

//! Structured logs and Prometheus metrics.

use std::fmt::Write as _;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::time::ChronoUtc;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::LogFormat;

/// The default filter.
const DEFAULT_FILTER: &str = "info,actix_server=warn,actix_web=warn";

/// What may never log more, whatever is asked for: these log passwords, bodies, statements with their parameters, and
/// headers. lapin logs whole returned messages as errors: its state is told by `broker`.
const QUIET: [(&str, LevelFilter); 6] = [
    ("lapin", LevelFilter::OFF),
    ("amq_protocol", LevelFilter::INFO),
    ("tokio_postgres", LevelFilter::INFO),
    ("h2", LevelFilter::INFO),
    ("hyper", LevelFilter::INFO),
    ("hyper_util", LevelFilter::INFO),
];

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG: not a filter such as `info` or `info,dispatcher=debug`: {0}")]
    Filter(String),
    /// Metrics could not be installed.
    #[error("metrics could not be installed: {0}")]
    Metrics(String),
}

/// Starts logging to standard output (`RUST_LOG` filters), panics included.
pub fn init_logs(format: LogFormat, filter: Option<&str>) -> Result<(), TelemetryError> {
    let filter = match filter.filter(|filter| !filter.is_empty()) {
        None => EnvFilter::new(DEFAULT_FILTER),
        Some(filter) => {
            EnvFilter::try_new(filter).map_err(|error| TelemetryError::Filter(error.to_string()))?
        }
    };
    // Beside the filter, not in it: there a more specific target (`lapin::channel=trace`) would win. The default says that
    // nobody asks for more than the filter does.
    let most = filter.max_level_hint().unwrap_or(LevelFilter::TRACE);
    let quiet = Targets::new().with_default(most).with_targets(QUIET);
    let time = ChronoUtc::new("%Y-%m-%dT%H:%M:%S%.3fZ".to_owned());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_timer(time);
    match format {
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
            builder.finish().with(quiet).init();
        }
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
            builder.with_ansi(is_terminal).finish().with(quiet).init();
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        // The message of a panic is ours, not a user's.
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(location, message, "panic");
    }));
    Ok(())
}

/// Starts collecting metrics.
pub fn init_metrics() -> Result<PrometheusHandle, TelemetryError> {
    let seconds =
        [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| TelemetryError::Metrics(error.to_string()))
}

/// The metrics as Prometheus reads them, with those of the process itself.
pub fn render(metrics: &PrometheusHandle) -> String {
    metrics.run_upkeep();
    let mut text = metrics.render();
    append_process_metrics(&mut text);
    text
}

/// CPU, memory and files of this process, under the names Prometheus' own clients use.
fn append_process_metrics(text: &mut String) {
    /// Linux reports CPU time to users in hundredths of a second on every platform.
    const TICKS_PER_SECOND: f64 = 100.0;
    const PAGE_BYTES: u64 = 4096;

    let mut gauge = |name: &str, kind: &str, value: String| {
        let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {value}");
    };
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some((_, fields)) = stat.rsplit_once(')')
    {
        let field =
            |n: usize| fields.split_ascii_whitespace().nth(n).and_then(|text| text.parse::<u64>().ok());
        // Counted from field 3 of proc(5): utime is 14, stime 15, rss 24.
        if let (Some(user), Some(system), Some(pages)) = (field(11), field(12), field(21)) {
            #[expect(clippy::cast_precision_loss, reason = "exact for a hundred million CPU years")]
            let seconds = (user + system) as f64 / TICKS_PER_SECOND;
            gauge("process_cpu_seconds_total", "counter", seconds.to_string());
            gauge("process_resident_memory_bytes", "gauge", (pages * PAGE_BYTES).to_string());
        }
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        gauge("process_open_fds", "gauge", files.count().to_string());
    }
}

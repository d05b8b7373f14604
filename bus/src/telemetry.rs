//! Logs to stderr and, where a folder is given, to daily files; metrics for Prometheus.

use std::path::Path;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Daily files that are kept of each program.
const DAYS_KEPT: usize = 14;

/// Keeps the log files' writer alive; drop it last.
#[must_use]
pub struct Logs(#[allow(dead_code)] Option<WorkerGuard>);

/// Starts logging. `MESH_LOG` sets the level (`info`, `bus=debug`, …); stderr carries `level_default` otherwise.
pub fn logs(program: &str, folder: Option<&Path>, level_default: &str) -> Logs {
    let filter = || EnvFilter::try_from_env("MESH_LOG").unwrap_or_else(|_| EnvFilter::new(format!("{level_default},async_nats=error")));
    let stderr = fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false).with_filter(filter());
    let daily = RollingFileAppender::builder().rotation(Rotation::DAILY).filename_prefix(format!("{program}.log")).max_log_files(DAYS_KEPT);
    // A folder that is not there or cannot be written must not keep a program from running: it speaks on stderr.
    let (file, guard) = match folder.filter(|folder| folder.is_dir()).map(|folder| daily.build(folder)) {
        Some(Ok(appender)) => {
            let (writer, guard) = tracing_appender::non_blocking(appender);
            let filter = EnvFilter::try_from_env("MESH_LOG").unwrap_or_else(|_| EnvFilter::new("info,async_nats=error"));
            (Some(fmt::layer().json().with_writer(writer).with_filter(filter)), Some(guard))
        }
        Some(Err(_)) | None => (None, None),
    };
    // A second call (in a test) keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(stderr).with(file).try_init();
    Logs(guard)
}

/// Installs the metrics recorder; `mesh_build_info` says which program and version this is.
///
/// # Errors
/// Where one is installed already.
pub fn metrics(program: &'static str, version: &'static str) -> anyhow::Result<PrometheusHandle> {
    let seconds = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];
    let handle = PrometheusBuilder::new().set_buckets(&seconds)?.install_recorder()?;
    metrics::gauge!("mesh_build_info", "program" => program, "version" => version).set(1.0);
    Ok(handle)
}

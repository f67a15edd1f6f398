//! The hub's log: readable lines with fields on standard error, or JSON; in a file too if asked.

mod python;

use std::fs::{File, OpenOptions};
use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::Context as _;
use orrery_hub::config::{Application, Config, LogLevel};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt as _};

use python::Lines;

/// What is logged, to be changed while the program runs.
pub(crate) struct Level(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send>);

impl Level {
    /// From now on this level, unless `ORRERY_LOG` is set.
    pub(crate) fn set(&self, level: LogLevel) {
        if is_chosen_by_environment() {
            return;
        }
        if let Err(error) = (self.0)(EnvFilter::new(directives(level))) {
            tracing::error!(error, "the log level could not be changed");
        }
    }
}

fn is_chosen_by_environment() -> bool {
    std::env::var("ORRERY_LOG").is_ok_and(|directives| !directives.is_empty())
}

/// Starts logging. `ORRERY_LOG` (`info,orrery_hub=debug`) is stronger than the level.
pub(crate) fn start(options: &Application, file: &str, json: bool) -> anyhow::Result<Level> {
    let level = options.log_level;
    let defaults = Config::with_defaults().application;
    let lines = Lines::configured(
        &options.log_format,
        &options.log_datefmt,
        (&defaults.log_format, &defaults.log_datefmt),
    )?;
    let filter = match std::env::var("ORRERY_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::try_new(&directives)
            .with_context(|| format!("ORRERY_LOG={directives:?} is not a log filter"))?,
        _ => EnvFilter::new(directives(level)),
    };
    let writer = match file {
        "" => BoxMakeWriter::new(std::io::stderr),
        path => BoxMakeWriter::new(std::io::stderr.and(Arc::new(open(path)?))),
    };
    let colours = file.is_empty() && std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        // It would be told on standard error, which ends the program where that is on the full disk.
        .log_internal_errors(false)
        .with_ansi(colours);
    let reload: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send> = if json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
    } else if let Some(lines) = lines {
        let builder = builder.event_format(lines).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
    } else {
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
    };
    Ok(Level(reload))
}

/// What libraries say below a warning is not for operators, unless everything is asked for. The store
/// itself says when connections are lost, once and not for each.
fn directives(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => {
            "info,sqlx_core::pool=error,orrery=debug,orrery_hub=debug,orrery_store=debug,orrery_spawners=debug,orrery_authenticators=debug,orrery_bridge=debug"
        }
        LogLevel::Info => {
            "warn,sqlx_core::pool=error,orrery=info,orrery_hub=info,orrery_store=info,orrery_spawners=info,orrery_authenticators=info,orrery_bridge=info"
        }
        LogLevel::Warn => "warn,sqlx_core::pool=error",
        LogLevel::Error | LogLevel::Critical => "error",
    }
}

fn open(path: &str) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write the log file {path}"))
}

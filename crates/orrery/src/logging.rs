//! The hub's log: readable lines with fields on standard error, or JSON; in a file too if asked.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::Context as _;
use orrery_hub::config::LogLevel;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt as _};

/// Starts logging. `ORRERY_LOG` (`info,orrery_hub=debug`) is stronger than the level.
pub(crate) fn start(level: LogLevel, file: &str, json: bool) -> anyhow::Result<()> {
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
        .with_ansi(colours);
    if json {
        builder.json().flatten_event(true).init();
    } else {
        builder.init();
    }
    Ok(())
}

/// What libraries say below a warning is not for operators, unless everything is asked for.
fn directives(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => {
            "info,orrery=debug,orrery_hub=debug,orrery_store=debug,orrery_spawners=debug,orrery_authenticators=debug,orrery_bridge=debug"
        }
        LogLevel::Info => {
            "warn,orrery=info,orrery_hub=info,orrery_store=info,orrery_spawners=info,orrery_authenticators=info,orrery_bridge=info"
        }
        LogLevel::Warn => "warn",
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

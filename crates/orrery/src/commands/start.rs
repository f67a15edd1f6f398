//! `orrery`: starts the hub.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use orrery_core::SystemClock;
use orrery_hub::Setup;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{checked, refuse};
use crate::logging;
use crate::registry::{self, Chosen};
use crate::sources::Sources;

/// Checks the configuration, starts logging, and runs the hub until it ends or a signal asks for it.
pub(super) async fn run(mut loaded: Sources, log_json: bool) -> anyhow::Result<()> {
    let mut warnings = checked(&mut loaded.tree)?;
    let chosen = match registry::choose(&loaded.tree) {
        Ok(chosen) => chosen,
        Err(problems) => return refuse(&problems),
    };
    let config = &chosen.config;
    logging::start(
        config.application.log_level,
        &config.hub.extra_log_file,
        log_json,
    )?;
    for file in &loaded.files {
        tracing::info!(file = %file.display(), "configuration read");
    }
    warnings.extend(loaded.warnings);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    Box::pin(orrery_hub::run(setup(chosen)?, stop)).await?;
    Ok(())
}

/// All that the hub is given, around the chosen configuration and backends.
pub(super) fn setup(chosen: Chosen) -> anyhow::Result<Setup> {
    let Chosen {
        config,
        spawner,
        authenticator,
    } = chosen;
    Ok(Setup {
        config,
        spawner,
        authenticator,
        clock: Arc::new(SystemClock),
        program: std::env::current_exe().context("this program's own path cannot be found")?,
        hostname: hostname()?,
        environment: environment(),
    })
}

/// Signals that come this soon after the first one are the same wish to stop.
const SAME_WISH: Duration = Duration::from_secs(1);

/// SIGTERM and SIGINT stop the hub in order; a second one, a moment later, ends it at once.
fn stop_on_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut first = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
                _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
            }
            // Supervisors and shells signal a process and then its group: that is one wish, not two.
            let is_repeated = first.is_some_and(|first: Instant| first.elapsed() > SAME_WISH);
            if stop.is_cancelled() && is_repeated {
                tracing::warn!("a second signal: ending at once");
                std::process::exit(1);
            }
            first.get_or_insert_with(Instant::now);
            stop.cancel();
        }
    });
    Ok(())
}

fn hostname() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("this machine's name cannot be found")?;
    Ok(name.to_string_lossy().into_owned())
}

/// The environment; what is not UTF-8 is of no use to the hub.
fn environment() -> std::collections::BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

//! `orrery`: starts the hub.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use orrery_core::{Clock as _, SystemClock};
use orrery_hub::Setup;
use orrery_hub::certs::InternalCertificates;
use orrery_hub::config::Config;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::reload::Source;
use super::{checked, refuse};
use crate::cli::Invocation;
use crate::logging;
use crate::registry::{self, Chosen};
use crate::sources::Sources;

/// Checks the configuration, starts logging, and runs the hub until it ends or a signal asks for it.
pub(super) async fn run(
    invocation: Invocation,
    mut loaded: Sources,
    log_json: bool,
) -> anyhow::Result<()> {
    let mut warnings = checked(&mut loaded.tree)?;
    let chosen = match registry::choose(&loaded.tree) {
        Ok(chosen) => chosen,
        Err(problems) => return refuse(&problems),
    };
    let config = &chosen.config;
    let level = logging::start(&config.application, &config.hub.extra_log_file, log_json)?;
    for file in &loaded.files {
        tracing::info!(file = %file.display(), "configuration read");
    }
    warnings.extend(loaded.warnings);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    if config.hub.generate_certs {
        return generate_certs(&chosen.config);
    }
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    // From now on the signal waits until the hub runs, instead of ending it.
    let hangup = signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?;
    let source = Source::new(hangup, invocation, level, loaded.tree);
    let running = orrery_hub::run_and_reload(setup(chosen)?, stop, Some(Box::new(source)));
    Box::pin(running).await?;
    Ok(())
}

/// `--generate-certs`: makes what `internal_ssl` needs and is not there, and ends.
fn generate_certs(config: &Config) -> anyhow::Result<()> {
    if !config.hub.internal_ssl {
        tracing::warn!("set JupyterHub.internal_ssl = True for these certificates to be used");
    }
    let made = InternalCertificates::open(config, &hostname()?, SystemClock.now())?;
    tracing::info!(folder = %made.folder().display(), "the certificates are written");
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

/// SIGTERM and SIGINT stop the hub in order; a second one, a moment later, ends it at once. SIGUSR1,
/// by which JupyterHub's operators ask for a sign of life, gets one in the log.
fn stop_on_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let mut status = signal(SignalKind::user_defined1()).context("cannot listen to SIGUSR1")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut first = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
                _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
                _ = status.recv() => {
                    let is_stopping = stop.is_cancelled();
                    tracing::info!(pid = std::process::id(), is_stopping, "SIGUSR1: the hub is alive");
                    continue;
                }
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

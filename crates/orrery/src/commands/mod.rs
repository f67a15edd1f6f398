//! The commands, one file each, and what runs them.

mod docs;
mod generate_config;
mod reload;
mod show_config;
mod start;
mod token;
mod upgrade_db;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use nix::sys::stat::Mode;
use orrery_core::config::{OptionValue as _, Problem, Setting, Tree};
use orrery_hub::JUPYTERHUB_VERSION;

use crate::cli::{self, Action, HubFlags, Invocation};
use crate::output::say;
use crate::{registry, render, sources};

/// The version of configurable-http-proxy whose options and answers the proxy has.
const CHP_VERSION: &str = "5.3.0";

/// Does what the command line asks for.
pub(crate) fn run(invocation: &Invocation) -> anyhow::Result<ExitCode> {
    match &invocation.action {
        // What configurable-http-proxy prints: its version alone.
        Action::Version("configurable-http-proxy") => say(&format!("{CHP_VERSION}\n"))?,
        Action::Version("jupyterhub") => say(&format!("{JUPYTERHUB_VERSION}\n"))?,
        Action::Version(_) => {
            say(&format!(
                "orrery {} (JupyterHub {JUPYTERHUB_VERSION})\n",
                env!("CARGO_PKG_VERSION")
            ))?;
        }
        Action::Completions { shell, name } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut cli::command(name), *name, &mut script);
            say(&String::from_utf8(script)?)?;
        }
        Action::Docs(flags) => return docs::run(flags),
        Action::Proxy(flags) => {
            if let Some(umask) = flags.umask {
                nix::sys::stat::umask(Mode::from_bits_truncate(umask));
            }
            runtime()?.block_on(orrery_proxy::run(flags.options.clone()))?;
        }
        Action::Token { name } => runtime()?.block_on(token::run(invocation, name.as_deref()))?,
        Action::UpgradeDb { dry_run } => {
            runtime()?.block_on(upgrade_db::run(invocation, *dry_run))?;
        }
        Action::Hub(flags) => return hub(invocation, flags),
    }
    Ok(ExitCode::SUCCESS)
}

fn hub(invocation: &Invocation, flags: &HubFlags) -> anyhow::Result<ExitCode> {
    if flags.help_all {
        say(&format!(
            "{}\n{}",
            cli::help(),
            render::help_all(&registry::catalog())
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    if is_on(&invocation.settings, "JupyterHub", "generate_config") {
        return generate_config::run(invocation);
    }
    runtime()?.block_on(async {
        let loaded = sources::load(invocation).await?;
        if shown(&loaded.tree, "show_config_json") {
            show_config::as_json(&loaded)?;
        } else if shown(&loaded.tree, "show_config") {
            show_config::as_text(&loaded)?;
        } else {
            let invocation = Invocation {
                settings: invocation.settings.clone(),
                arguments: invocation.arguments.clone(),
                // Only its settings are read again.
                action: Action::Version("orrery"),
            };
            Box::pin(start::run(invocation, loaded, flags.log_json)).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn shown(tree: &Tree, option: &str) -> bool {
    is_on(tree, "Application", option) || is_on(tree, "JupyterHub", option)
}

/// Whether a source sets this true, before anything is checked.
fn is_on(tree: &Tree, class: &str, option: &str) -> bool {
    match tree.get(class, option).map(|entry| &entry.setting) {
        Some(Setting::Value(value)) => bool::from_value(value).unwrap_or(false),
        _ => false,
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}

/// Checks a merged tree: moves deprecated options, refuses unknown ones. Returns sentences for the
/// log.
fn checked(tree: &mut Tree) -> anyhow::Result<Vec<String>> {
    let catalog = registry::catalog();
    let mut warnings = catalog.move_deprecated(tree);
    let findings = catalog.check(tree);
    warnings.extend(findings.warnings);
    refuse(&findings.problems)?;
    Ok(warnings)
}

/// Makes one error of all problems, if there are any.
fn refuse(problems: &[Problem]) -> anyhow::Result<()> {
    match problems {
        [] => Ok(()),
        [problem] => bail!("{problem}"),
        problems => {
            let lines: Vec<_> = problems
                .iter()
                .map(|problem| format!("\n  - {problem}"))
                .collect();
            bail!("the configuration cannot be used:{}", lines.concat())
        }
    }
}

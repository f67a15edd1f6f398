//! `orrery --generate-config`: writes a configuration file with every option.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::is_on;
use crate::cli::Invocation;
use crate::output::say;
use crate::{registry, render, sources};

pub(super) fn run(invocation: &Invocation) -> anyhow::Result<ExitCode> {
    let path =
        sources::named_file(invocation)?.unwrap_or_else(|| PathBuf::from("jupyterhub_config.py"));
    if path.extension().is_none_or(|extension| extension != "py") {
        bail!(
            "--generate-config writes Python: the file {} must end in .py",
            path.display()
        );
    }
    let folder = std::path::absolute(&path)?
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    if !folder.is_dir() {
        bail!(
            "the folder {} does not exist: make it first",
            folder.display()
        );
    }
    if path.exists()
        && !is_on(&invocation.settings, "JupyterHub", "answer_yes")
        && !may_overwrite(&path)?
    {
        bail!(
            "{} exists and was left as it is: name another file with -f, or add -y to overwrite it",
            path.display()
        );
    }
    say(&format!("Writing default config to: {}\n", path.display()))?;
    std::fs::write(&path, render::config_file(&registry::catalog()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Asks, if there is somebody to ask.
fn may_overwrite(path: &Path) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(false);
    }
    loop {
        say(&format!(
            "Overwrite {} with default config? [y/N] ",
            path.display()
        ))?;
        std::io::stdout().flush()?;
        let mut answer = String::new();
        if stdin.read_line(&mut answer)? == 0 {
            return Ok(false);
        }
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => return Ok(true),
            "" | "n" | "no" => return Ok(false),
            _ => say("Please answer yes or no.\n")?,
        }
    }
}

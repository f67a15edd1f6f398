//! `orrery docs`, hidden: writes the generated pages of docs/reference, or checks them.

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::cli::DocsFlags;
use crate::{registry, render};

pub(super) fn run(flags: &DocsFlags) -> anyhow::Result<ExitCode> {
    let catalog = registry::catalog();
    let pages = [
        ("options.md", render::options_page(&catalog)),
        ("audit-actions.md", orrery_hub::audit::page()),
        ("not-supported-yet.md", render::not_supported_page(&catalog)),
        (
            "api.md",
            orrery_hub::openapi::page(orrery_hub::api::routes().described()),
        ),
    ];
    for (name, text) in pages {
        let path = flags.folder.join(name);
        if flags.write {
            std::fs::write(&path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        } else if std::fs::read_to_string(&path).unwrap_or_default() != text {
            bail!("{} is not fresh: run `orrery docs --write`", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

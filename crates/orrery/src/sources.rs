//! The sources of the configuration: files in Python, JSON or TOML, then the command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use orrery_bridge::ConfigRequest;
use orrery_core::config::{Origin, Setting, Tree, Value};

use crate::cli::Invocation;

/// How long a Python configuration may run.
const PYTHON_DEADLINE: Duration = Duration::from_mins(2);

/// No configuration file is larger; a larger one is something else.
const LARGEST_FILE: u64 = 16 * 1024 * 1024;

/// The file that is read if none is named.
const DEFAULT_FILE: &str = "jupyterhub_config.py";

/// What all sources together say.
pub(crate) struct Sources {
    /// The settings, merged.
    pub(crate) tree: Tree,
    /// The files that were read, in order.
    pub(crate) files: Vec<PathBuf>,
    /// Sentences for the log.
    pub(crate) warnings: Vec<String>,
}

/// The configuration file that the command line names, if it does.
pub(crate) fn named_file(invocation: &Invocation) -> anyhow::Result<Option<PathBuf>> {
    match invocation
        .settings
        .get("JupyterHub", "config_file")
        .map(|entry| &entry.setting)
    {
        Some(Setting::Value(Value::Text(path))) => Ok(Some(path.into())),
        Some(_) => bail!("JupyterHub.config_file must be a path"),
        None => Ok(None),
    }
}

/// Reads all sources.
pub(crate) async fn load(invocation: &Invocation) -> anyhow::Result<Sources> {
    let named = named_file(invocation)?;
    if let Some(file) = named.as_deref()
        && !file.is_file()
    {
        bail!(
            "the configuration file {} does not exist: name another with -f, or write one with \
             `orrery --generate-config -f {}`",
            file.display(),
            file.display()
        );
    }
    let mut sources = Sources {
        tree: Tree::default(),
        files: Vec::new(),
        warnings: Vec::new(),
    };
    for file in candidates(named.as_deref().unwrap_or(Path::new(DEFAULT_FILE)))? {
        if !file.is_file() {
            continue;
        }
        let tree = read_file(&file, invocation, &mut sources.warnings).await?;
        sources
            .tree
            .merge(tree)
            .with_context(|| format!("{} does not fit the files before it", file.display()))?;
        sources.files.push(std::path::absolute(&file)?);
    }
    sources.tree.merge(invocation.settings.clone())?;
    Ok(sources)
}

/// traitlets reads `name.py` and then `name.json` beside it, whichever of the two is named.
fn candidates(file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("py" | "json") => Ok(vec![file.with_extension("py"), file.with_extension("json")]),
        Some("toml") => Ok(vec![file.to_owned()]),
        _ => bail!(
            "the configuration file {} must end in .py, .json or .toml",
            file.display()
        ),
    }
}

async fn read_file(
    file: &Path,
    invocation: &Invocation,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Tree> {
    let origin = Origin::File(file.display().to_string());
    let value = match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => {
            let text = read_text(file)?;
            serde_json::from_str(&text)
                .with_context(|| format!("{} is not valid JSON", file.display()))?
        }
        Some("toml") => {
            let text = read_text(file)?;
            let table: toml::Table = toml::from_str(&text).map_err(|error| {
                anyhow::anyhow!(
                    "{} is not valid TOML: {}",
                    file.display(),
                    toml_error(&text, &error)
                )
            })?;
            serde_json::to_value(plain_toml(toml::Value::Table(table)))?
        }
        _ => return run_python(file, invocation, warnings).await,
    };
    let serde_json::Value::Object(sections) = value else {
        bail!(
            "{} must hold an object of classes, such as {{\"JupyterHub\": {{\"port\": 8000}}}}",
            file.display()
        );
    };
    let mut tree = Tree::default();
    for (class, options) in sections {
        match options {
            serde_json::Value::Object(options) if class.starts_with(char::is_uppercase) => {
                tree.mention(&class);
                for (option, value) in options {
                    tree.set(
                        &class,
                        &option,
                        Setting::Value(Value::from_json(&value)),
                        origin.clone(),
                    )?;
                }
            }
            // traitlets lets a JSON file tell its format's version.
            _ if class == "version" => {}
            _ => warnings.push(format!(
                "{class:?} in {} has no effect: it is not a class",
                file.display()
            )),
        }
    }
    Ok(tree)
}

fn read_text(file: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot read the configuration file {}", file.display());
    if std::fs::metadata(file).with_context(cannot)?.len() > LARGEST_FILE {
        bail!(
            "the configuration file {} is larger than 16 MB",
            file.display()
        );
    }
    std::fs::read_to_string(file).with_context(cannot)
}

/// One line of what the TOML parser says, with the line's number.
fn toml_error(text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .map(|span| text[..span.start.min(text.len())].lines().count().max(1));
    match line {
        Some(line) => format!("line {line}: {}", error.message()),
        None => error.message().to_owned(),
    }
}

/// TOML has dates, JSON has none: they become text.
fn plain_toml(value: toml::Value) -> toml::Value {
    match value {
        toml::Value::Datetime(datetime) => toml::Value::String(datetime.to_string()),
        toml::Value::Array(items) => {
            toml::Value::Array(items.into_iter().map(plain_toml).collect())
        }
        toml::Value::Table(items) => toml::Value::Table(
            items
                .into_iter()
                .map(|(key, item)| (key, plain_toml(item)))
                .collect(),
        ),
        other => other,
    }
}

async fn run_python(
    file: &Path,
    invocation: &Invocation,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Tree> {
    let request = ConfigRequest {
        python: orrery_bridge::python_program(|name| std::env::var_os(name)),
        file: file.to_owned(),
        arguments: invocation.arguments.clone(),
        deadline: PYTHON_DEADLINE,
    };
    let answer = orrery_bridge::run_config(&request)
        .await
        .with_context(|| format!("the configuration file {} cannot be used", file.display()))?;
    for name in answer.stray {
        warnings.push(format!(
            "c.{name} in {} has no effect: options belong to a class",
            file.display()
        ));
    }
    Ok(answer.tree)
}

//! The template engine: a site's own directories first, then the templates in the binary.
//!
//! As in JupyterHub, `templates/x.html` always means the built-in `x.html`, so that a site's
//! `home.html` can extend the one it replaces. Values are escaped as Jinja2 with `MarkupSafe`
//! escapes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::syntax::{SyntaxConfig, SyntaxConfigBuilder};
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, TemplateSource};
use rust_embed::RustEmbed;
use serde_json::{Map, Value as Json};

use super::{filters, static_files};

#[derive(RustEmbed)]
#[folder = "../../templates"]
struct BuiltIn;

/// What `{% extends "templates/…" %}` begins with.
const BUILT_IN_PREFIX: &str = "templates/";

/// All templates, compiled once. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    broken: Vec<String>,
}

impl Templates {
    /// Looks in `template_paths` (`JupyterHub.template_paths`) before the built-in templates, and
    /// gives every template the values of `JupyterHub.template_vars`.
    ///
    /// A site's template that does not compile is reported now, in the log, and again as an error of
    /// the page that needs it; the hub starts all the same, since its API does not depend on it.
    pub fn new(
        template_paths: &[PathBuf],
        template_vars: &Map<String, Json>,
    ) -> Result<Self, Error> {
        Self::with_options(template_paths, template_vars, &BTreeMap::new())
    }

    /// As [`Templates::new`], with `JupyterHub.jinja_environment_options`.
    pub fn with_options(
        template_paths: &[PathBuf],
        template_vars: &Map<String, Json>,
        options: &BTreeMap<String, Json>,
    ) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let mut syntax = SyntaxConfig::builder();
        for (name, value) in options {
            set_option(&mut environment, &mut syntax, name, value)?;
        }
        environment.set_syntax(syntax.build()?);
        environment.set_formatter(format_markup);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        minijinja_contrib::add_to_environment(&mut environment);
        filters::add_to_environment(&mut environment);
        environment.add_function("static_url", static_url);
        for (name, value) in template_vars {
            environment.add_global(name.clone(), Value::from(Serde(value)));
        }
        environment.set_loader(loader(template_paths.to_vec()));

        for name in BuiltIn::iter() {
            environment.get_template(&format!("{BUILT_IN_PREFIX}{name}"))?;
        }
        let mut broken = Vec::new();
        for directory in template_paths {
            report_broken_templates(&environment, directory, &mut broken);
        }
        Ok(Self {
            environment,
            broken,
        })
    }

    /// The site's own templates that did not compile when these were loaded, each with its reason.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// Renders `name` with `context`.
    pub fn render(&self, name: &str, context: impl Into<Value>) -> Result<String, Error> {
        self.environment.get_template(name)?.render(context)
    }

    /// Renders the page of an HTTP status: `404.html` and the like when there is one, `error.html`
    /// otherwise.
    pub fn render_status(&self, status: u16, context: impl Into<Value>) -> Result<String, Error> {
        let template = match self.environment.get_template(&format!("{status}.html")) {
            Err(error) if error.kind() == ErrorKind::TemplateNotFound => {
                self.environment.get_template("error.html")?
            }
            other => other?,
        };
        template.render(context)
    }

    /// Renders a piece of text that is itself a template, such as `Authenticator.custom_html`.
    pub fn render_text(&self, text: &str, context: impl Into<Value>) -> Result<String, Error> {
        self.environment.render_named_str("<text>", text, context)
    }

    /// The names of the built-in templates.
    pub fn built_in() -> impl Iterator<Item = String> {
        BuiltIn::iter().map(std::borrow::Cow::into_owned)
    }
}

/// One of Jinja's arguments (`JupyterHub.jinja_environment_options`).
fn set_option(
    environment: &mut Environment<'static>,
    syntax: &mut SyntaxConfigBuilder,
    name: &str,
    value: &Json,
) -> Result<(), Error> {
    let refused = |why: &str| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("JupyterHub.jinja_environment_options: {name} {why}"),
        )
    };
    let truth = || {
        value
            .as_bool()
            .ok_or_else(|| refused("must be true or false"))
    };
    match name {
        "trim_blocks" => _ = syntax.trim_blocks(truth()?),
        "lstrip_blocks" => _ = syntax.lstrip_blocks(truth()?),
        "keep_trailing_newline" => _ = syntax.keep_trailing_newline(truth()?),
        "autoescape" => {
            let escape = if truth()? {
                AutoEscape::Html
            } else {
                tracing::warn!(
                    "JupyterHub.jinja_environment_options: without autoescape, templates must escape names themselves"
                );
                AutoEscape::None
            };
            environment.set_auto_escape_callback(move |_| escape.clone());
        }
        "cache_size" | "auto_reload" | "enable_async" | "optimized" => {}
        _ => return Err(refused("is not supported")),
    }
    Ok(())
}

fn loader(
    paths: Vec<PathBuf>,
) -> impl Fn(&str) -> Result<Option<TemplateSource>, Error> + Send + Sync + 'static {
    type OneDirectory = Box<dyn Fn(&str) -> Result<Option<TemplateSource>, Error> + Send + Sync>;
    let directories: Vec<OneDirectory> = paths
        .iter()
        .map(|path| Box::new(minijinja::path_loader(path)) as OneDirectory)
        .collect();
    move |name| {
        if let Some(name) = name.strip_prefix(BUILT_IN_PREFIX)
            && let Some(source) = built_in_source(name)
        {
            return Ok(Some(TemplateSource::new(source)));
        }
        for directory in &directories {
            if let Some(source) = directory(name)? {
                return Ok(Some(source));
            }
        }
        let Some(source) = built_in_source(name) else {
            return Ok(None);
        };
        let source = TemplateSource::new(source);
        if paths.is_empty() {
            return Ok(Some(source));
        }
        // A file that a site adds later takes over, as a changed one does.
        let (paths, name) = (paths.clone(), name.to_owned());
        Ok(Some(source.with_uptodate_check(move || {
            !paths.iter().any(|path| path.join(&name).exists())
        })))
    }
}

fn built_in_source(name: &str) -> Option<String> {
    let file = BuiltIn::get(name)?;
    Some(String::from_utf8(file.data.into_owned()).expect("our own templates are UTF-8"))
}

fn report_broken_templates(
    environment: &Environment<'static>,
    directory: &Path,
    broken: &mut Vec<String>,
) {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "a directory of JupyterHub.template_paths cannot be read");
            return;
        }
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        if Path::new(&name)
            .extension()
            .is_none_or(|extension| extension != "html")
        {
            continue;
        }
        if let Err(error) = environment.get_template(&name) {
            broken.push(format!(
                "{} does not compile: {error:#}",
                directory.join(&name).display()
            ));
            tracing::warn!(template = %directory.join(&name).display(), error = %format!("{error:#}"), "a template does not compile; its page will fail");
        }
    }
}

/// `static_url(path, include_version=True)`: the address of a built-in asset.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine hands its arguments over so"
)]
fn static_url(
    state: &State<'_, '_>,
    path: &str,
    include_version: Option<bool>,
    options: minijinja::value::Kwargs,
) -> Result<String, Error> {
    let named: Option<bool> = options.get("include_version")?;
    options.assert_all_used()?;
    let base = state.lookup("base_url");
    let base = base.as_ref().and_then(Value::as_str).unwrap_or("/hub/");
    let mut url = format!("{base}static/{path}");
    if named.or(include_version).unwrap_or(true)
        && let Some(version) = static_files::version(path)
    {
        url.push_str("?v=");
        url.push_str(&version);
    }
    Ok(url)
}

/// Writes a value as Jinja2 does: `None`, `True` and `False` in Python's spelling, everything but
/// safe strings escaped.
fn format_markup(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let escape = !matches!(state.auto_escape(), AutoEscape::None) && !value.is_safe();
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::None => out.write_str("None").map_err(Error::from),
        ValueKind::Bool => out
            .write_str(if value.is_true() { "True" } else { "False" })
            .map_err(Error::from),
        ValueKind::Number => write!(out, "{value}").map_err(Error::from),
        _ => match (value.as_str(), escape) {
            (Some(text), false) => out.write_str(text).map_err(Error::from),
            (Some(text), true) => filters::write_escaped(out, text).map_err(Error::from),
            (None, false) => write!(out, "{value}").map_err(Error::from),
            (None, true) => filters::write_escaped(out, &value.to_string()).map_err(Error::from),
        },
    }
}

#[cfg(test)]
mod tests;

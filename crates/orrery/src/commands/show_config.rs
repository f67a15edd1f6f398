//! `orrery --show-config` and `--show-config-json`: what all sources together say, secrets hidden.

use std::fmt::Write as _;

use orrery_core::config::{Entry, Setting, Value};

use crate::output::say;
use crate::registry;
use crate::sources::Sources;

/// What stands in the place of a secret.
const HIDDEN: &str = "<hidden>";

/// Classes, options and values, for people.
pub(super) fn as_text(loaded: &Sources) -> anyhow::Result<()> {
    let mut text = String::new();
    if !loaded.files.is_empty() {
        text.push_str("Loaded config files:\n");
        for file in &loaded.files {
            add(&mut text, format_args!("  {}\n", file.display()));
        }
        text.push('\n');
    }
    for (class, options) in visible(loaded) {
        add(&mut text, format_args!("{class}\n"));
        for (option, entry) in options {
            add(
                &mut text,
                format_args!(
                    "  .{option} = {}\n",
                    described(&class, &option, &entry).to_python()
                ),
            );
        }
    }
    say(&text)
}

fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more)
        .expect("writing to a String cannot fail");
}

/// The same as JSON.
pub(super) fn as_json(loaded: &Sources) -> anyhow::Result<()> {
    let classes: serde_json::Map<_, _> = visible(loaded)
        .into_iter()
        .map(|(class, options)| {
            let options = options.into_iter().map(|(option, entry)| {
                let value = described(&class, &option, &entry).to_json();
                (option, value)
            });
            (class.clone(), serde_json::Value::Object(options.collect()))
        })
        .collect();
    say(&format!("{}\n", serde_json::to_string_pretty(&classes)?))
}

type Section = (String, Vec<(String, Entry)>);

/// All sections that set something, without the flag that asked for this.
fn visible(loaded: &Sources) -> Vec<Section> {
    let flags = ["show_config", "show_config_json"];
    loaded
        .tree
        .sections()
        .map(|(class, options)| {
            let options = options
                .iter()
                .filter(|(option, _)| !flags.contains(&option.as_str()))
                .map(|(option, entry)| (option.clone(), entry.clone()));
            (class.to_owned(), options.collect::<Vec<_>>())
        })
        .filter(|(_, options)| !options.is_empty())
        .collect()
}

/// The value to show: lazy operations are done on the default, or on nothing if that is unknown.
fn described(class: &str, option: &str, entry: &Entry) -> Value {
    let catalog = registry::catalog();
    let spec = catalog
        .class(class)
        .and_then(|class| catalog.option(class, option))
        .map(|(_, spec)| spec);
    if spec.is_some_and(|spec| spec.secret) {
        return HIDDEN.into();
    }
    let value = match &entry.setting {
        Setting::Value(value) => value.clone(),
        Setting::Lazy(lazy) => {
            let start = spec.map_or_else(|| Value::List(Vec::new()), |spec| (spec.default)());
            lazy.apply(start)
                .unwrap_or_else(|error| error.to_string().into())
        }
    };
    without_secrets(option, value)
}

/// Hides tokens and passwords inside of a value, and the password of a URL.
fn without_secrets(name: &str, value: Value) -> Value {
    let secret = ["token", "password", "secret"]
        .iter()
        .any(|word| name.to_lowercase().contains(word));
    match value {
        Value::Text(_) | Value::Bytes(_) if secret && name != "cookie_secret_file" => HIDDEN.into(),
        Value::Text(text) => Value::Text(without_password(&text)),
        Value::Dict(items) => Value::Dict(
            items
                .into_iter()
                .map(|(key, item)| (key.clone(), without_secrets(&key, item)))
                .collect(),
        ),
        Value::List(items) => Value::List(
            items
                .into_iter()
                .map(|item| without_secrets(name, item))
                .collect(),
        ),
        Value::Set(items) => Value::Set(
            items
                .into_iter()
                .map(|item| without_secrets(name, item))
                .collect(),
        ),
        other => other,
    }
}

fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority
        .rsplit_once('@')
        .and_then(|(user, host)| Some((user.split_once(':')?.0, host)))
    {
        Some((user, host)) => format!(
            "{scheme}://{user}:{HIDDEN}@{host}{}",
            &rest[authority.len()..]
        ),
        None => text.to_owned(),
    }
}

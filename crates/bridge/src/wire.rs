//! The JSON that the Python side writes, and the values it stands for.

use std::collections::BTreeMap;

use orrery_core::config::{Lazy, Setting, Value};
use serde::Deserialize;
use serde_json::Value as Json;

/// Everything that the Python side may answer to a configuration request.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Error(Failure),
    NoTraitlets {
        executable: String,
        message: String,
    },
    #[serde(untagged)]
    Config(Sections),
}

#[derive(Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) source: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Sections {
    pub(crate) sections: Vec<(String, Vec<(String, Assignment)>)>,
    pub(crate) stray: Vec<String>,
}

/// One option of a section.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Assignment {
    Value(Json),
    Lazy(Operations),
}

#[derive(Deserialize)]
pub(crate) struct Operations {
    extend: Vec<Json>,
    prepend: Vec<Json>,
    inserts: Vec<(i64, Json)>,
    update: Option<Json>,
}

impl Assignment {
    /// The setting, or `None` for an option that the file only looked at.
    pub(crate) fn into_setting(self) -> Option<Setting> {
        let operations = match self {
            Self::Value(json) => return Some(Setting::Value(value(&json))),
            Self::Lazy(operations) => operations,
        };
        let lazy = Lazy {
            extend: operations.extend.iter().map(value).collect(),
            prepend: operations.prepend.iter().map(value).collect(),
            inserts: operations
                .inserts
                .iter()
                .map(|(place, item)| (*place, value(item)))
                .collect(),
            update: operations.update.as_ref().map(value),
        };
        (lazy != Lazy::default()).then_some(Setting::Lazy(lazy))
    }
}

/// Reads a value with its tags; a tag that nobody knows is an object of that name.
pub(crate) fn value(json: &Json) -> Value {
    match json {
        Json::Array(items) => Value::List(items.iter().map(value).collect()),
        Json::Object(items) => match items.iter().next() {
            Some((tag, content)) => tagged(tag, content),
            None => Value::Dict(BTreeMap::new()),
        },
        plain => Value::from_json(plain),
    }
}

fn tagged(tag: &str, content: &Json) -> Value {
    let text = || content.as_str().unwrap_or_default().to_owned();
    match (tag, content) {
        ("$set", Json::Array(items)) => Value::Set(items.iter().map(value).collect()),
        ("$dict", Json::Array(pairs)) => Value::Dict(
            pairs
                .iter()
                .filter_map(|pair| {
                    let [key, item] = pair.as_array()?.as_slice() else {
                        return None;
                    };
                    Some((key.as_str()?.to_owned(), value(item)))
                })
                .collect(),
        ),
        ("$bytes", _) => Value::Bytes(from_hex(&text())),
        ("$float", _) => Value::Float(match text().as_str() {
            "inf" => f64::INFINITY,
            "-inf" => f64::NEG_INFINITY,
            _ => f64::NAN,
        }),
        ("$class", _) => Value::Class(text()),
        ("$callable", _) => Value::Callable(text()),
        ("$object", _) => Value::Object(text()),
        _ => Value::Object(tag.to_owned()),
    }
}

fn from_hex(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks_exact(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

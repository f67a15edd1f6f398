//! A configuration value: JSON with the few more shapes that a Python configuration holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A plain value as a configuration source gave it.
///
/// Sets are kept in insertion order and compared by the options that read them. Functions, classes
/// and other objects arrive as their names only: enough to say what is refused, or which class is
/// meant.
#[derive(Clone, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub enum Value {
    /// Python's `None`, JSON's `null`.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text.
    Text(String),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A list or tuple.
    List(Vec<Value>),
    /// A set, without order.
    Set(Vec<Value>),
    /// A dictionary with text keys.
    Dict(BTreeMap<String, Value>),
    /// A function, method or other callable, by its name.
    Callable(String),
    /// A class, by `module.Name`.
    Class(String),
    /// Any other object, by its type's name.
    Object(String),
}

impl Value {
    /// A list of texts.
    pub fn texts<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(
            items
                .into_iter()
                .map(|item| Self::Text(item.into()))
                .collect(),
        )
    }

    /// What kind of value this is, in the words of an error message.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "None".into(),
            Self::Bool(true) => "True".into(),
            Self::Bool(false) => "False".into(),
            Self::Int(number) => format!("the number {number}"),
            Self::Float(number) => format!("the number {number}"),
            Self::Text(text) => format!("the text {:?}", shorten(text, 60)),
            Self::Bytes(_) => "a byte string".into(),
            Self::List(items) => format!("a list of {}", counted(items.len())),
            Self::Set(items) => format!("a set of {}", counted(items.len())),
            Self::Dict(items) => format!("a dictionary of {}", counted(items.len())),
            Self::Callable(name) => format!("the function {name}"),
            Self::Class(name) => format!("the class {name}"),
            Self::Object(name) => format!("an object of type {name}"),
        }
    }

    /// The first callable in this value, however deep.
    pub fn callable(&self) -> Option<&str> {
        match self {
            Self::Callable(name) => Some(name),
            Self::List(items) | Self::Set(items) => items.iter().find_map(Self::callable),
            Self::Dict(items) => items.values().find_map(Self::callable),
            _ => None,
        }
    }

    /// The same value as Python would write it, for `--generate-config` and the reference pages.
    pub fn to_python(&self) -> String {
        match self {
            Self::Null => "None".into(),
            Self::Bool(true) => "True".into(),
            Self::Bool(false) => "False".into(),
            Self::Int(number) => number.to_string(),
            Self::Float(number) => format!("{number:?}"),
            Self::Text(text) => python_quoted(text),
            Self::Bytes(bytes) => format!("bytes.fromhex({})", python_quoted(&hex(bytes))),
            Self::List(items) => format!("[{}]", joined(items)),
            Self::Set(items) if items.is_empty() => "set()".into(),
            Self::Set(items) => format!("{{{}}}", joined(items)),
            Self::Dict(items) => {
                let pairs: Vec<_> = items
                    .iter()
                    .map(|(key, value)| format!("{}: {}", python_quoted(key), value.to_python()))
                    .collect();
                format!("{{{}}}", pairs.join(", "))
            }
            Self::Callable(name) | Self::Class(name) => name.clone(),
            Self::Object(name) => format!("<{name}>"),
        }
    }

    /// The same value as JSON; sets become lists, names of functions and classes become texts.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Int(number) => Json::from(*number),
            Self::Float(number) => Json::from(*number),
            Self::Text(text) => Json::String(text.clone()),
            Self::Bytes(bytes) => Json::String(hex(bytes)),
            Self::List(items) | Self::Set(items) => {
                Json::Array(items.iter().map(Self::to_json).collect())
            }
            Self::Dict(items) => Json::Object(
                items
                    .iter()
                    .map(|(key, value)| (key.clone(), value.to_json()))
                    .collect(),
            ),
            Self::Callable(name) | Self::Class(name) | Self::Object(name) => {
                Json::String(name.clone())
            }
        }
    }

    /// Reads JSON. Numbers too large for 64 bits become floats.
    pub fn from_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(whole) => Self::Int(whole),
                None => Self::Float(number.as_f64().unwrap_or(f64::INFINITY)),
            },
            Json::String(text) => Self::Text(text.clone()),
            Json::Array(items) => Self::List(items.iter().map(Self::from_json).collect()),
            Json::Object(items) => Self::Dict(
                items
                    .iter()
                    .map(|(key, value)| (key.clone(), Self::from_json(value)))
                    .collect(),
            ),
        }
    }

    /// Whether both stand for the same setting: `14` and `14.0` do, and so do sets in another order
    /// and a set given as a list.
    pub fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            #[expect(
                clippy::cast_precision_loss,
                reason = "settings of this size are no identifiers"
            )]
            (Self::Int(whole), Self::Float(number)) | (Self::Float(number), Self::Int(whole)) => {
                (*whole as f64 - number).abs() < f64::EPSILON
            }
            (Self::Set(left), Self::Set(right) | Self::List(right))
            | (Self::List(left), Self::Set(right)) => {
                left.len() == right.len()
                    && left
                        .iter()
                        .all(|item| right.iter().any(|other| item.same_as(other)))
            }
            (Self::List(left), Self::List(right)) => {
                left.len() == right.len()
                    && left
                        .iter()
                        .zip(right)
                        .all(|(item, other)| item.same_as(other))
            }
            (Self::Dict(left), Self::Dict(right)) => {
                left.len() == right.len()
                    && left.iter().all(|(key, value)| {
                        right.get(key).is_some_and(|other| value.same_as(other))
                    })
            }
            _ => self == other,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

fn joined(items: &[Value]) -> String {
    items
        .iter()
        .map(Value::to_python)
        .collect::<Vec<_>>()
        .join(", ")
}

fn counted(count: usize) -> String {
    if count == 1 {
        "1 item".into()
    } else {
        format!("{count} items")
    }
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most).chain(['…']).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

fn python_quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for character in text.chars() {
        match character {
            '\\' => quoted.push_str("\\\\"),
            '\'' => quoted.push_str("\\'"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_control() => {
                write!(quoted, "\\u{:04x}", u32::from(control))
                    .expect("writing to a String cannot fail");
            }
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

//! Kinds of options: how text of the command line becomes a value, and how a kind is called.

use super::{Value, parse_literal};

/// What an option holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// True or false.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Text.
    Text,
    /// Bytes, or text of hexadecimal digits.
    Bytes,
    /// A number of bytes, or text such as `1.5G`.
    ByteSize,
    /// A program and its arguments; a text is a program without arguments.
    Command,
    /// A URL path; slashes at both ends are added.
    UrlPrefix,
    /// A class by its short name or its full Python name.
    Class,
    /// A Python function.
    Callable,
    /// Anything.
    Any,
    /// One of a few words.
    OneOf(&'static [&'static str]),
    /// A list.
    List(&'static Kind),
    /// A set.
    Set(&'static Kind),
    /// A dictionary.
    Dict(&'static Kind),
    /// The same or `None`.
    Optional(&'static Kind),
}

impl Kind {
    /// The kind's name in help texts and reference pages, in traitlets' words.
    pub fn name(&self) -> String {
        match self {
            Self::Bool => "Bool".into(),
            Self::Int => "Int".into(),
            Self::Float => "Float".into(),
            Self::Text => "Unicode".into(),
            Self::Bytes => "Bytes".into(),
            Self::ByteSize => "ByteSpecification".into(),
            Self::Command => "Command".into(),
            Self::UrlPrefix => "URLPrefix".into(),
            Self::Class => "Class".into(),
            Self::Callable => "Callable".into(),
            Self::Any => "Any".into(),
            Self::OneOf(_) => "Enum".into(),
            Self::List(Self::Any) => "List".into(),
            Self::Set(Self::Any) => "Set".into(),
            Self::Dict(Self::Any) => "Dict".into(),
            Self::List(item) => format!("List of {}", item.name()),
            Self::Set(item) => format!("Set of {}", item.name()),
            Self::Dict(item) => format!("Dict of {}", item.name()),
            Self::Optional(kind) => format!("{} or None", kind.name()),
        }
    }

    /// What is expected, for an error message: "expected …".
    pub fn expected(&self) -> String {
        match self {
            Self::Bool => "True or False".into(),
            Self::Int => "a whole number".into(),
            Self::Float => "a number".into(),
            Self::Text | Self::UrlPrefix => "a text".into(),
            Self::Bytes => "bytes or a text of hexadecimal digits".into(),
            Self::ByteSize => "a number of bytes or a text such as '512M' or '1.5G'".into(),
            Self::Command => "a text or a list of texts".into(),
            Self::Class => "the name of a class".into(),
            Self::Callable => "a function".into(),
            Self::Any => "a value".into(),
            Self::OneOf(choices) => format!("one of {}", choices.join(", ")),
            Self::List(_) => "a list".into(),
            Self::Set(_) => "a set or a list".into(),
            Self::Dict(_) => "a dictionary".into(),
            Self::Optional(kind) => format!("{} or None", kind.expected()),
        }
    }

    /// Whether repeating the argument on the command line collects items.
    pub fn collects(&self) -> bool {
        match self {
            Self::Command | Self::List(_) | Self::Set(_) | Self::Dict(_) => true,
            Self::Optional(kind) => kind.collects(),
            _ => false,
        }
    }

    /// Reads the texts given for one option on the command line, as traitlets does: items of lists
    /// and sets one by one, items of dictionaries as `key=value`, or the whole as a Python literal.
    /// Of several texts for a plain option the last counts. `home` replaces a leading `~`.
    ///
    /// What cannot be read stays text; the option's type then says what it expected.
    pub fn read(&self, texts: &[String], home: Option<&str>) -> Value {
        let last = texts.last().map(String::as_str).unwrap_or_default();
        match self {
            Self::Optional(_) if last == "None" => Value::Null,
            Self::Optional(kind) => kind.read(texts, home),
            Self::Command | Self::List(_) | Self::Set(_) | Self::Dict(_) => {
                self.read_container(texts, home)
            }
            Self::Bool => match last.to_ascii_lowercase().as_str() {
                "true" | "1" => Value::Bool(true),
                "false" | "0" => Value::Bool(false),
                _ => Value::Text(last.to_owned()),
            },
            Self::Int | Self::ByteSize => match last.trim().replace('_', "").parse() {
                Ok(number) => Value::Int(number),
                Err(_) => Value::Text(last.to_owned()),
            },
            Self::Float => match last.trim().parse() {
                Ok(number) => Value::Float(number),
                Err(_) => Value::Text(last.to_owned()),
            },
            Self::Text | Self::UrlPrefix => {
                Value::Text(unquoted(&with_home(last, home)).to_owned())
            }
            Self::Bytes | Self::Class | Self::Callable | Self::Any | Self::OneOf(_) => {
                Value::Text(last.to_owned())
            }
        }
    }

    fn read_container(&self, texts: &[String], home: Option<&str>) -> Value {
        if let [whole] = texts
            && ["[]", "()", "{}"]
                .iter()
                .any(|pair| whole.starts_with(&pair[..1]) && whole.ends_with(&pair[1..]))
            && let Ok(value) = parse_literal(whole)
        {
            return value;
        }
        let items = |kind: &Kind| {
            texts
                .iter()
                .map(|text| kind.read(std::slice::from_ref(text), home))
                .collect()
        };
        match self {
            Self::Set(kind) => Value::Set(items(kind)),
            Self::List(kind) => Value::List(items(kind)),
            Self::Dict(kind) => {
                let pairs: Option<_> = texts
                    .iter()
                    .map(|text| {
                        let (key, value) = text.split_once('=')?;
                        Some((key.to_owned(), kind.read(&[value.to_owned()], home)))
                    })
                    .collect();
                pairs.map_or_else(|| Value::Text(texts.join(" ")), Value::Dict)
            }
            _ => Value::List(items(&Self::Text)),
        }
    }
}

fn with_home(text: &str, home: Option<&str>) -> String {
    match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            format!("{home}{rest}")
        }
        _ => text.to_owned(),
    }
}

fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote))
        {
            return inner;
        }
    }
    text
}

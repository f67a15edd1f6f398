//! The Rust types that options may have, and how each reads a value.

use std::collections::{BTreeMap, BTreeSet};

use super::{Kind, Value};
use crate::Secret;

/// A type that an option's field may have.
pub trait OptionValue: Sized {
    /// What the option holds.
    const KIND: Kind;
    /// Whether the value must never be shown.
    const SECRET: bool = false;

    /// Reads a value, as strictly as upstream's trait of this kind does.
    fn from_value(value: &Value) -> Result<Self, Misfit>;

    /// The value that reads back as `self`.
    fn to_value(&self) -> Value;
}

/// A value does not fit its option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Where inside the value, for instance `[2]['name']`; empty for the value itself.
    pub at: String,
    /// What was expected, as in "expected …".
    pub expected: String,
    /// What stands there, in words.
    pub found: String,
}

impl Misfit {
    /// `value` is not what `expected` says.
    pub fn new(expected: impl Into<String>, value: &Value) -> Self {
        Self {
            at: String::new(),
            expected: expected.into(),
            found: value.describe(),
        }
    }

    /// The same misfit, seen from the container.
    #[must_use]
    pub fn inside(mut self, place: &str) -> Self {
        self.at.insert_str(0, place);
        self
    }
}

impl OptionValue for bool {
    const KIND: Kind = Kind::Bool;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match value {
            Value::Bool(value) => Ok(*value),
            // traitlets takes the two numbers that Python's booleans are.
            Value::Int(0) => Ok(false),
            Value::Int(1) => Ok(true),
            other => Err(Misfit::new(Self::KIND.expected(), other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }
}

impl OptionValue for i64 {
    const KIND: Kind = Kind::Int;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match value {
            Value::Int(number) => Ok(*number),
            Value::Bool(value) => Ok(Self::from(*value)),
            other => Err(Misfit::new(Self::KIND.expected(), other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::Int(*self)
    }
}

impl OptionValue for f64 {
    const KIND: Kind = Kind::Float;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match value {
            Value::Float(number) => Ok(*number),
            #[expect(
                clippy::cast_precision_loss,
                reason = "Python's float() rounds as well"
            )]
            Value::Int(number) => Ok(*number as Self),
            Value::Bool(value) => Ok(Self::from(u8::from(*value))),
            other => Err(Misfit::new(Self::KIND.expected(), other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::Float(*self)
    }
}

impl OptionValue for String {
    const KIND: Kind = Kind::Text;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            Value::Bytes(bytes) => {
                Self::from_utf8(bytes.clone()).map_err(|_| Misfit::new("a text", value))
            }
            other => Err(Misfit::new(Self::KIND.expected(), other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl OptionValue for Secret {
    const KIND: Kind = Kind::Text;
    const SECRET: bool = true;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match String::from_value(value) {
            Ok(text) => Ok(Self::new(text)),
            Err(misfit) => Err(Misfit {
                found: "another kind of value".into(),
                ..misfit
            }),
        }
    }

    fn to_value(&self) -> Value {
        Value::Text(self.expose().to_owned())
    }
}

/// Anything at all, as JSON.
impl OptionValue for serde_json::Value {
    const KIND: Kind = Kind::Any;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        Ok(value.to_json())
    }

    fn to_value(&self) -> Value {
        Value::from_json(self)
    }
}

impl<T: OptionValue> OptionValue for Option<T> {
    const KIND: Kind = Kind::Optional(&T::KIND);
    const SECRET: bool = T::SECRET;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match value {
            Value::Null => Ok(None),
            other => T::from_value(other).map(Some),
        }
    }

    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_value)
    }
}

impl<T: OptionValue> OptionValue for Vec<T> {
    const KIND: Kind = Kind::List(&T::KIND);
    const SECRET: bool = T::SECRET;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        let (Value::List(items) | Value::Set(items)) = value else {
            return Err(Misfit::new(Self::KIND.expected(), value));
        };
        let read = |(index, item)| {
            T::from_value(item).map_err(|misfit: Misfit| misfit.inside(&format!("[{index}]")))
        };
        items.iter().enumerate().map(read).collect()
    }

    fn to_value(&self) -> Value {
        Value::List(self.iter().map(T::to_value).collect())
    }
}

impl OptionValue for BTreeSet<String> {
    const KIND: Kind = Kind::Set(&Kind::Text);

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match value {
            Value::List(items) | Value::Set(items) => {
                items.iter().map(String::from_value).collect()
            }
            other => Err(Misfit::new(Self::KIND.expected(), other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::Set(self.iter().map(|item| Value::Text(item.clone())).collect())
    }
}

impl<T: OptionValue> OptionValue for BTreeMap<String, T> {
    const KIND: Kind = Kind::Dict(&T::KIND);
    const SECRET: bool = T::SECRET;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        let Value::Dict(items) = value else {
            return Err(Misfit::new(Self::KIND.expected(), value));
        };
        items
            .iter()
            .map(|(key, item)| {
                let item =
                    T::from_value(item).map_err(|misfit| misfit.inside(&format!("[{key:?}]")))?;
                Ok((key.clone(), item))
            })
            .collect()
    }

    fn to_value(&self) -> Value {
        Value::Dict(
            self.iter()
                .map(|(key, item)| (key.clone(), item.to_value()))
                .collect(),
        )
    }
}

/// A program and its arguments. Empty where upstream allows that; the class checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command(pub Vec<String>);

impl Command {
    /// A command of these words.
    pub fn of<const N: usize>(words: [&str; N]) -> Self {
        Self(words.map(String::from).to_vec())
    }
}

impl OptionValue for Command {
    const KIND: Kind = Kind::Command;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        let words = match value {
            Value::Text(program) => vec![program.clone()],
            other => Vec::from_value(other).map_err(|misfit| match misfit.at.as_str() {
                "" => Misfit::new(Self::KIND.expected(), other),
                _ => misfit,
            })?,
        };
        Ok(Self(words))
    }

    fn to_value(&self) -> Value {
        Value::texts(self.0.iter().cloned())
    }
}

/// A number of bytes, given as a number or as text with one of the suffixes K, M, G, T (powers of
/// 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl OptionValue for ByteSize {
    const KIND: Kind = Kind::ByteSize;

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be positive; fractions of a byte are cut as upstream cuts them"
    )]
    fn from_value(value: &Value) -> Result<Self, Misfit> {
        let misfit = || Misfit::new(Self::KIND.expected(), value);
        match value {
            Value::Int(number) => u64::try_from(*number).map(Self).map_err(|_| misfit()),
            Value::Float(number) if *number >= 0.0 => Ok(Self(*number as u64)),
            Value::Text(text) => {
                let shift = match text.chars().last() {
                    Some('K') => 10,
                    Some('M') => 20,
                    Some('G') => 30,
                    Some('T') => 40,
                    _ => return Err(misfit()),
                };
                let number: f64 = text[..text.len() - 1]
                    .trim()
                    .parse()
                    .map_err(|_| misfit())?;
                if !number.is_finite() || number < 0.0 {
                    return Err(misfit());
                }
                Ok(Self((number * f64::from(2_u32).powi(shift)) as u64))
            }
            _ => Err(misfit()),
        }
    }

    fn to_value(&self) -> Value {
        Value::Int(i64::try_from(self.0).unwrap_or(i64::MAX))
    }
}

/// A URL path that starts and ends with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPrefix(String);

impl UrlPrefix {
    /// Adds the slashes that are missing.
    pub fn new(path: &str) -> Self {
        let start = if path.starts_with('/') { "" } else { "/" };
        let end = if path.ends_with('/') || path.is_empty() {
            ""
        } else {
            "/"
        };
        Self(format!("{start}{path}{end}"))
    }

    /// The path, with both slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl OptionValue for UrlPrefix {
    const KIND: Kind = Kind::UrlPrefix;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        String::from_value(value).map(|path| Self::new(&path))
    }

    fn to_value(&self) -> Value {
        Value::Text(self.0.clone())
    }
}

/// A class by its short name (`simple`) or its full Python name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRef(pub String);

impl OptionValue for ClassRef {
    const KIND: Kind = Kind::Class;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match value {
            Value::Text(name) | Value::Class(name) => Ok(Self(name.clone())),
            other => Err(Misfit::new(Self::KIND.expected(), other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::Text(self.0.clone())
    }
}

/// An option that takes a Python function and has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hook;

impl OptionValue for Hook {
    const KIND: Kind = Kind::Optional(&Kind::Callable);

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match value {
            Value::Null => Ok(Self),
            other => Err(Misfit::new(Self::KIND.expected(), other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::Null
    }
}

/// Tokens and whose they are (`{token: name}`). The tokens are secrets.
#[derive(Clone, Default)]
pub struct TokenMap(pub Vec<(Secret, String)>);

impl OptionValue for TokenMap {
    const KIND: Kind = Kind::Dict(&Kind::Text);
    const SECRET: bool = true;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        let Value::Dict(items) = value else {
            return Err(Misfit::new(Self::KIND.expected(), value));
        };
        items
            .iter()
            .map(|(token, name)| match name {
                Value::Text(name) => Ok((Secret::new(token.as_str()), name.clone())),
                other => Err(Misfit::new("a name for each token", other)),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn to_value(&self) -> Value {
        let pairs = self
            .0
            .iter()
            .map(|(token, name)| (token.expose().to_owned(), Value::Text(name.clone())));
        Value::Dict(pairs.collect())
    }
}

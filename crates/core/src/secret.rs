//! A wrapper for values that must never be shown: tokens, passwords, cookie keys.

use subtle::ConstantTimeEq;

/// A secret string. It has neither `Debug` nor `Display`; [`Secret::expose`] is the one way to read
/// it, so every place where a secret leaves its wrapper can be found by name.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the one call that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in time that depends on the lengths only.
    pub fn matches(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }

    /// Whether there is no secret at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

//! Names that cannot hold a bad value.

use std::fmt;

use serde::Serialize;

use crate::escape;

/// The longest name that the database's columns take, in characters.
const MAX_NAME: usize = 255;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or only white space.
    #[error("the name is empty")]
    Empty,
    /// Longer than the database's columns.
    #[error("the name is longer than 255 characters")]
    TooLong,
    /// A slash or a control character, which no route could carry.
    #[error("the name contains a slash or a control character")]
    BadCharacter,
    /// JupyterHub 6 allows a-z, 0-9 and inner hyphens in a new server's name.
    #[error("{0}")]
    ServerName(&'static str),
}

/// A user's name, already normalised.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct UserName(String);

impl UserName {
    /// Takes `name` as it stands; lower-casing and mapping are the authenticator's.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.trim().is_empty() {
            return Err(NameError::Empty);
        }
        bounded(name)?;
        if name.contains('/') {
            return Err(NameError::BadCharacter);
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a path segment of a URL.
    pub fn escaped(&self) -> String {
        escape::path_segment(&self.0)
    }
}

/// A server's name; the default server's is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ServerName(String);

impl ServerName {
    /// A name that may already exist in a database: only what no route can carry is refused.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        bounded(name)?;
        if name.contains('/') {
            return Err(NameError::BadCharacter);
        }
        Ok(Self(name.to_owned()))
    }

    /// The default server.
    pub fn default_server() -> Self {
        Self(String::new())
    }

    /// Whether this is the default server.
    pub fn is_default(&self) -> bool {
        self.0.is_empty()
    }

    /// The name as text; empty for the default server.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a path segment of a URL.
    pub fn escaped(&self) -> String {
        escape::path_segment(&self.0)
    }
}

fn bounded(name: &str) -> Result<(), NameError> {
    if name.chars().count() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::BadCharacter);
    }
    Ok(())
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_route_can_carry_is_refused() {
        for bad in ["", "  ", "a/b", "a\nb", &"x".repeat(256)] {
            assert!(UserName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            UserName::parse("ada@x.org").expect("a good name").escaped(),
            "ada@x.org"
        );
        assert!(
            ServerName::parse("")
                .expect("the default server")
                .is_default()
        );
    }
}

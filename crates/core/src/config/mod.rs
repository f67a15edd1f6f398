//! Configuration without I/O: values, lazy list operations, how sections merge along class
//! inheritance, and the tables ([`ClassSpec`], [`OptionSpec`]) that [`config_class!`] makes from one
//! typed struct per class.
//!
//! [`config_class!`]: crate::config_class

mod catalog;
mod class;
mod kind;
mod lazy;
mod literal;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod value;

pub use catalog::{Catalog, Findings, nearest};
pub use class::{
    ClassSpec, ConfigClass, Loaded, Loader, OptionSpec, OtherDefault, Problem, Status,
};
pub use kind::Kind;
pub use lazy::{Lazy, LazyError};
pub use literal::{LiteralError, parse_literal};
pub use tree::{Entry, Origin, Setting, Tree};
pub use types::{ByteSize, ClassRef, Command, Hook, Misfit, OptionValue, TokenMap, UrlPrefix};
pub use value::Value;

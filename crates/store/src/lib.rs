#![doc = include_str!("../README.md")]

mod claim;
mod connection;
mod error;
mod freshness;
pub mod json;
pub mod migrate;
mod network;
mod old_rows;
mod outage;
pub mod private_file;
mod schema;
mod sql;
mod store;
pub mod time;
pub mod token_hash;
mod url;

pub mod api_tokens;
pub mod audit;
pub mod events;
pub mod groups;
pub mod oauth_clients;
pub mod oauth_codes;
pub mod roles;
pub mod runs;
pub mod servers;
pub mod services;
pub mod sessions;
pub mod share_codes;
pub mod shares;
pub mod spawners;
pub mod stamps;
pub mod user_pages;
pub mod users;

pub use chrono::NaiveDateTime;
pub use sea_orm::ConnectionTrait;

pub use claim::Claim;
pub use connection::{Connection, Transaction};
pub use error::StoreError;
pub use freshness::Version;
pub use schema::{ALEMBIC_REVISION, ORRERY_SCHEMA_VERSION};
pub use store::{Store, StoreOptions, WriteError};
pub use url::{DbUrl, Dialect};

#![doc = include_str!("../README.md")]

pub mod api;
pub mod audit;
pub mod auth;
pub mod bodies;
pub mod certs;
pub mod changes;
pub mod config;
pub mod counts;
mod dial;
pub mod error;
pub mod etag;
pub mod housekeeping;
pub mod listen;
pub mod long_reads;
pub mod metrics;
pub mod multipart;
pub mod oauth;
pub mod openapi;
pub mod pages;
pub mod reload;
pub mod router;
pub mod routes;
pub mod servers;
mod service_manager;
mod services_watch;
mod setup;
mod start;
pub mod state;
pub mod urls;

pub use start::{Setup, StartError, build, run, run_and_reload};

/// The JupyterHub version whose behaviour this is.
pub const JUPYTERHUB_VERSION: &str = "6.1.1";

#![doc = include_str!("../README.md")]

mod access_log;
mod acme;
mod api;
mod body;
mod client;
mod control;
mod edge_cache;
mod error;
mod error_page;
mod forward;
mod handover;
mod head_scan;
mod headers;
mod http2;
mod line;
mod listen;
mod logging;
mod metrics;
mod options;
mod overload;
mod passed;
mod path;
mod persistent_map;
mod pool;
mod redirect;
mod routes;
mod server;
mod state_file;
mod target;
mod tls;
mod transport;
mod trie;
mod trusted_proxies;
mod tunnel;
mod worker;

pub use self::{
    acme::AcmeOptions,
    error::Error,
    logging::init_logging,
    options::{Options, Token},
    server::{ProxyHandle, run, start},
};

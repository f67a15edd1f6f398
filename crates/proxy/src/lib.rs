#![doc = include_str!("../README.md")]

mod access_log;
mod answer;
mod api;
mod client;
mod error;
mod error_page;
mod forward;
mod forwarded;
mod http1;
mod keepalive;
mod listen;
mod logging;
mod metrics;
mod options;
mod outbox;
mod path;
mod persistent_map;
mod pool;
mod redirect;
mod redirects;
mod relay;
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
    error::Error,
    logging::init_logging,
    options::{Options, Token},
    server::{ProxyHandle, run, start},
};

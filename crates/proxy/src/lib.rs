#![doc = include_str!("../README.md")]

mod access_log;
mod acme;
mod answer;
mod api;
mod background;
mod client;
mod control;
mod edge_cache;
mod error;
mod error_page;
mod forward;
mod forwarded;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod heads;
mod http1;
mod http2;
mod keepalive;
mod line;
mod listen;
mod logging;
mod metrics;
mod options;
mod outbox;
mod overload;
mod passed;
mod path;
mod persistent_map;
mod pool;
mod private_file;
mod process;
mod redirect;
mod redirects;
mod relay;
mod routes;
mod server;
mod settings;
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
    options::{Options, OurOptions, Token},
    process::run,
    server::{ProxyHandle, start},
};

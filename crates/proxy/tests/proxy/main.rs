//! The whole proxy over real sockets: clients on one side, servers on the other.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod access_log;
mod api;
mod connections;
mod edge_cache;
mod errors;
mod forwarding;
mod frames;
mod http2;
mod metrics;
mod running;
mod smuggling;
mod state_file;
mod support;
mod tls;
mod websockets;

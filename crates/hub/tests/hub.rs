//! The hub's tests, in one binary. The folders mirror the sources and the URLs.

#[path = "hub/api.rs"]
mod api;
#[path = "hub/authenticators.rs"]
mod authenticators;
#[path = "hub/bodies.rs"]
mod bodies;
#[path = "hub/housekeeping.rs"]
mod housekeeping;
#[path = "hub/listen.rs"]
mod listen;
#[path = "hub/pages.rs"]
mod pages;
#[path = "hub/reload.rs"]
mod reload;
#[path = "hub/routes.rs"]
mod routes;
#[path = "hub/security.rs"]
mod security;
#[path = "hub/servers.rs"]
mod servers;
#[path = "hub/setup.rs"]
mod setup;
#[path = "hub/subdomains.rs"]
mod subdomains;
#[path = "hub/test_hub.rs"]
pub(crate) mod test_hub;

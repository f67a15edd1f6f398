//! The proxy's table of routes, as the hub sees it: configurable-http-proxy's API.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;

/// One route of the proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// `http://host:port`, with a path if the target has one.
    pub target: String,
    /// What was stored with it (`user`, `server_name`, `service`, `hub`, `jupyterhub`).
    pub data: Value,
}

/// The proxy could not be asked or did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proxy {what}: {why}")]
pub struct RouteError {
    /// What was asked.
    pub what: String,
    /// Why it did not come about.
    pub why: String,
}

/// A proxy that the hub drives. Routes are keyed by their specification: a path that starts and ends
/// with `/`, escaped, with the host before it where routing is by host.
#[async_trait]
pub trait RouteTable: Send + Sync + 'static {
    /// All routes that a hub made. Called at start, when the proxy comes back, and every minute.
    async fn routes(&self) -> Result<BTreeMap<String, Route>, RouteError>;

    /// Whether the proxy answers and has this route: a cheap look, made every few seconds. Not to be
    /// asked of the route `/`.
    async fn has(&self, spec: &str) -> Result<bool, RouteError> {
        Ok(self.routes().await?.contains_key(spec))
    }

    /// Adds or replaces one route. A second call with the same arguments changes nothing.
    async fn add(&self, spec: &str, route: &Route) -> Result<(), RouteError>;

    /// Removes one route; one that is not there is no error.
    async fn delete(&self, spec: &str) -> Result<(), RouteError>;

    /// Makes many changes in one step. `false` when the proxy cannot do that, or others change its
    /// table all the time: then nothing has changed, and they are to be made one by one.
    async fn change(
        &self,
        add: &[(&String, &Route)],
        delete: &[&String],
    ) -> Result<bool, RouteError> {
        let _ = (add, delete);
        Ok(false)
    }
}

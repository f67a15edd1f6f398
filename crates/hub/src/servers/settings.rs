//! What the engine takes from the configuration, as plain values.

use std::collections::BTreeMap;
use std::time::Duration;

use orrery_core::Secret;
use orrery_core::spawner::Resources;
use serde_json::Value;

use crate::config::{Config, InvalidNamedServers};

/// Settings of the engine. [`Settings::default`] has upstream's defaults.
#[derive(Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own, as the site set it"
)]
pub struct Settings {
    /// `Spawner.cmd` and `Spawner.args`.
    pub command: Vec<String>,
    /// `Spawner.env_keep` with the values from the hub's environment.
    pub kept_environment: BTreeMap<String, Secret>,
    /// `Spawner.environment`.
    pub environment: BTreeMap<String, Secret>,
    /// `Spawner.ip`.
    pub ip: String,
    /// `Spawner.port`.
    pub port: u16,
    /// `Spawner.notebook_dir`, with placeholders.
    pub notebook_dir: String,
    /// `Spawner.default_url`, with placeholders.
    pub default_url: String,
    /// `Spawner.debug`.
    pub debug: bool,
    /// `Spawner.disable_user_config`.
    pub disable_user_config: bool,
    /// `Spawner.mem_limit` and its relatives.
    pub resources: Resources,
    /// `Spawner.oauth_client_allowed_scopes`.
    pub oauth_client_allowed_scopes: Vec<String>,
    /// `Spawner.server_token_scopes`; empty for the scopes of the role `server`.
    pub server_token_scopes: Vec<String>,
    /// `Spawner.start_timeout`.
    pub start_timeout: Duration,
    /// `Spawner.http_timeout`.
    pub http_timeout: Duration,
    /// `Spawner.poll_interval`; zero never polls.
    pub poll_interval: Duration,
    /// `Spawner.poll_jitter`.
    pub poll_jitter: f64,
    /// `Spawner.consecutive_failure_limit`: so many failures in a row are logged as an error. Unlike
    /// upstream's, the hub goes on: other people's servers are not to blame.
    pub consecutive_failure_limit: u32,

    /// `JupyterHub.allow_named_servers`.
    pub allow_named_servers: bool,
    /// `JupyterHub.named_server_limit_per_user`; 0 sets no limit.
    pub named_server_limit_per_user: u32,
    /// Whether servers with names from before JupyterHub 6 may start
    /// (`JupyterHub.allow_existing_invalid_named_servers`).
    pub allow_invalid_named_server_start: bool,
    /// `JupyterHub.active_server_limit`; 0 sets no limit.
    pub active_server_limit: u32,
    /// `JupyterHub.concurrent_spawn_limit`; 0 sets no limit.
    pub concurrent_spawn_limit: u32,
    /// `cookie_options` of `JupyterHub.tornado_settings`; null when not set.
    pub cookie_options: Value,
    /// `JupyterHub.cookie_host_prefix_enabled`.
    pub cookie_host_prefix_enabled: bool,
    /// `JupyterHub.admin_access`.
    pub admin_access: bool,
    /// `Authenticator.blocked_users`: their servers are stopped when the hub starts.
    pub blocked_users: Vec<String>,
    /// The hub's API as servers reach it: `http://127.0.0.1:8081/hub/api`.
    pub hub_api_url: String,

    /// How long a start may wait for its turn.
    pub queue_timeout: Duration,
    /// How long one call of `Spawner::stop` may take; in an engine at least as long as its spawner says.
    pub stop_timeout: Duration,
    /// How long one call of `Spawner::poll` or `Spawner::logs` may take.
    pub poll_timeout: Duration,
    /// `JupyterHub.last_activity_interval`; zero never asks the proxy.
    pub last_activity_interval: Duration,
    /// How much later than all of its own time limits a phase's deadline in the database is.
    pub grace: Duration,
    /// How long a run stays ours without a sign of life from us.
    pub lease: Duration,
    /// How often leases, overdue phases, the queue and buffered activity are seen to.
    pub tick: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            command: vec!["jupyterhub-singleuser".to_owned()],
            kept_environment: BTreeMap::new(),
            environment: BTreeMap::new(),
            ip: "127.0.0.1".to_owned(),
            port: 0,
            notebook_dir: String::new(),
            default_url: String::new(),
            debug: false,
            disable_user_config: false,
            resources: Resources::default(),
            oauth_client_allowed_scopes: Vec::new(),
            server_token_scopes: Vec::new(),
            start_timeout: Duration::from_mins(1),
            http_timeout: Duration::from_secs(30),
            poll_interval: Duration::from_secs(30),
            poll_jitter: 0.1,
            consecutive_failure_limit: 0,
            allow_named_servers: false,
            named_server_limit_per_user: 0,
            allow_invalid_named_server_start: true,
            active_server_limit: 0,
            concurrent_spawn_limit: 100,
            cookie_options: Value::Null,
            cookie_host_prefix_enabled: false,
            admin_access: false,
            blocked_users: Vec::new(),
            hub_api_url: "http://127.0.0.1:8081/hub/api".to_owned(),
            queue_timeout: Duration::from_hours(1),
            stop_timeout: Duration::from_mins(1),
            last_activity_interval: Duration::from_mins(5),
            grace: Duration::from_secs(15),
            poll_timeout: Duration::from_secs(10),
            lease: Duration::from_secs(30),
            tick: Duration::from_secs(5),
        }
    }
}

impl Settings {
    /// Reads them from the configuration. `environment` is the hub's own; `hub_api_url` is where
    /// servers reach the hub.
    pub fn from_config(
        config: &Config,
        environment: &BTreeMap<String, String>,
        hub_api_url: String,
    ) -> Self {
        let spawner = &config.spawner;
        let hub = &config.hub;
        let mut command = spawner
            .cmd
            .as_ref()
            .map(|command| command.0.clone())
            .unwrap_or_default();
        command.extend(spawner.args.iter().cloned());
        let kept = spawner.env_keep.iter().filter_map(|name| {
            let value = environment.get(name)?;
            Some((name.clone(), Secret::new(value.as_str())))
        });
        let hub_api_url = match &spawner.hub_connect_url {
            Some(url) => format!("{}{}api", url.trim_end_matches('/'), config.hub_prefix()),
            None => hub_api_url,
        };
        Self {
            command,
            kept_environment: kept.collect(),
            environment: spawner
                .environment
                .iter()
                .map(|(name, value)| (name.clone(), Secret::new(value.as_str())))
                .collect(),
            ip: spawner.ip.clone(),
            port: u16::try_from(spawner.port).unwrap_or_default(),
            notebook_dir: spawner.notebook_dir.clone(),
            default_url: spawner.default_url.clone(),
            debug: spawner.debug,
            disable_user_config: spawner.disable_user_config,
            resources: Resources {
                mem_limit: spawner.mem_limit.map(|size| size.0),
                mem_guarantee: spawner.mem_guarantee.map(|size| size.0),
                cpu_limit: spawner.cpu_limit,
                cpu_guarantee: spawner.cpu_guarantee,
            },
            oauth_client_allowed_scopes: spawner.oauth_client_allowed_scopes.clone(),
            server_token_scopes: spawner.server_token_scopes.clone(),
            start_timeout: seconds(spawner.start_timeout),
            http_timeout: seconds(spawner.http_timeout),
            poll_interval: seconds(spawner.poll_interval),
            poll_jitter: spawner.poll_jitter,
            consecutive_failure_limit: count(spawner.consecutive_failure_limit),
            allow_named_servers: hub.allow_named_servers,
            named_server_limit_per_user: count(hub.named_server_limit_per_user),
            allow_invalid_named_server_start: hub.allow_existing_invalid_named_servers
                == InvalidNamedServers::AllowStart,
            active_server_limit: count(hub.active_server_limit),
            concurrent_spawn_limit: count(hub.concurrent_spawn_limit),
            cookie_options: hub
                .tornado_settings
                .get("cookie_options")
                .cloned()
                .unwrap_or_default(),
            cookie_host_prefix_enabled: hub.cookie_host_prefix_enabled,
            admin_access: hub.admin_access,
            blocked_users: config.authenticator.blocked_users.iter().cloned().collect(),
            hub_api_url,
            last_activity_interval: seconds(hub.last_activity_interval),
            ..Self::default()
        }
    }
}

/// Configured seconds; a year is as good as for ever, and later times cannot overflow.
fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or_default().min(365 * 86_400))
}

/// A configured number; 0 and below set no limit.
fn count(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

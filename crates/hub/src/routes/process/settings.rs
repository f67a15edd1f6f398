//! Which program is the proxy, and what it is told.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use orrery_core::Secret;

use crate::certs::ProxyCertificates;
use crate::config::Config;

/// Which program is the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyCommand {
    /// This program, called as `… proxy`.
    Ours(PathBuf),
    /// The program that `ConfigurableHTTPProxy.command` names.
    Configured(Vec<String>),
}

/// How to run the proxy.
#[derive(Clone)]
pub struct ProxySettings {
    /// Whether the hub starts it at all (`Proxy.should_start`).
    pub should_start: bool,
    /// Which program it is.
    pub command: ProxyCommand,
    /// The unix socket to listen on instead of an address and a port.
    pub socket: Option<PathBuf>,
    /// The public address; empty for every address.
    pub ip: String,
    /// The public port.
    pub port: u16,
    /// The address of its API.
    pub api_ip: String,
    /// The port of its API.
    pub api_port: u16,
    /// Where it gets its error pages from.
    pub error_target: String,
    /// `ConfigurableHTTPProxy.log_level`.
    pub log_level: String,
    /// Whether users and services have hosts of their own (`JupyterHub.subdomain_host`).
    pub host_routing: bool,
    /// Key and certificate of the public address (`JupyterHub.ssl_key` and `ssl_cert`).
    pub public_tls: Option<(String, String)>,
    /// Its certificates with `JupyterHub.internal_ssl`.
    pub internal_tls: Option<ProxyCertificates>,
    /// The token of its API.
    pub token: Secret,
    /// `ConfigurableHTTPProxy.pid_file`; empty for none.
    pub pid_file: PathBuf,
    /// `ConfigurableHTTPProxy.command_umask`.
    pub umask: u32,
    /// Variables to set beside those of the hub's own environment.
    pub environment: BTreeMap<String, OsString>,
}

impl ProxySettings {
    /// From the configuration; `program` is this program.
    pub fn from_config(
        config: &Config,
        program: &Path,
        token: Secret,
        internal_tls: Option<ProxyCertificates>,
    ) -> Self {
        let public = config.public_address();
        let api = crate::config::HttpAddress::parse(&config.chp.api_url);
        let command = if config.foreign_proxy {
            ProxyCommand::Configured(config.chp.command.0.clone())
        } else {
            ProxyCommand::Ours(program.to_owned())
        };
        let log_level = if config.chp.debug {
            "debug"
        } else {
            config.chp.log_level.as_str()
        };
        Self {
            should_start: config.proxy.should_start,
            command,
            socket: public.socket,
            ip: public.host,
            port: public.port,
            api_ip: api
                .as_ref()
                .map_or_else(|| "127.0.0.1".to_owned(), |api| api.host.clone()),
            api_port: api.map_or(8001, |api| api.port),
            // The proxy is on this machine: a hub on all addresses is reached on this one.
            error_target: format!("{}error", config.hub_connect_url("127.0.0.1")),
            log_level: log_level.to_owned(),
            host_routing: !config.hub.subdomain_host.is_empty(),
            public_tls: (!config.hub.ssl_cert.is_empty())
                .then(|| (config.hub.ssl_key.clone(), config.hub.ssl_cert.clone())),
            internal_tls,
            token,
            pid_file: PathBuf::from(&config.chp.pid_file),
            umask: u32::try_from(config.chp.command_umask & 0o777).unwrap_or(0o007),
            environment: BTreeMap::new(),
        }
    }

    /// Program and arguments, without the wrapper that sets the umask.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = match &self.command {
            ProxyCommand::Ours(program) => vec![program.into(), "proxy".into()],
            ProxyCommand::Configured(command) => command.iter().map(OsString::from).collect(),
        };
        let public = match &self.socket {
            Some(socket) => vec![("--socket", socket.display().to_string())],
            None => vec![("--ip", self.ip.clone()), ("--port", self.port.to_string())],
        };
        let options = [
            ("--api-ip", self.api_ip.clone()),
            ("--api-port", self.api_port.to_string()),
            ("--error-target", self.error_target.clone()),
            ("--log-level", self.log_level.clone()),
        ];
        // First, so that a proxy that was started without it, or with it, is not taken for ours.
        if self.host_routing {
            words.push("--host-routing".into());
        }
        for (option, value) in public.into_iter().chain(options) {
            words.push(option.into());
            words.push(value.into());
        }
        if let Some((key, certificate)) = &self.public_tls {
            words.extend(["--ssl-key".into(), key.into()]);
            words.extend(["--ssl-cert".into(), certificate.into()]);
        }
        if let Some(ProxyCertificates { api, client }) = &self.internal_tls {
            for (side, pair) in [("api", api), ("client", client)] {
                for (what, path) in [
                    ("key", &pair.key),
                    ("cert", &pair.certificate),
                    ("ca", &pair.trust),
                ] {
                    words.extend([format!("--{side}-ssl-{what}").into(), path.into()]);
                }
                words.push(format!("--{side}-ssl-request-cert").into());
                words.push(format!("--{side}-ssl-reject-unauthorized").into());
            }
        }
        if let (ProxyCommand::Ours(_), Some(file)) = (&self.command, self.state_file()) {
            words.push("--state-file".into());
            words.push(file.into());
        }
        // A configured command knows no such option and is wrapped instead.
        if matches!(self.command, ProxyCommand::Ours(_)) {
            words.push("--umask".into());
            words.push(format!("{:03o}", self.umask).into());
        }
        words
    }

    /// Beside the pid file: the routes that our proxy serves after its own restart.
    fn state_file(&self) -> Option<PathBuf> {
        let is_set = !self.pid_file.as_os_str().is_empty();
        is_set.then(|| self.pid_file.with_extension("routes"))
    }

    pub(super) fn public_address(&self) -> String {
        if let Some(socket) = &self.socket {
            return socket.display().to_string();
        }
        format!(
            "{}:{}",
            if self.ip.is_empty() { "*" } else { &self.ip },
            self.port
        )
    }

    pub(super) fn api_address(&self) -> String {
        format!("{}:{}", self.api_ip, self.api_port)
    }
}

/// A token made from the cookie secret: a hub that starts again still knows the token of the proxy it
/// left running.
pub fn derived_token(cookie_secret: &[u8]) -> Secret {
    Secret::new(crate::auth::cookies::Signer::new(cookie_secret).derive("proxy api token"))
}

/// How many words call the program.
pub(super) fn program_words(command: &ProxyCommand) -> usize {
    match command {
        ProxyCommand::Ours(_) => 2,
        ProxyCommand::Configured(words) => words.len(),
    }
}

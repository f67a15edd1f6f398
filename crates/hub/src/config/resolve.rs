//! Defaults that follow from other options, and checks that look at several options at once.

use std::net::IpAddr;
use std::path::PathBuf;

use orrery_core::config::{Loaded, Problem, UrlPrefix};
use orrery_core::escape;

use crate::urls::{Hosts, SubdomainHook};

use super::{
    Application, Authenticator, Config, ConfigurableHTTPProxy, JupyterHub, LogLevel, Proxy, Spawner,
};

/// The classes whose options depend on one another.
pub(super) struct Parts {
    pub(super) application: Loaded<Application>,
    pub(super) hub: Loaded<JupyterHub>,
    pub(super) spawner: Loaded<Spawner>,
    pub(super) authenticator: Loaded<Authenticator>,
    pub(super) chp: Loaded<ConfigurableHTTPProxy>,
}

/// Where something listens or is reached by HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAddress {
    /// `http`, `https` or, for a unix socket, `http+unix`.
    pub scheme: String,
    /// The path of a unix socket; host and port say nothing then.
    pub socket: Option<PathBuf>,
    /// The host name or address; empty for all addresses. No brackets around IPv6.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path, beginning with a slash.
    pub path: String,
}

impl HttpAddress {
    /// Reads `scheme://host:port/path`, where the host may be empty and the port left out, or
    /// `http+unix://%2Fpath%2Fof.sock/path`.
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        // The second is an older name of the first.
        if matches!(scheme, "http+unix" | "unix+http") {
            let (socket, path) = match rest.find('/') {
                Some(slash) => rest.split_at(slash),
                None => (rest, "/"),
            };
            let socket = escape::decode(socket).filter(|socket| !socket.is_empty())?;
            return Some(Self {
                scheme: "http+unix".to_owned(),
                socket: Some(PathBuf::from(socket)),
                host: String::new(),
                port: 0,
                path: path.to_owned(),
            });
        }
        let default_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, default_port),
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        Some(Self {
            scheme: scheme.to_owned(),
            socket: None,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        })
    }

    /// The URL, with `host` in brackets if it is an IPv6 address.
    pub fn url(&self) -> String {
        if let Some(socket) = &self.socket {
            let socket = escape::path_segment(&socket.to_string_lossy());
            return format!("{}://{socket}{}", self.scheme, self.path);
        }
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        format!("{}://{host}:{}{}", self.scheme, self.port, self.path)
    }

    /// Whether it listens on all addresses of the machine.
    pub fn is_everywhere(&self) -> bool {
        self.socket.is_none() && self.host.is_empty()
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_unspecified())
    }
}

impl Config {
    /// The public address that the proxy listens on.
    pub fn public_address(&self) -> HttpAddress {
        HttpAddress::parse(&self.hub.bind_url)
            .expect("bind_url was checked when the configuration was read")
    }

    /// The path of the hub's own pages: `base_url` and `hub/`.
    pub fn hub_prefix(&self) -> String {
        format!("{}hub/", self.hub.base_url.as_str())
    }

    /// The address that the hub itself listens on, with its path.
    pub fn hub_address(&self) -> HttpAddress {
        let mut address = match HttpAddress::parse(&self.hub.hub_bind_url) {
            Some(address) => address,
            None => HttpAddress {
                scheme: "http".into(),
                socket: None,
                host: self.hub.hub_ip.clone(),
                port: u16::try_from(self.hub.hub_port)
                    .expect("hub_port was checked when the configuration was read"),
                path: String::new(),
            },
        };
        address.path = self.hub_prefix();
        self.secure(&mut address);
        address
    }

    /// With `internal_ssl` the hub speaks nothing but TLS, whatever protocol its URLs name; but for a
    /// unix socket, which nobody listens in on and whose permissions say who may open it.
    fn secure(&self, address: &mut HttpAddress) {
        if self.hub.internal_ssl && address.socket.is_none() {
            "https".clone_into(&mut address.scheme);
        }
    }

    /// The URL, ending in `/hub/`, under which servers, services and the proxy reach the hub.
    /// `hostname` is this machine's name, used when the hub listens everywhere.
    pub fn hub_connect_url(&self, hostname: &str) -> String {
        let mut address = HttpAddress::parse(&self.hub.hub_connect_url)
            .unwrap_or_else(|| self.connect_address_by_parts(hostname));
        address.path = self.hub_prefix();
        self.secure(&mut address);
        address.url()
    }

    fn connect_address_by_parts(&self, hostname: &str) -> HttpAddress {
        let mut address = self.hub_address();
        if address.socket.is_some() {
            return address;
        }
        if !self.hub.hub_connect_ip.is_empty() {
            address.host.clone_from(&self.hub.hub_connect_ip);
        } else if address.is_everywhere() {
            hostname.clone_into(&mut address.host);
        }
        if let Ok(port @ 1..) = u16::try_from(self.hub.hub_connect_port) {
            address.port = port;
        }
        address
    }
}

/// Fills in defaults and looks for contradictions.
pub(super) fn resolve(
    mut parts: Parts,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<String>,
) -> Parts {
    if !parts.application.is_set("log_level") {
        // Upstream's hub logs from INFO on although applications begin at WARN.
        parts.application.value.log_level = LogLevel::Info;
    }
    public_address(&mut parts.hub, problems, warnings);
    subdomains(&mut parts.hub, problems, warnings);
    hub_address(&mut parts.hub.value, problems, warnings);
    pages(&mut parts.hub, problems, warnings);
    database(&mut parts.hub.value);
    authenticator(&mut parts.authenticator);
    spawner(&mut parts.spawner.value, problems);
    proxy(&mut parts, problems);
    if !parts.spawner.is_set("ssl_alt_names") {
        let everywhere = &parts.hub.value.trusted_alt_names;
        parts.spawner.value.ssl_alt_names.clone_from(everywhere);
    }
    parts
}

fn public_address(
    hub: &mut Loaded<JupyterHub>,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<String>,
) {
    let by_parts = hub.is_set("ip") || hub.is_set("port") || hub.is_set("base_url");
    let Some(mut address) = HttpAddress::parse(&hub.value.bind_url) else {
        problems.push(Problem::Invalid(format!(
            "JupyterHub.bind_url must be a URL such as http://127.0.0.1:8000/, but is {:?}",
            hub.value.bind_url
        )));
        return;
    };
    let files = (&hub.value.ssl_key, &hub.value.ssl_cert);
    if files.0.is_empty() != files.1.is_empty() {
        problems.push(Problem::Invalid(
            "JupyterHub.ssl_key and ssl_cert need each other: give both, or none".into(),
        ));
    }
    let scheme = if files.1.is_empty() { "http" } else { "https" };
    if address.scheme == "https" && scheme == "http" {
        warnings.push(
            "JupyterHub.bind_url begins with https://, but ssl_key and ssl_cert are not set: the proxy serves http"
                .into(),
        );
    }
    if address.socket.is_none() {
        scheme.clone_into(&mut address.scheme);
    }
    if address.socket.is_some() && (hub.is_set("ip") || hub.is_set("port")) {
        problems.push(Problem::Invalid(
            "JupyterHub.bind_url is a unix socket: ip and port do not go with it".into(),
        ));
    } else if by_parts && address.socket.is_none() {
        if hub.is_set("bind_url") {
            warnings.push(
                "JupyterHub.bind_url and ip, port or base_url are set: the latter count, set just one of both".into(),
            );
        }
        // As upstream does it: once one part is set, ip and port come from the parts.
        address.host.clone_from(&hub.value.ip);
        match u16::try_from(hub.value.port) {
            Ok(port) => address.port = port,
            Err(_) => problems.push(not_a_port("JupyterHub.port", hub.value.port)),
        }
    }
    if hub.is_set("base_url") {
        hub.value.base_url.as_str().clone_into(&mut address.path);
    } else {
        hub.value.base_url = UrlPrefix::new(&address.path);
        hub.value.base_url.as_str().clone_into(&mut address.path);
    }
    hub.value.ip.clone_from(&address.host);
    hub.value.port = i64::from(address.port);
    hub.value.bind_url = address.url();
}

fn hub_address(hub: &mut JupyterHub, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    for (option, port) in [
        ("JupyterHub.hub_port", hub.hub_port),
        ("JupyterHub.hub_connect_port", hub.hub_connect_port),
    ] {
        if u16::try_from(port).is_err() {
            problems.push(not_a_port(option, port));
        }
    }
    for (option, url) in [
        ("JupyterHub.hub_bind_url", &hub.hub_bind_url),
        ("JupyterHub.hub_connect_url", &hub.hub_connect_url),
    ] {
        if !url.is_empty() && HttpAddress::parse(url).is_none() {
            problems.push(Problem::Invalid(format!(
                "{option} must be a URL such as http://127.0.0.1:8081, but is {url:?}"
            )));
        }
    }
    if !(0..=0o777).contains(&hub.hub_socket_mode) {
        problems.push(Problem::Invalid(format!(
            "JupyterHub.hub_socket_mode must be permissions from 0 to 0o777, but is 0o{:o}",
            hub.hub_socket_mode
        )));
    }
    let is_socket = HttpAddress::parse(&hub.hub_bind_url).is_some_and(|url| url.socket.is_some());
    if is_socket && hub.hub_connect_url.is_empty() {
        warnings.push(
            "JupyterHub.hub_bind_url is a unix socket and hub_connect_url is not set: servers, services and the proxy \
             must be able to open the socket themselves (see JupyterHub.hub_socket_mode)"
                .into(),
        );
    }
}

fn subdomains(
    hub: &mut Loaded<JupyterHub>,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<String>,
) {
    let Some(hook) = SubdomainHook::named(&hub.value.subdomain_hook) else {
        problems.push(Problem::Invalid(format!(
            "JupyterHub.subdomain_hook must be 'idna' or 'legacy', but is {:?}",
            hub.value.subdomain_hook
        )));
        return;
    };
    let host = &mut hub.value.subdomain_host;
    if host.is_empty() {
        return;
    }
    if !host.contains("://") {
        *host = format!("https://{host}");
        warnings.push(format!(
            "JupyterHub.subdomain_host names no protocol: it is taken for {host}"
        ));
    }
    host.truncate(host.trim_end_matches('/').len());
    let has_path = host
        .split_once("://")
        .is_some_and(|(_, rest)| rest.contains('/'));
    if has_path || Hosts::new(host, "", hook).is_none() {
        problems.push(Problem::Invalid(format!(
            "JupyterHub.subdomain_host must be a protocol and a host such as https://hub.example.org, but is {host:?}"
        )));
        return;
    }
    if hook == SubdomainHook::Legacy {
        warnings.push(
            "JupyterHub.subdomain_hook is 'legacy', which JupyterHub deprecates: not every name becomes a host that \
             works, and services share one. Use 'idna'"
                .into(),
        );
    }
    if hub.value.public_url.is_empty() {
        hub.value.public_url = format!(
            "{}{}",
            hub.value.subdomain_host,
            hub.value.base_url.as_str()
        );
    }
}

fn pages(hub: &mut Loaded<JupyterHub>, problems: &mut Vec<Problem>, warnings: &mut Vec<String>) {
    let base_url = hub.value.base_url.as_str().to_owned();
    let by_host = !hub.value.subdomain_host.is_empty();
    if hub.is_set("hub_routespec") {
        let wanted = &hub.value.hub_routespec;
        // With hosts, a route may begin with one.
        let path = if by_host && !wanted.starts_with('/') {
            format!("{}/", wanted.trim_end_matches('/'))
        } else {
            UrlPrefix::new(wanted).as_str().to_owned()
        };
        if path != "/" && path != base_url {
            warnings.push(format!(
                "JupyterHub.hub_routespec is {path}: requests for servers that do not run may not reach the hub"
            ));
        }
        hub.value.hub_routespec = path;
    } else if by_host {
        // The hub answers on every host.
        "/".clone_into(&mut hub.value.hub_routespec);
    } else {
        hub.value.hub_routespec.clone_from(&base_url);
    }
    let public = &mut hub.value.public_url;
    if !public.is_empty() {
        if !public.contains("://") {
            *public = format!("https://{public}");
            warnings.push(format!(
                "JupyterHub.public_url names no protocol: it is taken for {public}"
            ));
        }
        if !public.ends_with('/') {
            public.push('/');
        }
        if HttpAddress::parse(public).is_some_and(|address| address.path == "/") && base_url != "/"
        {
            *public = format!("{}{base_url}", public.trim_end_matches('/'));
        } else if !public.ends_with(&base_url) {
            problems.push(Problem::Invalid(format!(
                "JupyterHub.public_url must end in base_url {base_url}, but is {public}"
            )));
        }
    }
    if !hub.is_set("oauth_token_expires_in") {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "fractions of a second are cut as upstream cuts them"
        )]
        let seconds = (hub.value.cookie_max_age_days * 24.0 * 3600.0) as i64;
        hub.value.oauth_token_expires_in = seconds;
    }
}

fn database(hub: &mut JupyterHub) {
    if !hub.db_url.contains("://") {
        hub.db_url = format!("sqlite:///{}", hub.db_url);
    }
}

fn authenticator(authenticator: &mut Loaded<Authenticator>) {
    let named = !authenticator.value.allowed_users.is_empty();
    if !authenticator.is_set("allow_existing_users") {
        authenticator.value.allow_existing_users = named;
    }
    if !authenticator.is_set("allow_all") {
        // The dummy authenticator lets everybody in unless names are given.
        authenticator.value.allow_all &= !named;
    }
    if !authenticator.is_set("any_allow_config") {
        authenticator.value.any_allow_config =
            authenticator.value.allow_all || authenticator.value.allow_existing_users || named;
    }
}

fn spawner(spawner: &mut Spawner, problems: &mut Vec<Problem>) {
    if u16::try_from(spawner.port).is_err() {
        problems.push(not_a_port("Spawner.port", spawner.port));
    }
    if spawner
        .cmd
        .as_ref()
        .is_some_and(|command| command.0.is_empty())
    {
        problems.push(Problem::Invalid(
            "Spawner.cmd must name a program, but is empty".into(),
        ));
    }
}

fn proxy(parts: &mut Parts, problems: &mut Vec<Problem>) {
    let hub = &parts.hub.value;
    let chp = &mut parts.chp;
    if chp.value.api_url.is_empty() {
        chp.value.api_url =
            if parts.hub.is_set("proxy_api_ip") || parts.hub.is_set("proxy_api_port") {
                let host = if hub.proxy_api_ip.is_empty() {
                    "127.0.0.1"
                } else {
                    &hub.proxy_api_ip
                };
                let port = if hub.proxy_api_port == 0 {
                    hub.port + 1
                } else {
                    hub.proxy_api_port
                };
                format!("http://{host}:{port}")
            } else {
                "http://127.0.0.1:8001".to_owned()
            };
    }
    if hub.internal_ssl
        && let Some(rest) = chp.value.api_url.strip_prefix("http://")
    {
        // What the hub starts as its proxy is then told to serve its API over TLS.
        chp.value.api_url = format!("https://{rest}");
    }
    if HttpAddress::parse(&chp.value.api_url).is_none() {
        problems.push(Problem::Invalid(format!(
            "ConfigurableHTTPProxy.api_url must be a URL such as http://127.0.0.1:8001, but is {:?} (unix sockets are \
             not supported yet)",
            chp.value.api_url
        )));
    }
    if chp.value.command.0.is_empty() {
        problems.push(Problem::Invalid(
            "ConfigurableHTTPProxy.command must name a program, but is empty".into(),
        ));
    }
}

/// Specifications of `Proxy.extra_routes` end in a slash, and begin with one unless users have hosts of
/// their own.
pub(super) fn extra_routes(
    proxy: &mut Proxy,
    hub: &JupyterHub,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<String>,
) {
    let by_host = !hub.subdomain_host.is_empty();
    let mut checked = std::collections::BTreeMap::new();
    for (mut spec, target) in std::mem::take(&mut proxy.extra_routes) {
        if !spec.ends_with('/') {
            spec.push('/');
            warnings.push(format!(
                "Proxy.extra_routes: {spec} is meant with its slash at the end"
            ));
        }
        if by_host && spec.starts_with('/') {
            problems.push(Problem::Invalid(format!(
                "Proxy.extra_routes: {spec} must begin with a host, as JupyterHub.subdomain_host is set"
            )));
        }
        if !by_host && !spec.starts_with('/') {
            problems.push(Problem::Invalid(format!(
                "Proxy.extra_routes: {spec} must begin with a slash"
            )));
        }
        let lower = target.to_ascii_lowercase();
        let is_url = ["http://", "https://"].iter().any(|scheme| {
            lower
                .strip_prefix(scheme)
                .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        });
        if !is_url {
            problems.push(Problem::Invalid(format!(
                "Proxy.extra_routes: {spec} must lead to a URL such as http://127.0.0.1:9000, but leads to {target:?}"
            )));
        }
        checked.insert(spec, target);
    }
    proxy.extra_routes = checked;
}

fn not_a_port(option: &str, port: i64) -> Problem {
    Problem::Invalid(format!(
        "{option} must be a port from 0 to 65535, but is {port}"
    ))
}

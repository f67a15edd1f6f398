//! The options, checked and in the form that the proxy works with.

use std::{path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue};

use crate::{
    Error, Options, Token,
    access_log::{self, AccessLog},
    error_page::Source,
    listen::Place,
    redirect::Redirect,
    target::Target,
    tls::TlsOptions,
    trusted_proxies::TrustedProxies,
};

/// What the options say, with the defaults of what they leave open.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(crate) struct Settings {
    pub(crate) public: Place,
    pub(crate) tls: TlsOptions,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) api: Place,
    pub(crate) metrics: Option<Place>,
    pub(crate) auth_token: Option<Token>,
    pub(crate) default_target: Option<String>,
    pub(crate) error_pages: Source,
    pub(crate) x_forward: bool,
    pub(crate) prepend_path: bool,
    pub(crate) include_prefix: bool,
    pub(crate) host_routing: bool,
    pub(crate) auto_rewrite: bool,
    pub(crate) change_origin: bool,
    pub(crate) protocol_rewrite: Option<Box<str>>,
    pub(crate) custom_headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) timeout: Option<Duration>,
    pub(crate) proxy_timeout: Option<Duration>,
    pub(crate) keep_alive_timeout: Duration,
    /// The whole head of a request must have come by then.
    pub(crate) header_timeout: Duration,
    /// Without a byte in either direction.
    pub(crate) websocket_timeout: Option<Duration>,
    /// After this long without data the kernel asks the other end; zero for never.
    pub(crate) tcp_keepalive: Duration,
    pub(crate) tcp_user_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) edge_cache: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) upgrade_drain_timeout: Duration,
    pub(crate) upgrade_timeout: Duration,
    pub(crate) state_file: Option<PathBuf>,
    pub(crate) threads: usize,
}

impl Options {
    pub(crate) fn settings(&self) -> Result<Settings, Error> {
        self.check_storage_backend()?;
        if self.error_target.is_some() && self.error_path.is_some() {
            return Err(Error::BadOption(
                "--error-target and --error-path exclude each other; give one of them".to_owned(),
            ));
        }
        let port = self.port.unwrap_or(8000);
        let public = match &self.socket {
            Some(path) => Place::Unix(path.clone()),
            None => tcp(self.ip.as_deref(), port),
        };
        let tls = TlsOptions::from_options(self)?;
        let redirect = match self.redirect_port {
            Some(_) if !tls.is_public() => {
                return Err(Error::BadOption(
                    "--redirect-port leads to HTTPS, which needs --ssl-key and --ssl-cert"
                        .to_owned(),
                ));
            }
            Some(from) => Some(Redirect {
                // On all interfaces, as configurable-http-proxy.
                place: tcp(None, from),
                to: self.redirect_to.unwrap_or(port),
            }),
            None => None,
        };
        let default_api_port = match &self.socket {
            Some(_) => 8001,
            // Any free port for users goes with any free port for the API.
            None if port == 0 => 0,
            None => port.saturating_add(1),
        };
        let api = match &self.api_socket {
            Some(path) => Place::Unix(path.clone()),
            None => tcp(
                Some(self.api_ip.as_deref().unwrap_or("localhost")),
                self.api_port.unwrap_or(default_api_port),
            ),
        };
        let metrics = match (&self.metrics_socket, self.metrics_port) {
            (Some(path), _) => Some(Place::Unix(path.clone())),
            (None, Some(port)) => Some(tcp(self.metrics_ip.as_deref(), port)),
            (None, None) => None,
        };
        let error_pages = match (&self.error_target, &self.error_path) {
            (Some(url), _) => Source::Target(Box::new(parse_target("--error-target", url)?)),
            (None, Some(folder)) => Source::Folder(folder.clone()),
            (None, None) => Source::BuiltIn,
        };
        if let Some(url) = &self.default_target {
            parse_target("--default-target", url)?;
        }
        let milliseconds =
            |value: Option<u64>| value.filter(|value| *value > 0).map(Duration::from_millis);
        let threads = self.ours.threads.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2))
        });
        if !(1..=64).contains(&threads) {
            return Err(Error::BadOption(
                "--threads must be from 1 to 64".to_owned(),
            ));
        }
        self.announce();
        Ok(Settings {
            public,
            tls,
            redirect,
            api,
            metrics,
            auth_token: self.auth_token.clone(),
            default_target: self.default_target.clone(),
            error_pages,
            x_forward: !self.no_x_forward,
            prepend_path: !self.no_prepend_path,
            include_prefix: !self.no_include_prefix,
            host_routing: self.host_routing,
            auto_rewrite: self.auto_rewrite,
            change_origin: self.change_origin,
            protocol_rewrite: self.protocol_rewrite()?,
            trusted_proxies: TrustedProxies::parse(&self.ours.trusted_proxy)
                .map_err(|error| Error::BadOption(format!("--trusted-proxy: {error}")))?,
            custom_headers: self.custom_headers()?,
            timeout: milliseconds(self.timeout),
            proxy_timeout: milliseconds(self.proxy_timeout),
            keep_alive_timeout: milliseconds(self.keep_alive_timeout)
                .unwrap_or(Duration::from_secs(30)),
            header_timeout: milliseconds(self.ours.header_timeout)
                .unwrap_or(Duration::from_secs(30)),
            websocket_timeout: milliseconds(self.ours.websocket_timeout),
            tcp_keepalive: Duration::from_millis(self.ours.tcp_keepalive.unwrap_or(20_000)),
            tcp_user_timeout: Duration::from_millis(self.ours.tcp_user_timeout.unwrap_or(600_000)),
            max_connections: self
                .ours
                .max_connections
                .filter(|most| *most > 0)
                .unwrap_or(usize::MAX),
            access_log: self.open_access_log()?,
            edge_cache: Duration::from_secs(self.ours.edge_cache.unwrap_or(30).min(3600)),
            connect_timeout: milliseconds(self.ours.connect_timeout)
                .unwrap_or(Duration::from_secs(10)),
            drain_timeout: Duration::from_millis(self.ours.drain_timeout.unwrap_or(5000)),
            upgrade_drain_timeout: Duration::from_millis(
                self.ours.upgrade_drain_timeout.unwrap_or(3_600_000),
            ),
            upgrade_timeout: milliseconds(self.ours.upgrade_timeout)
                .unwrap_or(Duration::from_secs(30)),
            state_file: self.ours.state_file.clone(),
            threads,
        })
    }

    /// The last value of each name counts.
    fn custom_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for header in &self.custom_header {
            let (name, value) = parse_header(header)?;
            headers.retain(|(other, _)| *other != name);
            headers.push((name, value));
        }
        Ok(headers)
    }

    /// Says of some options that they are on, as configurable-http-proxy does.
    fn announce(&self) {
        if self.auto_rewrite {
            tracing::info!("AutoRewrite of Location headers enabled.");
        }
        if self.change_origin {
            tracing::info!("Change Origin of host headers enabled.");
        }
        if let Some(protocol) = &self.protocol_rewrite {
            tracing::info!("ProtocolRewrite enabled. Rewriting to {protocol}");
        }
    }

    fn protocol_rewrite(&self) -> Result<Option<Box<str>>, Error> {
        let Some(protocol) = &self.protocol_rewrite else {
            return Ok(None);
        };
        let protocol = protocol.trim_end_matches(':');
        match &*protocol.to_ascii_lowercase() {
            protocol @ ("http" | "https") => Ok(Some(protocol.into())),
            _ => Err(Error::BadOption(format!(
                "--protocol-rewrite {protocol}: choose http or https"
            ))),
        }
    }

    fn open_access_log(&self) -> Result<Option<AccessLog>, Error> {
        let name = self.ours.access_log_format.as_deref();
        let format = access_log::Format::parse(name.unwrap_or("combined")).ok_or_else(|| {
            let name = name.unwrap_or_default();
            Error::BadOption(format!(
                "--access-log-format {name}: choose common, combined or json"
            ))
        })?;
        match &self.ours.access_log {
            Some(path) => AccessLog::open(path, format).map(Some),
            None if name.is_some() => Err(Error::BadOption(
                "--access-log-format is for --access-log; name the file there".to_owned(),
            )),
            None => Ok(None),
        }
    }

    /// `--storage-backend` names a module for Node.js in configurable-http-proxy. Of those only its
    /// own store in memory can be had here, and ours in a file.
    fn check_storage_backend(&self) -> Result<(), Error> {
        match self.storage_backend.as_deref() {
            None | Some("memory" | "MemoryStore") => Ok(()),
            Some("file") if self.ours.state_file.is_some() => Ok(()),
            Some("file") => Err(Error::BadOption(
                "--storage-backend file keeps the routes in --state-file; name the file there"
                    .to_owned(),
            )),
            Some(name) => Err(Error::BadOption(format!(
                "--storage-backend {name}: modules for Node.js cannot be loaded. Choose memory, or \
                 file with --state-file FILE, which keeps the routes over a restart"
            ))),
        }
    }
}

fn tcp(ip: Option<&str>, port: u16) -> Place {
    let ip = ip.unwrap_or_default();
    let host = if ip == "*" {
        tracing::warn!(
            "Interpreting ip='*' as all interfaces; an empty ip or 0.0.0.0 says so better"
        );
        ""
    } else {
        ip.trim_start_matches('[').trim_end_matches(']')
    };
    let host = host.to_owned();
    Place::Tcp { host, port }
}

fn parse_target(option: &str, url: &str) -> Result<Target, Error> {
    Target::parse(url).map_err(|error| Error::BadOption(format!("{option} {url}: {error}")))
}

fn parse_header(header: &str) -> Result<(HeaderName, HeaderValue), Error> {
    let bad = |reason| Error::BadOption(format!("--custom-header {header}: {reason}"));
    let (name, value) = header
        .split_once(':')
        .ok_or_else(|| bad("a colon is missing; write name:value"))?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| bad("not a header's name"))?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| bad("not a header's value"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn settings(arguments: &[&str]) -> Result<Settings, Error> {
        let arguments = std::iter::once("proxy").chain(arguments.iter().copied());
        Command::try_parse_from(arguments)
            .unwrap_or_else(|error| panic!("{error}"))
            .options
            .settings()
    }

    #[test]
    fn places() {
        let places = |arguments: &[&str]| {
            let settings = settings(arguments).unwrap();
            (settings.public.to_string(), settings.api.to_string())
        };
        assert_eq!(places(&[]), ("*:8000".into(), "localhost:8001".into()));
        assert_eq!(
            places(&["--ip", "::1", "--port", "9", "--api-ip", "127.0.0.1"]),
            ("[::1]:9".into(), "127.0.0.1:10".into())
        );
        // As JupyterHub calls it.
        assert_eq!(
            places(&[
                "--ip",
                "",
                "--port",
                "8000",
                "--api-ip",
                "127.0.0.1",
                "--api-port",
                "8001"
            ]),
            ("*:8000".into(), "127.0.0.1:8001".into())
        );
        assert_eq!(
            places(&["--socket", "/s", "--api-socket", "/a"]),
            ("/s".into(), "/a".into())
        );
    }

    #[test]
    fn storage_backends() {
        for arguments in [
            &["--storage-backend", "memory"][..],
            &["--storage-backend=MemoryStore"],
            &["--storage-backend", "file", "--state-file", "/s"],
        ] {
            assert!(settings(arguments).is_ok(), "{arguments:?}");
        }
        let error = settings(&["--storage-backend", "redis-store"]).unwrap_err();
        assert!(error.to_string().contains("--state-file FILE"), "{error}");
    }

    #[test]
    fn bad_values_are_refused() {
        for arguments in [
            &["--custom-header", "nocolon"][..],
            &["--default-target", "nonsense"],
            &["--error-target", "http://h", "--error-path", "/p"],
            &["--threads", "0"],
            &["--ssl-key", "k"],
            &["--ssl-cert", "c"],
            &["--ssl-key", "k", "--ssl-cert", "c", "--ssl-request-cert"],
            &["--client-ssl-key", "k"],
            &["--ssl-protocol", "TLSv1"],
            &["--redirect-port", "80"],
            &["--storage-backend", "file"],
            &["--protocol-rewrite", "ftp"],
            &["--trusted-proxy", "10.0.0.1/8"],
            &["--access-log-format", "json"],
            &[
                "--access-log",
                "/nowhere/at/all",
                "--access-log-format",
                "xml",
            ],
        ] {
            assert!(
                matches!(settings(arguments), Err(Error::BadOption(_))),
                "{arguments:?}"
            );
        }
        for arguments in [
            &["--socket", "/s", "--port", "1"][..],
            &["--x-forward"],
            &["--insecure=true"],
            &["--por", "1"],
            &["--timeout"],
            &["word"],
        ] {
            let arguments = std::iter::once(&"proxy").chain(arguments);
            assert!(Command::try_parse_from(arguments).is_err());
        }
    }

    /// As configurable-http-proxy's parser takes them.
    #[test]
    fn spellings() {
        let settings = settings(&[
            "--port=1",
            "--custom-header=a:1",
            "--no-x-forward",
            "--no-x-forward",
            "--port",
            "9000",
            "--custom-header",
            "b:2",
            "--custom-header",
            "A: 3",
            "--api-socket",
            "/api",
            "--api-port",
            "3",
            "--api-ip=",
            "--metrics-port",
            "4",
            "--metrics-socket",
            "/metrics",
            "--protocol-rewrite",
            "HTTPS",
            "--no-prepend-path",
            "--no-include-prefix",
        ])
        .unwrap();
        assert_eq!(settings.public.to_string(), "*:9000");
        assert_eq!(settings.api.to_string(), "/api");
        assert_eq!(settings.metrics.unwrap().to_string(), "/metrics");
        assert_eq!(settings.protocol_rewrite.as_deref(), Some("https"));
        assert!(!settings.x_forward && !settings.prepend_path && !settings.include_prefix);
        let headers: Vec<(&str, &[u8])> = settings
            .custom_headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        assert_eq!(headers, [("b", &b"2"[..]), ("a", b"3")]);
    }

    #[test]
    fn limits_have_defaults_and_can_be_set() {
        let settings = |arguments: &[&str]| settings(arguments).unwrap();
        let default = settings(&[]);
        assert_eq!(default.header_timeout, Duration::from_secs(30));
        assert_eq!(default.websocket_timeout, None);
        assert_eq!(default.tcp_keepalive, Duration::from_secs(20));
        assert_eq!(default.max_connections, usize::MAX);
        assert!(default.trusted_proxies.is_empty() && default.access_log.is_none());
        let set = settings(&[
            "--header-timeout=1000",
            "--websocket-timeout=2000",
            "--tcp-keepalive=0",
            "--max-connections=7",
            "--trusted-proxy=10.0.0.0/8,::1",
            "--trusted-proxy=192.0.2.1",
        ]);
        assert_eq!(set.header_timeout, Duration::from_secs(1));
        assert_eq!(set.websocket_timeout, Some(Duration::from_secs(2)));
        assert_eq!(set.tcp_keepalive, Duration::ZERO);
        assert_eq!(set.max_connections, 7);
        for peer in ["10.9.9.9", "::1", "192.0.2.1"] {
            assert!(
                set.trusted_proxies.contains(peer.parse().unwrap()),
                "{peer}"
            );
        }
    }

    #[test]
    fn custom_headers_are_trimmed() {
        let settings = settings(&["--custom-header", " k2 : v2 "]).unwrap();
        assert_eq!(settings.custom_headers[0].0, "k2");
        assert_eq!(settings.custom_headers[0].1, "v2");
    }
}

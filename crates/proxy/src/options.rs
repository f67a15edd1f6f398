//! The command line: configurable-http-proxy's options, and a few of our own.

use std::path::PathBuf;

use crate::{AcmeOptions, Error};

/// The options of configurable-http-proxy 5.3.0, with its names and meanings, and ours.
#[derive(Debug, Clone, Default, clap::Args)]
// The last one counts, as there.
#[command(args_override_self = true)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct Options {
    /// Address to serve users on; all interfaces when missing
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
    /// Port to serve users on [default: 8000]
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Unix socket to serve users on, instead of an address and a port
    #[arg(long, value_name = "PATH", conflicts_with_all = ["ip", "port"])]
    pub socket: Option<PathBuf>,

    /// Private key for TLS
    #[arg(long, value_name = "FILE")]
    pub ssl_key: Option<PathBuf>,
    /// Certificate for TLS
    #[arg(long, value_name = "FILE")]
    pub ssl_cert: Option<PathBuf>,
    /// Certificate authority for TLS
    #[arg(long, value_name = "FILE")]
    pub ssl_ca: Option<PathBuf>,
    /// Ask users for certificates
    #[arg(long)]
    pub ssl_request_cert: bool,
    /// Refuse users without a valid certificate
    #[arg(long)]
    pub ssl_reject_unauthorized: bool,
    /// The TLS version to use
    #[arg(long, value_name = "PROTOCOL")]
    pub ssl_protocol: Option<String>,
    /// The TLS ciphers to use
    #[arg(long, value_name = "CIPHERS")]
    pub ssl_ciphers: Option<String>,
    /// Allow the RC4 cipher
    #[arg(long)]
    pub ssl_allow_rc4: bool,
    /// Diffie-Hellman parameters for TLS
    #[arg(long, value_name = "FILE")]
    pub ssl_dhparam: Option<PathBuf>,

    /// Address of the REST API
    #[arg(long, value_name = "IP", default_value = "localhost")]
    pub api_ip: Option<String>,
    /// Port of the REST API [default: the users' port plus one]
    #[arg(long, value_name = "N")]
    pub api_port: Option<u16>,
    /// Unix socket of the REST API, instead of an address and a port
    #[arg(long, value_name = "PATH")]
    pub api_socket: Option<PathBuf>,
    /// Private key for TLS on the REST API
    #[arg(long, value_name = "FILE")]
    pub api_ssl_key: Option<PathBuf>,
    /// Certificate for TLS on the REST API
    #[arg(long, value_name = "FILE")]
    pub api_ssl_cert: Option<PathBuf>,
    /// Certificate authority for TLS on the REST API
    #[arg(long, value_name = "FILE")]
    pub api_ssl_ca: Option<PathBuf>,
    /// Ask the REST API's clients for certificates
    #[arg(long)]
    pub api_ssl_request_cert: bool,
    /// Refuse clients of the REST API without a valid certificate
    #[arg(long)]
    pub api_ssl_reject_unauthorized: bool,

    /// Private key to show to servers
    #[arg(long, value_name = "FILE")]
    pub client_ssl_key: Option<PathBuf>,
    /// Certificate to show to servers
    #[arg(long, value_name = "FILE")]
    pub client_ssl_cert: Option<PathBuf>,
    /// Certificate authority to check servers with
    #[arg(long, value_name = "FILE")]
    pub client_ssl_ca: Option<PathBuf>,
    /// Ask servers for certificates
    #[arg(long)]
    pub client_ssl_request_cert: bool,
    /// Refuse servers without a valid certificate
    #[arg(long)]
    pub client_ssl_reject_unauthorized: bool,

    /// Where requests go that no other route is for (http://host:port)
    #[arg(long, value_name = "URL")]
    pub default_target: Option<String>,
    /// Server that gives the pages for errors
    #[arg(long, value_name = "URL")]
    pub error_target: Option<String>,
    /// Folder with the pages for errors: 404.html, 503.html, error.html
    #[arg(long, value_name = "PATH")]
    pub error_path: Option<PathBuf>,
    /// Port that redirects to HTTPS
    #[arg(long, value_name = "PORT")]
    pub redirect_port: Option<u16>,
    /// Port that --redirect-port leads to
    #[arg(long, value_name = "PORT")]
    pub redirect_to: Option<u16>,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,

    /// Do not add X-Forwarded-* headers
    #[arg(long)]
    pub no_x_forward: bool,
    /// Do not put the target's path before the request's
    #[arg(long)]
    pub no_prepend_path: bool,
    /// Take the route's prefix away from the request's path
    #[arg(long)]
    pub no_include_prefix: bool,
    /// Rewrite host and port of redirects
    #[arg(long)]
    pub auto_rewrite: bool,
    /// Set the Host header to the target's
    #[arg(long)]
    pub change_origin: bool,
    /// Rewrite the protocol of redirects
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol_rewrite: Option<String>,
    /// Header to add to proxied requests, as name:value; may be repeated
    #[arg(long, value_name = "HEADER")]
    pub custom_header: Vec<String>,
    /// Do not check servers' certificates
    #[arg(long)]
    pub insecure: bool,
    /// Route by host: the first segment of each route is a host name
    #[arg(long)]
    pub host_routing: bool,

    /// Address of the metrics server; all interfaces when missing
    #[arg(long, value_name = "IP")]
    pub metrics_ip: Option<String>,
    /// Port of the metrics server; there is none without it
    #[arg(long, value_name = "N")]
    pub metrics_port: Option<u16>,
    /// Unix socket of the metrics server, instead of an address and a port
    #[arg(long, value_name = "PATH")]
    pub metrics_socket: Option<PathBuf>,
    /// How much to log: debug, info, warn or error
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: Option<String>,

    /// Milliseconds without data after which a client's connection is dropped
    #[arg(long, value_name = "MS")]
    pub timeout: Option<u64>,
    /// Milliseconds without data after which a server counts as not answering
    #[arg(long, value_name = "MS")]
    pub proxy_timeout: Option<u64>,
    /// Module that stores routes
    #[arg(long, value_name = "MODULE")]
    pub storage_backend: Option<String>,
    /// Milliseconds that a client's connection may wait for a request [default: 30000]
    #[arg(long, value_name = "MS")]
    pub keep_alive_timeout: Option<u64>,

    /// What configurable-http-proxy has not.
    #[command(flatten)]
    pub ours: OurOptions,
    /// Certificates from an authority that speaks ACME, as Let's Encrypt does.
    #[command(flatten)]
    pub acme: AcmeOptions,

    /// The token of the REST API. Not an option, because command lines can be read by all: `run`
    /// takes it from the environment variable `CONFIGPROXY_AUTH_TOKEN`.
    #[arg(skip)]
    pub auth_token: Option<Token>,
}

/// The options that configurable-http-proxy has not.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Beyond configurable-http-proxy")]
pub struct OurOptions {
    /// File that keeps the routes over a restart (ours; CHP has none)
    #[arg(long, value_name = "FILE")]
    pub state_file: Option<PathBuf>,
    /// Threads that serve users [default: the number of processors, at most 2]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Milliseconds to wait for a server to accept a connection [default: 10000]
    #[arg(long, value_name = "MS")]
    pub connect_timeout: Option<u64>,
    /// Milliseconds that requests and websockets have to end in when the proxy stops
    /// [default: 5000]
    #[arg(long, value_name = "MS")]
    pub drain_timeout: Option<u64>,
    /// Milliseconds that requests and websockets have to end in when another process has taken over
    /// (SIGUSR2) [default: 3600000, an hour]
    #[arg(long, value_name = "MS")]
    pub upgrade_drain_timeout: Option<u64>,
    /// Milliseconds that a process that is to take over (SIGUSR2) has until it serves
    /// [default: 30000]
    #[arg(long, value_name = "MS")]
    pub upgrade_timeout: Option<u64>,

    /// Network of a proxy in front of this one, as 10.0.0.0/8; may be repeated. X-Forwarded-*
    /// headers are taken from these alone, what others send of them is thrown away. Without this
    /// option all are believed
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub trusted_proxy: Vec<String>,
    /// Milliseconds without data after which a connection's other end is asked whether it is
    /// still there; 0 for never [default: 20000]
    #[arg(long, value_name = "MS")]
    pub tcp_keepalive: Option<u64>,
    /// Milliseconds that what was sent may stay unconfirmed or untaken before a connection is
    /// given up; 0 for as long as the system tries [default: 600000]
    #[arg(long, value_name = "MS")]
    pub tcp_user_timeout: Option<u64>,
    /// Milliseconds without a byte in either direction after which a websocket is closed
    /// [default: never]
    #[arg(long, value_name = "MS")]
    pub websocket_timeout: Option<u64>,
    /// Milliseconds that the head of a request may take to come [default: 30000]
    #[arg(long, value_name = "MS")]
    pub header_timeout: Option<u64>,
    /// Most connections of users at a time; more are answered 503 and closed [default: as many as
    /// the limit of open files allows]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<usize>,
    /// File to log each request to, - for standard output
    #[arg(long, value_name = "FILE")]
    pub access_log: Option<PathBuf>,
    /// Form of the access log: common, combined or json [default: combined]
    #[arg(long, value_name = "FORMAT")]
    pub access_log_format: Option<String>,

    /// Seconds that the hub's answer for a server that does not run is repeated to programs that
    /// go on asking; 0 asks the hub each time [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub edge_cache: Option<u64>,

    /// Another certificate for TLS and its private key, as CERT:KEY or one file with both, for
    /// browsers that ask for one of its names; may be repeated
    #[arg(long, value_name = "FILES")]
    pub ssl_sni: Vec<String>,
    /// Do not speak HTTP/2 with browsers that come over TLS
    #[arg(long)]
    pub no_http2: bool,
}

impl Options {
    /// The level to log at.
    pub fn level(&self) -> Result<tracing::Level, Error> {
        let level = self.log_level.as_deref().unwrap_or("info");
        match &*level.to_ascii_lowercase() {
            "error" => Ok(tracing::Level::ERROR),
            "warn" => Ok(tracing::Level::WARN),
            "info" | "http" => Ok(tracing::Level::INFO),
            "debug" | "verbose" => Ok(tracing::Level::DEBUG),
            "silly" | "trace" => Ok(tracing::Level::TRACE),
            _ => Err(Error::BadOption(format!(
                "--log-level {level}: choose debug, info, warn or error"
            ))),
        }
    }
}

/// The token of the REST API. It is never shown.
#[derive(Clone)]
pub struct Token(Box<str>);

impl Token {
    /// `None` for an empty text, which means that there is no token.
    pub fn new(token: &str) -> Option<Self> {
        (!token.is_empty()).then(|| Self(token.into()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

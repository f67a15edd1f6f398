//! Options of the proxy and of the keeper of keys.

use std::collections::BTreeMap;

use orrery_core::config::{Command, Kind, Misfit, OptionValue, Value};
use orrery_core::fernet::Key;
use orrery_core::{Secret, config_class};

config_class! {
    /// What holds for every kind of proxy.
    pub struct Proxy: "jupyterhub.proxy" [] {
        /// Extra routes: from a path (`/docs/`) to a URL.
        extra_routes: BTreeMap<String, String> = BTreeMap::new(), Works;
        /// Whether the hub starts the proxy. Set it to false if something else does.
        should_start: bool = true, Works;
    }
}

config_class! {
    /// The proxy, ours or the original: both speak the same API.
    pub struct ConfigurableHTTPProxy: "jupyterhub.proxy" ["Proxy"] {
        /// The URL of the proxy's API; `http://127.0.0.1:8001` if not set.
        api_url: String = String::new(), Works;
        /// The token of the proxy's API. If it is not set, the environment variable
        /// `CONFIGPROXY_AUTH_TOKEN` is taken; a hub that starts the proxy makes one.
        auth_token: Secret = Secret::default(), Works;
        /// Seconds between two checks whether the proxy runs.
        check_running_interval: i64 = 5, Works;
        /// The program that is the proxy. By default it is ours.
        command: Command = Command::of(["configurable-http-proxy"]), Works;
        /// The umask that the proxy is started with.
        command_umask: i64 = 0o007, Works;
        /// How many requests to the proxy's API may be under way at once.
        concurrency: i64 = 10, Works;
        /// Run the proxy with its debug log.
        debug: bool = false, Works;
        /// How much the proxy logs: `debug`, `info`, `warn` or `error`.
        log_level: ProxyLogLevel = ProxyLogLevel::Info, Works;
        /// The file that keeps the proxy's process id, so that a hub started anew finds it.
        pid_file: String = "jupyterhub-proxy.pid".to_owned(), Works;
    }
}

config_class! {
    /// Encrypts what the database keeps of people's logins.
    pub struct CryptKeeper: "jupyterhub.crypto" [] {
        /// The keys, 32 bytes each: raw, or as text in hexadecimal or base64. The first encrypts, all
        /// decrypt. If not set, they are read from `JUPYTERHUB_CRYPT_KEY`, with semicolons between.
        keys: Vec<CryptKey> = Vec::new(), Works;
        /// How many threads encrypt and decrypt. By default one for each CPU core.
        n_threads: i64 = default_threads(), Works;
    }
}

fn default_threads() -> i64 {
    std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1))
}

/// A key that encrypts what the database keeps of logins.
#[derive(Clone)]
pub struct CryptKey(pub Key);

impl OptionValue for CryptKey {
    const KIND: Kind = Kind::Bytes;
    const SECRET: bool = true;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        let key = match value {
            Value::Bytes(bytes) => Key::parse(bytes),
            Value::Text(text) => Key::parse(text.as_bytes()),
            other => return Err(Misfit::new(Self::KIND.expected(), other)),
        };
        key.map(Self).map_err(|_| Misfit {
            at: String::new(),
            expected: "32 bytes, raw or as text in hexadecimal or base64".into(),
            found: "something else".into(),
        })
    }

    fn to_value(&self) -> Value {
        Value::Bytes(self.0.expose().to_vec())
    }
}

/// How much the proxy logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyLogLevel {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What should not happen.
    Warn,
    /// What failed.
    Error,
}

impl ProxyLogLevel {
    /// The word that the proxy's `--log-level` takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl OptionValue for ProxyLogLevel {
    const KIND: Kind = Kind::OneOf(&["debug", "info", "warn", "error"]);

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        let word = String::from_value(value)?;
        [Self::Debug, Self::Info, Self::Warn, Self::Error]
            .into_iter()
            .find(|level| level.as_str().eq_ignore_ascii_case(&word))
            .ok_or_else(|| Misfit::new(Self::KIND.expected(), value))
    }

    fn to_value(&self) -> Value {
        self.as_str().into()
    }
}

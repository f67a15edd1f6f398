//! What starts, watches and ends single-user servers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::phase::{Cause, Failure};
use crate::{Secret, ServerName, UserName};

/// The variable by which a running server tells which run it is. Its value is a mark that no other
/// run has, on this database or another; see [`Spawner::find`].
pub const RUN_VARIABLE: &str = "ORRERY_RUN";

/// Everything a spawner is told of the server it starts.
#[derive(Clone)]
pub struct ServerSpec {
    /// The run's id, unique over all time; fit for names of units, containers and log files.
    pub run_id: i64,
    /// Whose server.
    pub user: UserName,
    /// Which of the user's servers.
    pub server: ServerName,
    /// Program and arguments, ready to run.
    pub command: Vec<String>,
    /// The complete environment but for `JUPYTERHUB_SERVICE_URL`, which [`ServerSpec::environment`]
    /// adds once the address is known. Values may be secrets: they go into the server's
    /// environment and nowhere else.
    pub environment: BTreeMap<String, Secret>,
    /// Key and certificate, when everything speaks TLS (`JupyterHub.internal_ssl`). The server then
    /// serves `https`, and [`Started::url`] says so.
    pub tls: Option<ServerTls>,
    /// The address the server listens on, as configured (`Spawner.ip`); empty for every address.
    pub ip: String,
    /// The port it listens on; 0 lets the spawner choose a free one.
    pub port: u16,
    /// The path that all its URLs start with, with slashes at both ends.
    pub base_url: String,
    /// `Spawner.notebook_dir` with its placeholders filled in, when set.
    pub notebook_dir: Option<String>,
    /// Limits and guarantees of the server.
    pub resources: Resources,
    /// What the user chose in the options form or sent in the request.
    pub user_options: Value,
    /// How long `start` may take.
    pub start_timeout: Duration,
}

/// What a server needs to speak TLS: its own key and certificate, and the authorities whose
/// certificates it trusts. All are PEM.
///
/// The hub has put them into files of its own. A spawner whose servers cannot read those puts the
/// texts where they can, and names those places by [`ServerSpec::environment_with_tls_at`].
#[derive(Clone)]
pub struct ServerTls {
    /// The private key. Nobody but the server's user may read it.
    pub key: Secret,
    /// The certificate.
    pub certificate: String,
    /// The authorities.
    pub authorities: String,
    /// Where the hub keeps them; absolute paths.
    pub files: TlsFiles,
}

/// Files of key, certificate and authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The private key.
    pub key: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// The authorities.
    pub authorities: PathBuf,
}

/// Limits and guarantees; `None` where the site set none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    /// Bytes of memory the server may use at most.
    pub mem_limit: Option<u64>,
    /// Bytes of memory the server is sure to have.
    pub mem_guarantee: Option<u64>,
    /// CPU cores the server may use at most.
    pub cpu_limit: Option<f64>,
    /// CPU cores the server is sure to have.
    pub cpu_guarantee: Option<f64>,
}

impl ServerSpec {
    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The complete environment of a server that listens on `ip` and `port` and can read the hub's
    /// files of its key and certificate, if it has some.
    pub fn environment(&self, ip: &str, port: u16) -> BTreeMap<String, Secret> {
        let files = self.tls.as_ref().map(|tls| tls.files.clone());
        self.environment_with_tls_at(ip, port, files.as_ref())
    }

    /// The complete environment of a server that finds its key and certificate in `files`.
    pub fn environment_with_tls_at(
        &self,
        ip: &str,
        port: u16,
        files: Option<&TlsFiles>,
    ) -> BTreeMap<String, Secret> {
        let mut environment = self.environment.clone();
        let host = if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        };
        environment
            .entry("JUPYTERHUB_SERVICE_URL".to_owned())
            .or_insert_with(|| {
                Secret::new(format!(
                    "{}://{host}:{port}{}",
                    self.scheme(),
                    self.base_url
                ))
            });
        for (name, path) in files.into_iter().flat_map(TlsFiles::variables) {
            let path = path.to_string_lossy().into_owned();
            let entry = environment.entry(name.to_owned());
            entry.or_insert_with(|| Secret::new(path));
        }
        environment
    }
}

impl TlsFiles {
    /// The variables by which `jupyterhub-singleuser` is told of them.
    fn variables(&self) -> [(&'static str, &Path); 3] {
        [
            ("JUPYTERHUB_SSL_KEYFILE", &self.key),
            ("JUPYTERHUB_SSL_CERTFILE", &self.certificate),
            ("JUPYTERHUB_SSL_CLIENT_CA", &self.authorities),
        ]
    }
}

/// A server that was started.
#[derive(Clone, Debug, PartialEq)]
pub struct Started {
    /// Where the hub and the proxy reach it: `http://host:port`, or `https`, no path.
    pub url: String,
    /// All the spawner needs to know of it again; kept in `spawners.state`.
    pub state: Value,
}

/// Whether a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It runs.
    Running,
    /// It does not, with its exit code where known (128 + n for signal n).
    Exited(Option<i32>),
}

/// What a spawner reports while it starts a server.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A step for the progress bar.
    Progress {
        /// 0 to 100; the hub keeps 100 for itself.
        percent: u8,
        /// One sentence.
        message: String,
    },
    /// State worth keeping before `start` returns, so that a hub that dies now can find the
    /// half-started server again.
    State(Value),
}

/// Where a spawner reports to. Reports to a hub that no longer listens are dropped.
#[derive(Clone, Debug)]
pub struct Events(mpsc::UnboundedSender<Event>);

impl Events {
    /// A pair of reporter and listener.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Reports a step.
    pub fn progress(&self, percent: u8, message: impl Into<String>) {
        let _ = self.0.send(Event::Progress {
            percent,
            message: message.into(),
        });
    }

    /// Reports state worth keeping at once.
    pub fn state(&self, state: Value) {
        let _ = self.0.send(Event::State(state));
    }
}

/// One backend that runs servers. One value serves all servers; what it knows of one is the JSON
/// state it returned.
///
/// The hub calls each method under a deadline and may drop its future at any await. After a restart
/// the hub calls `poll` with the last state it kept, which may come from [`Event::State`].
#[async_trait]
pub trait Spawner: Send + Sync + 'static {
    /// Starts the server and returns as soon as its address is known; the hub waits for it to answer.
    ///
    /// Called once per run. When it fails, or its future is dropped, nothing of the server may be
    /// left running that the last reported state does not name: the hub then calls `stop` with that
    /// state.
    async fn start(&self, spec: ServerSpec, events: Events) -> Result<Started, Failure>;

    /// Says whether the server of `state` runs. Called often, also with the state of a server that
    /// ended long ago or that another hub process started, and with an empty object.
    ///
    /// An error means that nobody knows (the backend does not answer): the hub then changes nothing.
    async fn poll(&self, state: &Value) -> Result<Status, Failure>;

    /// What is known of why a server ended by itself, beyond its exit code: that it was killed for memory,
    /// for instance. Called after `poll` said that it has ended; the hub adds exit code and log where
    /// they are missing.
    async fn why_ended(&self, _state: &Value) -> Option<Failure> {
        None
    }

    /// Ends the server of `state`: politely at first, by force when `grace` has passed. Returns when
    /// it is gone. A second call, or one for a server already gone, is no error. `None` lets the
    /// spawner's own timeouts hold.
    async fn stop(&self, state: &Value, grace: Option<Duration>) -> Result<(), Failure>;

    /// How long [`Spawner::stop`] without a `grace` may take until force has been used as well. The
    /// hub waits that long at least before it gives a stop up.
    fn stop_patience(&self) -> Duration {
        Duration::ZERO
    }

    /// Looks for a server that runs though no state of it was kept: the hub was killed, or stopped
    /// listening, after the server began and before [`Event::State`] was in the database. `mark` is the
    /// value of [`RUN_VARIABLE`] that the server's environment had, `user` the name of its owner: nobody
    /// else's processes are to be looked into.
    ///
    /// Called when a run without a state is ended. The hub passes what is found to `stop`, like any
    /// other state. A spawner whose `start` reports its state before anything can run need not
    /// implement this. An error means that nobody knows.
    async fn find(&self, _mark: &str, _user: &str) -> Result<Option<Value>, Failure> {
        Ok(None)
    }

    /// The state to keep of a server that JupyterHub started, from the state that JupyterHub kept of it:
    /// that alone may not be enough to tell the server from what comes after it. `user` is its owner's
    /// name and `base_url` the path that all its URLs start with, as it was told when it began.
    ///
    /// Called once, before anything else is asked of such a server. Whether it runs is for `poll`.
    async fn adopt(&self, state: &Value, _user: &str, _base_url: &str) -> Value {
        state.clone()
    }

    /// The last lines that the server wrote, oldest first, at most `lines`; also after its end.
    async fn logs(&self, state: &Value, lines: usize) -> Vec<String>;

    /// What a start would need that this machine lacks, checked once when the hub starts.
    async fn check(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A failure of the spawner itself.
pub fn spawner_failure(message: impl Into<String>) -> Failure {
    Failure::new(Cause::Spawner, message)
}

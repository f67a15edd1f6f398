//! Servers as processes of the system accounts of their owners: JupyterHub's default spawner. The
//! session helper makes, signals and finds them; the hub itself needs no rights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::unistd::User;
use orrery_core::phase::{Cause, Failure};
use orrery_core::spawner::{
    Events, RUN_VARIABLE, Resources, ServerSpec, Spawner, Started, Status, TlsFiles,
    spawner_failure,
};
use orrery_core::{Secret, fault};
use orrery_session::client::{Helper, HelperError};
use orrery_session::protocol::{self, Answer, Fault, Request};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::children::Children;
use super::command;
use super::limits;
use super::logs::{self, Log};
use super::ports::{self, Reserved};
use super::process::{Process, State};
use super::settings::{Settings, SettingsError};
use crate::config::{LocalProcessSpawner, SimpleLocalProcessSpawner};

/// How long the helper may take for anything but a start.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the helper may take to look at a server that JupyterHub started.
const LOOK: Duration = Duration::from_secs(5);
/// How long the helper's keeper gets to end what a server left behind.
const SWEEP: Duration = Duration::from_secs(6);

/// Runs each server as the system account that has its owner's name.
pub struct LocalProcess {
    settings: Arc<Settings>,
    helper: Helper,
    children: Arc<Children>,
    session: Option<protocol::PamSession>,
    /// What the configuration limits for all servers.
    configured: Resources,
}

impl LocalProcess {
    /// A spawner with these options. The servers' logs go to `logs_folder`, an absolute path, which
    /// is made for the hub's user alone when it is missing.
    pub fn new(
        local: &LocalProcessSpawner,
        helper: Helper,
        logs_folder: impl Into<PathBuf>,
    ) -> Result<Self, SettingsError> {
        // No folder of this spawner's comes from the template, which is the other spawner's.
        let unused =
            <SimpleLocalProcessSpawner as orrery_core::config::ConfigClass>::with_defaults();
        let mut settings = Settings::read(local, &unused, logs_folder.into())?;
        // The helper stands elsewhere, so a path is told from the root.
        settings.cwd = settings
            .cwd
            .map(|folder| std::path::absolute(&folder).unwrap_or(folder));
        Ok(Self {
            settings: Arc::new(settings),
            helper,
            children: Arc::default(),
            session: None,
            configured: Resources::default(),
        })
    }

    /// Says at start if this machine does not hold servers to these limits of the configuration.
    #[must_use]
    pub fn expecting(self, configured: Resources) -> Self {
        Self { configured, ..self }
    }

    /// Lets a PAM session of this service be open while a server runs.
    #[must_use]
    pub fn with_session(mut self, service: &str) -> Self {
        self.session = Some(protocol::PamSession {
            service: service.to_owned(),
        });
        self
    }

    async fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        match self.helper.ask(request, PATIENCE).await {
            Ok(Answer::Failed { message, .. }) => Err(spawner_failure(message)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(spawner_failure(error.to_string())),
        }
    }

    /// Signals a server and all that it started; says whether it was there.
    async fn signal(&self, state: &State, signal: i32) -> Result<bool, Failure> {
        if !state.process.is_of_this_boot() {
            return Ok(false);
        }
        let request = Request::Signal(protocol::Signal {
            pid: state.process.pid(),
            start_time: state.process.start_time(),
            given: state.given.clone(),
            user: state.user.clone(),
            signal,
            group: true,
        });
        match self.ask(&request).await? {
            Answer::Signalled => Ok(true),
            Answer::Gone => Ok(false),
            _ => Err(spawner_failure(HelperError::Unexpected.to_string())),
        }
    }

    async fn status(&self, state: &State) -> Result<Status, Failure> {
        if let Some(exit) = self.children.exit_of(&state.process) {
            return Ok(*exit.borrow());
        }
        let runs = if state.process.start_time().is_some() || state.given.is_empty() {
            state.process.is_alive()
        } else {
            // JupyterHub remembers no more than the id. Whether this is its server, only the helper
            // can see.
            self.signal(state, 0).await?
        };
        Ok(if runs {
            Status::Running
        } else {
            Status::Exited(None)
        })
    }

    /// Waits until a server is gone, at most `patience`.
    async fn wait_for_end(&self, state: &State, patience: Duration) -> Result<bool, Failure> {
        let deadline = Instant::now() + patience;
        if let Some(mut exit) = self.children.exit_of(&state.process) {
            let ended = exit.wait_for(|status| *status != Status::Running);
            match timeout(patience, ended).await {
                Err(_) => return Ok(false),
                Ok(Ok(_)) => return Ok(true),
                // Its keeper was killed, so nobody tells: look.
                Ok(Err(_)) => {}
            }
        }
        let mut pause = Duration::from_millis(5);
        while self.status(state).await? == Status::Running {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
        self.wait_for_the_keeper(state).await;
        Ok(true)
    }

    /// While the keeper ends what the server left behind, the server's id stays taken.
    async fn wait_for_the_keeper(&self, state: &State) {
        let deadline = Instant::now() + SWEEP;
        while state.process.is_listed() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What the keeper of a server wrote of its end, when the hub that had started it was gone: the
    /// exit code, and whether it was for memory.
    async fn heard(&self, state: &State) -> Option<(i32, bool)> {
        let log = self.settings.logs_folder.join(state.log.as_ref()?);
        protocol::heard(&logs::tail(&log, 2).await)
    }

    /// Why the helper gave no answer to a start: what it, or sudo, said stands in the log.
    async fn explain(&self, error: HelperError, log: &str) -> Failure {
        let mut message = error.to_string();
        if matches!(error, HelperError::Silent(_)) {
            let said = logs::tail(&self.settings.logs_folder.join(log), 3).await;
            if !said.is_empty() {
                message = format!("The session helper gave no answer: {}", said.join(" "));
            }
        }
        let cause = match error {
            HelperError::Deadline(_) => Cause::Timeout,
            _ => Cause::Spawner,
        };
        Failure::new(cause, message)
    }
}

#[async_trait]
impl Spawner for LocalProcess {
    async fn start(&self, spec: ServerSpec, events: Events) -> Result<Started, Failure> {
        let settings = Arc::clone(&self.settings);
        let children = Arc::clone(&self.children);
        let session = self.session.clone();
        let patience = spec.start_timeout;
        let user = spec.user.as_str().to_owned();
        let mem_limit = spec.resources.mem_limit.filter(|bytes| *bytes > 0);
        // Accounts may come from a server of the network, and files from a slow disk.
        let prepared =
            tokio::task::spawn_blocking(move || prepare(&settings, &children, &spec, session))
                .await
                .map_err(|error| spawner_failure(format!("The start broke off: {error}.")))??;
        let Prepared {
            request,
            log,
            port,
            scheme,
            ip,
            number,
        } = prepared;

        fault::point("process-soon");
        // Dropped here, the helper notices and leaves no server; see `Helper::start`.
        let launched = match self.helper.start(request, log.file, patience).await {
            Ok(Ok(launched)) => launched,
            Ok(Err((fault, message))) => {
                let cause = match fault {
                    Fault::Command => Cause::Command,
                    _ => Cause::Spawner,
                };
                return Err(Failure::new(cause, message));
            }
            Err(error) => return Err(self.explain(error, &log.name).await),
        };
        fault::point("process-made");
        let process = self.children.watch(launched, port);
        let mut state = state_of(&process, &user, &log.name);
        if let Some(bytes) = mem_limit {
            state["mem_limit"] = json!(bytes);
        }
        events.state(state.clone());
        events.progress(20, "The server's process is running.");
        Ok(Started {
            url: format!("{scheme}://{}:{number}", ports::reachable(&ip)),
            state,
        })
    }

    async fn poll(&self, state: &Value) -> Result<Status, Failure> {
        let Some(state) = State::parse(state) else {
            return Ok(Status::Exited(None));
        };
        let mut status = self.status(&state).await?;
        if status == Status::Exited(None) {
            self.wait_for_the_keeper(&state).await;
            status = Status::Exited(self.heard(&state).await.map(|(code, _)| code));
        }
        if status == Status::Running
            && let Some(log) = &state.log
        {
            logs::bound(&self.settings.logs_folder.join(log)).await;
        }
        Ok(status)
    }

    async fn why_ended(&self, state: &Value) -> Option<Failure> {
        let state = State::parse(state)?;
        let is_for_memory = self.children.was_out_of_memory(&state.process)
            || self.children.exit_of(&state.process).is_none()
                && self
                    .heard(&state)
                    .await
                    .is_some_and(|(_, for_memory)| for_memory);
        is_for_memory.then(|| limits::out_of_memory(state.mem_limit))
    }

    async fn stop(&self, state: &Value, grace: Option<Duration>) -> Result<(), Failure> {
        let Some(state) = State::parse(state) else {
            return Ok(());
        };
        if self.status(&state).await? != Status::Running {
            self.wait_for_end(&state, Duration::ZERO).await?;
            return Ok(());
        }
        for (signal, patience) in self.settings.stop_signals(grace) {
            self.signal(&state, signal as i32).await?;
            fault::point("process-signalled");
            if self.wait_for_end(&state, patience).await? {
                fault::point("process-gone");
                return Ok(());
            }
        }
        Err(state.process.does_not_end())
    }

    fn stop_patience(&self) -> Duration {
        self.settings.stop_patience()
    }

    async fn find(&self, mark: &str, user: &str) -> Result<Option<Value>, Failure> {
        let request = Request::Find(protocol::Find {
            variable: RUN_VARIABLE.to_owned(),
            value: mark.to_owned(),
            user: user.to_owned(),
        });
        match self.ask(&request).await? {
            // Of the account that was named: the helper looks at no other's.
            Answer::Found {
                pid, start_time, ..
            } => {
                let process = Process::named(pid, Some(start_time));
                Ok(Some(state_of(&process, user, "")))
            }
            Answer::Gone => Ok(None),
            _ => Err(spawner_failure(HelperError::Unexpected.to_string())),
        }
    }

    async fn adopt(&self, state: &Value, user: &str, base_url: &str) -> Value {
        let Some((known, server)) = State::adopted(state, user, base_url) else {
            return state.clone();
        };
        // Two looks with the same answer: it is this one that the helper saw between them.
        let began = server.process.present_start();
        match timeout(LOOK, self.signal(&server, 0)).await {
            Ok(Ok(true)) if server.process.present_start() == began => {
                Process::named(server.process.pid(), began).added_to(known)
            }
            Ok(Err(failure)) => {
                tracing::warn!(
                    user,
                    "it is not known yet when a server of JupyterHub's began: {}",
                    failure.message
                );
                known
            }
            // Ended, or the helper takes its time: whether it runs is asked later.
            _ => known,
        }
    }

    async fn logs(&self, state: &Value, lines: usize) -> Vec<String> {
        logs::of_state(&self.settings.logs_folder, state, lines).await
    }

    async fn check(&self) -> Result<(), Failure> {
        logs::check(&self.settings.logs_folder).await?;
        // With `hidepid`, other users' processes look as if they had ended.
        if !std::path::Path::new("/proc/1/stat").exists() {
            return Err(spawner_failure(
                "The hub cannot see other users' processes, because /proc is mounted with hidepid: \
                 put the hub's user into the group that its option gid= names.",
            ));
        }
        match self.ask(&Request::Check).await {
            Ok(Answer::Able) => {
                limits::warn_of_what_is_missing(&self.helper, &self.configured).await;
                Ok(())
            }
            Ok(_) => Err(spawner_failure(HelperError::Unexpected.to_string())),
            Err(failure) => Err(spawner_failure(format!(
                "Servers cannot be started as system users: {} Run the hub as root, or allow its \
                 user to run orrery-session by sudo and set c.JupyterHub.session_helper = [\"sudo\", \
                 \"-n\", \"/usr/lib/orrery/orrery-session\"]; docs/unprivileged-hub.md says how. The \
                 helper that was tried is `{}`.",
                failure.message,
                self.helper.command().join(" ")
            ))),
        }
    }
}

/// The state to keep. `pid` is upstream's key, so that either hub finds the other's servers.
fn state_of(process: &Process, user: &str, log: &str) -> Value {
    let mut state = process.state(log);
    if !user.is_empty() {
        state["user"] = json!(user);
    }
    state
}

/// All that a start needs before the helper is asked.
struct Prepared {
    request: protocol::Start,
    log: Log,
    port: Option<Reserved>,
    /// `http` or `https`.
    scheme: &'static str,
    ip: String,
    number: u16,
}

fn prepare(
    settings: &Settings,
    children: &Children,
    spec: &ServerSpec,
    session: Option<protocol::PamSession>,
) -> Result<Prepared, Failure> {
    let name = spec.user.as_str();
    let account = User::from_name(name)
        .map_err(|error| {
            spawner_failure(format!(
                "The system user {name} cannot be looked up: {error}."
            ))
        })?
        .ok_or_else(|| {
            spawner_failure(format!("There is no system user {name} on this machine."))
        })?;
    let log = logs::create(&settings.logs_folder, spec)?;
    let port = match spec.port {
        0 => Some(children.ports.choose(&spec.ip)?),
        _ => None,
    };
    let number = port.as_ref().map_or(spec.port, Reserved::number);

    let (files, tls_files) = certificates(spec, &account.dir);
    let mut environment = spec.environment_with_tls_at(&spec.ip, number, tls_files.as_ref());
    let home = account.dir.to_string_lossy();
    let shell = account.shell.to_string_lossy();
    for (variable, value) in [("USER", name), ("HOME", &home), ("SHELL", &shell)] {
        // As JupyterHub: what the account does not say stays as the configuration has it.
        if !value.is_empty() {
            environment.insert(variable.to_owned(), Secret::new(value));
        }
    }
    let environment: BTreeMap<String, protocol::Secret> = environment
        .into_iter()
        .map(|(variable, value)| (variable, protocol::Secret::new(value.expose())))
        .collect();
    let folder = settings.cwd.as_ref();
    Ok(Prepared {
        request: protocol::Start {
            user: name.to_owned(),
            command: command::in_shell(settings, &spec.command),
            environment,
            folder: folder.map(|folder| folder.to_string_lossy().into_owned()),
            umask: settings.umask,
            session,
            limits: limits::of(spec),
            files,
        },
        log,
        port,
        scheme: spec.scheme(),
        ip: spec.ip.clone(),
        number,
    })
}

/// Key and certificate of the server as files of the account, where upstream puts them, and where
/// that is. Servers of one person have each their own.
fn certificates(spec: &ServerSpec, home: &Path) -> (Vec<protocol::File>, Option<TlsFiles>) {
    let Some(tls) = &spec.tls else {
        return (Vec::new(), None);
    };
    let folder = home.join(".jupyterhub/jupyterhub-certs");
    let place = |path: &Path| folder.join(path.file_name().unwrap_or_default());
    let files = TlsFiles {
        key: place(&tls.files.key),
        certificate: place(&tls.files.certificate),
        authorities: place(&tls.files.authorities),
    };
    let contents = [
        (&files.key, tls.key.expose()),
        (&files.certificate, tls.certificate.as_str()),
        (&files.authorities, tls.authorities.as_str()),
    ];
    let written = contents.map(|(path, content)| protocol::File {
        path: path.to_string_lossy().into_owned(),
        content: protocol::Secret::new(content),
        mode: 0o600,
    });
    (written.into(), Some(files))
}

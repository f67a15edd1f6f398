//! Servers as processes on the hub's machine: as their owners' system accounts ([`LocalProcess`]), or
//! all as the hub's own user ([`Simple`]), for tests and for groups who trust each other.

mod accounts;
mod children;
mod command;
mod limits;
mod logs;
mod ports;
mod process;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;
use orrery_core::phase::{Cause, Failure};
use orrery_core::spawner::{
    Events, RUN_VARIABLE, ServerSpec, Spawner, Started, Status, spawner_failure,
};
use orrery_core::{Secret, fault};
use serde_json::Value;
use tokio::time::Instant;

pub use self::accounts::LocalProcess;
use self::children::Children;
use self::process::{Process, State};
use self::settings::Settings;
pub use self::settings::SettingsError;
use crate::config::{LocalProcessSpawner, SimpleLocalProcessSpawner};

/// Runs servers as processes of the hub's own user.
pub struct Simple {
    settings: Arc<Settings>,
    children: Arc<Children>,
}

impl Simple {
    /// A spawner with these options. The servers' logs go to `logs_folder`, an absolute path, which
    /// is made for the hub's user alone when it is missing.
    pub fn new(
        local: &LocalProcessSpawner,
        simple: &SimpleLocalProcessSpawner,
        logs_folder: impl Into<PathBuf>,
    ) -> Result<Self, SettingsError> {
        Ok(Self {
            settings: Arc::new(Settings::read(local, simple, logs_folder.into())?),
            children: Arc::new(Children::default()),
        })
    }

    /// Signals the server and waits until it is gone, at most `patience`.
    async fn end_by(
        &self,
        process: &Process,
        signal: Signal,
        patience: Duration,
    ) -> Result<bool, Failure> {
        process
            .signal(signal)
            .map_err(|error| spawner_failure(format!("The server could not be ended: {error}.")))?;
        fault::point("process-signalled");
        Ok(self.wait_for_end(process, patience).await)
    }

    async fn wait_for_end(&self, process: &Process, patience: Duration) -> bool {
        if let Some(mut exit) = self.children.exit_of(process) {
            let ended = exit.wait_for(|status| *status != Status::Running);
            return tokio::time::timeout(patience, ended).await.is_ok();
        }
        // Not our child, so nobody tells us: look.
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(5);
        while process.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        true
    }
}

#[async_trait]
impl Spawner for Simple {
    async fn start(&self, spec: ServerSpec, events: Events) -> Result<Started, Failure> {
        // Making folders and processes blocks. The turnstile makes a start whose future is dropped
        // end before its process exists or after its state was reported, never between.
        let turnstile = Arc::new(Turnstile::default());
        let guard = CloseOnDrop(Arc::clone(&turnstile));
        let settings = Arc::clone(&self.settings);
        let children = Arc::clone(&self.children);
        let started = tokio::task::spawn_blocking(move || {
            let closed = turnstile.0.lock().unwrap_or_else(PoisonError::into_inner);
            if *closed {
                return Err(Failure::new(Cause::Cancelled, "The start was cancelled."));
            }
            launch(&settings, &children, &spec, &events)
        })
        .await
        .map_err(|error| spawner_failure(format!("The start broke off: {error}.")))?;
        drop(guard);
        started
    }

    async fn poll(&self, state: &Value) -> Result<Status, Failure> {
        let Some(state) = State::parse(state) else {
            return Ok(Status::Exited(None));
        };
        let process = state.confirmed();
        let status = match self.children.exit_of(&process) {
            Some(exit) => *exit.borrow(),
            None if process.is_alive() => Status::Running,
            None => Status::Exited(None),
        };
        if status == Status::Running
            && let Some(log) = &state.log
        {
            logs::bound(&self.settings.logs_folder.join(log)).await;
        }
        Ok(status)
    }

    async fn stop(&self, state: &Value, grace: Option<Duration>) -> Result<(), Failure> {
        let Some(process) = State::parse(state).map(|state| state.confirmed()) else {
            return Ok(());
        };
        let already_ended = self.children.exit_of(&process).map_or_else(
            || !process.is_alive(),
            |exit| *exit.borrow() != Status::Running,
        );
        if already_ended {
            return Ok(());
        }
        for (signal, patience) in self.settings.stop_signals(grace) {
            if self.end_by(&process, signal, patience).await? {
                process.sweep_group();
                fault::point("process-gone");
                return Ok(());
            }
        }
        Err(process.does_not_end())
    }

    fn stop_patience(&self) -> Duration {
        self.settings.stop_patience()
    }

    async fn find(&self, mark: &str, _user: &str) -> Result<Option<Value>, Failure> {
        let mark = mark.to_owned();
        let found = tokio::task::spawn_blocking(move || Process::find(RUN_VARIABLE, &mark))
            .await
            .map_err(|error| spawner_failure(format!("The search broke off: {error}.")))?
            .map_err(|error| {
                spawner_failure(format!("The processes cannot be looked through: {error}."))
            })?;
        Ok(found.map(|process| process.state("")))
    }

    async fn adopt(&self, state: &Value, user: &str, base_url: &str) -> Value {
        match State::adopted(state, user, base_url) {
            Some((known, server)) => server.confirmed().added_to(known),
            None => state.clone(),
        }
    }

    async fn logs(&self, state: &Value, lines: usize) -> Vec<String> {
        logs::of_state(&self.settings.logs_folder, state, lines).await
    }

    async fn check(&self) -> Result<(), Failure> {
        logs::check(&self.settings.logs_folder).await
    }
}

/// Makes the server's process and reports its state.
fn launch(
    settings: &Settings,
    children: &Arc<Children>,
    spec: &ServerSpec,
    events: &Events,
) -> Result<Started, Failure> {
    let home = PathBuf::from(settings.home_of(spec.user.as_str()));
    make_home(&home)?;
    let log = logs::create(&settings.logs_folder, spec)?;
    let port = match spec.port {
        0 => Some(children.ports.choose(&spec.ip)?),
        _ => None,
    };
    let number = port.as_ref().map_or(spec.port, ports::Reserved::number);

    let mut environment = spec.environment(&spec.ip, number);
    for (name, value) in [
        ("USER", spec.user.as_str()),
        ("HOME", &home.to_string_lossy()),
        ("SHELL", "/bin/bash"),
    ] {
        environment.insert(name.to_owned(), Secret::new(value));
    }
    let folder = settings.cwd.as_deref().unwrap_or(&home);
    let command = command::prepare(settings, &spec.command, &environment, folder)?;
    fault::point("process-soon");
    let process = children.spawn(command, &log.file, port)?;
    fault::point("process-made");

    let state = process.state(&log.name);
    events.state(state.clone());
    events.progress(20, "The server's process is running.");
    Ok(Started {
        url: format!(
            "{}://{}:{number}",
            spec.scheme(),
            ports::reachable(&spec.ip)
        ),
        state,
    })
}

fn make_home(home: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(home)
        .map_err(|error| {
            Failure::new(
                Cause::Command,
                format!(
                    "The home folder {} cannot be made: {error}.",
                    home.display()
                ),
            )
        })
}

/// Whether a start may no longer make its process. Held while it makes one.
#[derive(Default)]
struct Turnstile(Mutex<bool>);

/// Closes the turnstile when a start is dropped.
struct CloseOnDrop(Arc<Turnstile>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

//! The processes that this hub itself started: how they ended, and which ports they were given.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orrery_core::phase::Failure;
use orrery_core::spawner::{Status, spawner_failure};
use orrery_session::client::Launched;
use tokio::process::Child;
use tokio::sync::watch;

use super::command::Prepared;
use super::ports::{Ports, Reserved};
use super::process::Process;

/// So many ends are remembered.
const REMEMBERED: usize = 1000;

/// Whether a child runs, and how it ended.
pub(super) type Exit = watch::Receiver<Status>;

#[derive(Default)]
pub(super) struct Children {
    known: Mutex<Known>,
    pub(super) ports: Ports,
}

#[derive(Default)]
struct Known {
    exits: HashMap<Process, Exit>,
    ended: VecDeque<Process>,
    /// Those of `ended` that were killed for memory.
    for_memory: HashSet<Process>,
}

impl Children {
    /// Starts a command with its output going to `log`. The port stays reserved while it runs.
    pub(super) fn spawn(
        self: &Arc<Self>,
        mut prepared: Prepared,
        log: &File,
        port: Option<Reserved>,
    ) -> Result<Process, Failure> {
        let output = |file: &File| {
            file.try_clone()
                .map_err(|error| spawner_failure(format!("The log cannot be shared: {error}.")))
        };
        prepared.command.stdout(output(log)?).stderr(output(log)?);
        let child = prepared
            .command
            .spawn()
            .map_err(|error| prepared.explain(&error))?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .expect("a child that was not waited for has an id");
        let process = Process::of_child(pid);
        let (ended, exit) = watch::channel(Status::Running);
        self.known().exits.insert(process, exit);
        tokio::spawn(watch_over(Arc::clone(self), child, process, ended, port));
        Ok(process)
    }

    /// Watches over a server that the session helper started. The port stays reserved while it runs.
    pub(super) fn watch(self: &Arc<Self>, launched: Launched, port: Option<Reserved>) -> Process {
        let process = Process::named(launched.pid, Some(launched.start_time));
        let (ended, exit) = watch::channel(Status::Running);
        self.known().exits.insert(process, exit);
        let children = Arc::clone(self);
        tokio::spawn(async move {
            let end = launched.ended().await;
            drop(port);
            match end {
                Some(end) => {
                    if end.out_of_memory {
                        children.known().for_memory.insert(process);
                    }
                    ended.send_replace(Status::Exited(Some(end.exit_code)));
                    children.remember_end(process);
                }
                // The keeper was killed: how and when the server ends only `/proc` tells.
                None => {
                    children.known().exits.remove(&process);
                }
            }
        });
        process
    }

    /// How a process ended or will, if this hub started it.
    pub(super) fn exit_of(&self, process: &Process) -> Option<Exit> {
        self.known().exits.get(process).cloned()
    }

    /// Whether a process that this hub had started was killed for memory.
    pub(super) fn was_out_of_memory(&self, process: &Process) -> bool {
        self.known().for_memory.contains(process)
    }

    fn remember_end(&self, process: Process) {
        let mut known = self.known();
        known.ended.push_back(process);
        if known.ended.len() > REMEMBERED
            && let Some(oldest) = known.ended.pop_front()
        {
            known.exits.remove(&oldest);
            known.for_memory.remove(&oldest);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a child, so that it leaves no zombie, and for as long as it lives.
async fn watch_over(
    children: Arc<Children>,
    mut child: Child,
    process: Process,
    ended: watch::Sender<Status>,
    port: Option<Reserved>,
) {
    use std::os::unix::process::ExitStatusExt as _;
    let code = match child.wait().await {
        Ok(status) => status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal)),
        Err(error) => {
            tracing::warn!(pid = process.pid(), %error, "cannot wait for a server's process");
            None
        }
    };
    process.sweep_group();
    drop(port);
    ended.send_replace(Status::Exited(code));
    children.remember_end(process);
}

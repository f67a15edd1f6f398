//! The proxy as a process of its own: its signals, its pid file, and what systemd is told.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::PathBuf,
};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    Error, Options, Token, handover,
    passed::{self, PassedSockets},
    server::start_with,
};

/// Runs the proxy until SIGTERM or SIGINT, for `orrery proxy`.
///
/// It starts logging at `--log-level` unless the program already logs, reads the token from
/// `CONFIGPROXY_AUTH_TOKEN` unless the options hold one, and writes the pid file. Sockets that
/// systemd passes are used instead of new ones. After the signal it accepts nothing new and waits
/// for requests and websockets until `--drain-timeout`; a second signal ends it at once. SIGHUP has
/// it read keys and certificates again. At SIGUSR2 a new process of the program on disk takes over,
/// and this one ends when it has served what it has, or at `--upgrade-drain-timeout`.
pub async fn run(mut options: Options) -> Result<(), Error> {
    crate::init_logging(&options)?;
    if options.auth_token.is_none() {
        let token = std::env::var("CONFIGPROXY_AUTH_TOKEN").unwrap_or_default();
        options.auth_token = Token::new(&token);
    }
    let mut signals = EndSignals::new()?;
    let mut hangup = listen_to(SignalKind::hangup())?;
    let mut upgrade = listen_to(SignalKind::user_defined2())?;
    match passed::raise_file_limit() {
        Ok(Some(limit)) => tracing::info!("{limit} files may be open"),
        Ok(None) => tracing::info!("Any number of files may be open"),
        Err(error) => tracing::warn!("internal: the limit of open files stays: {error}"),
    }
    let (sockets, mut predecessor) = match handover::receive()? {
        Some((sockets, predecessor)) => (sockets, Some(predecessor)),
        None => (PassedSockets::from_systemd()?, None),
    };
    let pid_path = options.pid_file.clone();
    let mut handle = start_with(options, sockets, predecessor.as_mut()).await?;
    let mut pid_file = pid_path.map(PidFile::open).transpose()?;
    // From here on nothing may end this process: there is no other any more.
    if let Some(predecessor) = predecessor {
        handle.relieve(predecessor).await;
        if let Some(pid_file) = &mut pid_file
            && let Err(error) = pid_file.write()
        {
            tracing::error!("{error}");
        }
    } else if let Some(pid_file) = &mut pid_file {
        pid_file.write()?;
    }
    notify(&[NotifyState::Ready]);
    let mut is_broken = false;
    loop {
        tokio::select! {
            () = signals.end() => break,
            _ = hangup.recv() => handle.reload(),
            () = handle.shared.broken.cancelled() => {
                is_broken = true;
                break;
            }
            _ = upgrade.recv() => {
                let successor = tokio::select! {
                    successor = handle.hand_over() => successor,
                    () = signals.end() => break,
                };
                if let Some(successor) = successor {
                    // The files under these names are the successor's.
                    if let Some(pid_file) = pid_file.take() {
                        pid_file.leave();
                    }
                    handle.retire(successor).await;
                    let retired = handle.retired();
                    tokio::pin!(retired);
                    loop {
                        tokio::select! {
                            () = &mut retired => break,
                            () = signals.end() => break,
                            // What is open still speaks with servers, and is logged.
                            _ = hangup.recv() => handle.reload(),
                        }
                    }
                    break;
                }
            }
        }
    }
    if !handle.shared.retire.is_cancelled() {
        notify(&[NotifyState::Stopping]);
    }
    let kill = handle.shared.kill.clone();
    let shutdown = handle.shutdown();
    tokio::pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => {}
        () = signals.end() => {
            kill.cancel();
            shutdown.await;
        }
    }
    if is_broken {
        return Err(Error::WorkerDied);
    }
    Ok(())
}

/// The signals that end a proxy.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

fn listen_to(kind: SignalKind) -> Result<Signal, Error> {
    signal(kind).map_err(|source| Error::System {
        action: "listen to signals",
        source,
    })
}

impl EndSignals {
    fn new() -> Result<Self, Error> {
        Ok(Self {
            terminate: listen_to(SignalKind::terminate())?,
            interrupt: listen_to(SignalKind::interrupt())?,
        })
    }

    /// Returns when the proxy shall end.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::warn!("Terminated"),
            _ = self.interrupt.recv() => tracing::warn!("Interrupted"),
        }
    }
}

/// Tells systemd, if it has started us and asks.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("internal: systemd could not be told how the proxy is: {error}");
    }
}

/// Removed when the proxy ends in good order.
struct PidFile {
    file: File,
    /// `None` when the file is another process's.
    path: Option<PathBuf>,
}

impl PidFile {
    /// Makes sure that it can be written. What stands there stays until [`PidFile::write`].
    fn open(path: PathBuf) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        match options.write(true).create(true).truncate(false).open(&path) {
            Ok(file) => Ok(Self {
                file,
                path: Some(path),
            }),
            Err(source) => Err(Error::File {
                action: "write the pid file",
                path,
                source,
            }),
        }
    }

    fn write(&mut self) -> Result<(), Error> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let pid = std::process::id();
        tracing::info!("Writing pid {pid} to {}", path.display());
        let emptied = self.file.set_len(0);
        emptied
            .and_then(|()| self.file.write_all(pid.to_string().as_bytes()))
            .map_err(|source| Error::File {
                action: "write the pid file",
                path: path.clone(),
                source,
            })
    }

    /// Another process writes it now.
    fn leave(mut self) {
        self.path = None;
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let Some(path) = &self.path else { return };
        let ours = std::process::id().to_string();
        if fs::read_to_string(path).is_ok_and(|pid| pid == ours) {
            let _ = fs::remove_file(path);
        }
    }
}

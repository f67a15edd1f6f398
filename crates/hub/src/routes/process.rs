//! The proxy as a process: started by the hub, outliving it, found again, restarted when it dies.

mod error;
mod hold;
mod settings;
mod system;

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orrery_core::fault;
use orrery_core::routes::RouteTable as _;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::error::ProxyError;
pub use self::hold::ProxyHold;
use self::settings::program_words;
pub use self::settings::{ProxyCommand, ProxySettings, derived_token};
use self::system::{find_program, has_option, is_alive, is_called, is_of_our_user, is_taken};
use super::{HttpRouteTable, Keeper};

/// The environment variable by which hub and proxy share their token.
const TOKEN_VARIABLE: &str = "CONFIGPROXY_AUTH_TOKEN";

/// What systemd gives to a service for talking to it.
const OF_SYSTEMD: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// How long a proxy may take until its API answers.
const UP: Duration = Duration::from_secs(15);
/// How long a proxy may take to end after SIGTERM. Ours lets websockets run for `--drain-timeout`,
/// which is 5 s, and then has its own files and sockets to see to.
const DOWN: Duration = Duration::from_secs(10);
/// How long the ports of a proxy that has ended may stay taken.
const LET_GO: Duration = Duration::from_secs(1);
/// The pause between two looks while waiting for either.
const LOOK: Duration = Duration::from_millis(20);
/// The pause between two looks whether a proxy that is not our child still lives.
const WATCH: Duration = Duration::from_millis(250);
/// The first and the longest pause before a dead proxy is started again. One that had come up is
/// missed by everybody, so that even after many deaths it is there again within a second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));
/// The longest pause between two starts that fail.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A proxy that lived this long did not die of its start.
const HEALTHY: Duration = Duration::from_secs(30);

/// So many processes are looked for that took a proxy's place one after the other.
const MOST_SUCCESSORS: usize = 4;

/// The proxy that this hub looks after. Dropping it leaves the proxy running.
pub struct ProxyProcess(Arc<Inner>);

struct Inner {
    settings: ProxySettings,
    table: Arc<HttpRouteTable>,
    running: Mutex<Option<Running>>,
    /// Its process, also while `running` is lent to whoever waits for its end; 0 for none.
    pid: AtomicI32,
    closing: CancellationToken,
    /// What starts the proxy again.
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

/// A proxy that runs, or did a moment ago.
enum Running {
    /// Started by this hub.
    Child(Child),
    /// Started by an earlier life of the hub.
    Found(Pid),
}

impl Running {
    /// Returns when it has ended.
    async fn ended(&mut self) -> String {
        match self {
            Self::Child(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            Self::Found(pid) => {
                while is_alive(*pid) {
                    tokio::time::sleep(WATCH).await;
                }
                "its status is not known".to_owned()
            }
        }
    }
}

impl ProxyProcess {
    /// Finds the proxy that an earlier life of this hub left, or starts one, and waits until its API
    /// answers. Where something else looks after the proxy, nothing is done.
    pub async fn start(
        settings: ProxySettings,
        table: Arc<HttpRouteTable>,
    ) -> Result<Self, ProxyError> {
        let inner = Inner {
            settings,
            table,
            running: Mutex::new(None),
            pid: AtomicI32::new(0),
            closing: CancellationToken::new(),
            supervisor: Mutex::default(),
        };
        if inner.settings.should_start {
            let running = match inner.find().await {
                Some(pid) => {
                    inner.pid.store(pid.as_raw(), Ordering::Relaxed);
                    tracing::info!(pid = pid.as_raw(), "found the proxy running");
                    Running::Found(pid)
                }
                None => inner.spawn(PidFile::Required).await?,
            };
            inner.set(Some(running));
        }
        Ok(Self(Arc::new(inner)))
    }

    /// From now on the proxy is started again whenever it dies, and `keeper` gives it its routes.
    pub fn supervise(&self, keeper: Keeper) {
        if !self.0.settings.should_start {
            return;
        }
        let inner = Arc::clone(&self.0);
        let supervisor = tokio::spawn(async move {
            tokio::select! {
                () = inner.closing.cancelled() => {}
                () = inner.supervise(&keeper) => {}
            }
        });
        *self
            .0
            .supervisor
            .lock()
            .expect("nothing panics under this lock") = Some(supervisor);
    }

    /// The proxy's process id.
    pub fn pid(&self) -> Option<i32> {
        Some(self.0.pid.load(Ordering::Relaxed)).filter(|pid| *pid > 0)
    }

    /// Ends the supervision, and the proxy too when `cleanup_proxy` says so.
    pub async fn stop(&self, cleanup_proxy: bool) {
        self.0.closing.cancel();
        // It may be making a process just now, which is known only when it has.
        let supervisor = self
            .0
            .supervisor
            .lock()
            .expect("nothing panics under this lock")
            .take();
        if let Some(supervisor) = supervisor
            && tokio::time::timeout(DOWN, supervisor).await.is_err()
        {
            tracing::warn!("the proxy's supervision did not end in time");
        }
        if !self.0.settings.should_start || !cleanup_proxy {
            return;
        }
        let Some(pid) = self.pid().map(Pid::from_raw) else {
            return;
        };
        let running = self
            .0
            .running
            .lock()
            .expect("nothing panics under this lock")
            .take();
        end(pid, running).await;
        self.0.forget(pid);
        // One that has been upgraded may have left its place to another, which is nobody's child.
        let words = self.0.settings.arguments();
        let program = &words[..program_words(&self.0.settings.command)];
        for _ in 0..MOST_SUCCESSORS {
            let Some(successor) = self.0.unnamed(program) else {
                break;
            };
            end(successor, None).await;
        }
    }
}

/// Whether a proxy may run whose pid file cannot be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PidFile {
    /// At the start somebody is there to mend it.
    Required,
    /// Later a full disk is no reason to close the site.
    Wished,
}

impl Inner {
    fn set(&self, running: Option<Running>) {
        *self.running.lock().expect("nothing panics under this lock") = running;
    }

    async fn supervise(&self, keeper: &Keeper) {
        let mut pause = BACKOFF.0;
        loop {
            let running = self
                .running
                .lock()
                .expect("nothing panics under this lock")
                .take();
            let Some(running) = running else { return };
            let since = Instant::now();
            // It must be there again for whoever stops it, also when this future is dropped.
            let mut lent = Lent {
                inner: self,
                running: Some(running),
            };
            let how = match &mut lent.running {
                Some(running) => running.ended().await,
                None => return,
            };
            lent.running = None;
            drop(lent);
            self.pid.store(0, Ordering::Relaxed);
            // SIGUSR2 has a proxy leave its place to a new process.
            if let Some(pid) = self.find().await {
                tracing::info!(
                    pid = pid.as_raw(),
                    "another process has taken over the proxy's place"
                );
                self.pid.store(pid.as_raw(), Ordering::Relaxed);
                self.set(Some(Running::Found(pid)));
                keeper.wake();
                continue;
            }
            tracing::error!(status = how, "the proxy has died; starting it again");
            pause = if since.elapsed() > HEALTHY {
                BACKOFF.0
            } else {
                pause.min(BACKOFF.1)
            };
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_BACKOFF);
                match self.spawn(PidFile::Wished).await {
                    Ok(running) => {
                        self.set(Some(running));
                        break;
                    }
                    Err(error) => {
                        tracing::error!(%error, "the proxy could not be started again; trying on");
                    }
                }
            }
            keeper.wake();
        }
    }

    /// The proxy that an earlier life of this hub left, if it can be used. One that cannot is ended.
    ///
    /// The pid file names it, or else, should the hub have been killed between the start and the
    /// file, its own command line and working folder tell whose it is.
    async fn find(&self) -> Option<Pid> {
        let expected = self.settings.arguments();
        let program = &expected[..program_words(&self.settings.command)];
        let named = self.pid_from_file();
        // The number may be another program's by now, or that of another hub's proxy.
        let port = self.settings.api_port.to_string();
        let alive = named.filter(|pid| {
            is_alive(*pid)
                && is_of_our_user(*pid)
                && is_called(*pid, program)
                && has_option(*pid, "--api-port", &port)
        });
        let Some(pid) = alive.or_else(|| self.unnamed(program)) else {
            // Another program may have the number now.
            if let Some(pid) = named {
                self.forget(pid);
            }
            return None;
        };
        let why = match self.table.routes().await {
            // In the same folder, but of a hub with another token and another pid file.
            Err(error) if named != Some(pid) && error.why.contains("token") => return None,
            Err(error) => error.to_string(),
            Ok(_) if is_called(pid, &expected) => {
                if named != Some(pid) {
                    self.remember(pid, PidFile::Wished).ok();
                }
                return Some(pid);
            }
            Ok(_) => "it was started with other options".to_owned(),
        };
        tracing::warn!(
            pid = pid.as_raw(),
            why,
            "stopping a proxy that is there but cannot be used"
        );
        end(pid, None).await;
        self.forget(named.unwrap_or(pid));
        None
    }

    /// A proxy at our API's port that was started in our folder, and is not in the pid file.
    fn unnamed(&self, program: &[OsString]) -> Option<Pid> {
        let folder = std::env::current_dir().ok()?;
        let port = self.settings.api_port.to_string();
        std::fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .map(Pid::from_raw)
            .find(|pid| {
                is_of_our_user(*pid)
                    && is_called(*pid, program)
                    && has_option(*pid, "--api-port", &port)
                    && std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
                    && is_alive(*pid)
            })
    }

    async fn spawn(&self, pid_file: PidFile) -> Result<Running, ProxyError> {
        let settings = &self.settings;
        // A proxy that has just ended may hold its ports for a moment longer.
        let patience = Instant::now() + LET_GO;
        while let Err(error) = self.addresses_are_free().await {
            if Instant::now() > patience {
                return Err(error);
            }
            tokio::time::sleep(LOOK).await;
        }
        let words = settings.arguments();
        let mut command = match &settings.command {
            ProxyCommand::Ours(program) => {
                let mut command = Command::new(program);
                command.args(&words[1..]);
                command
            }
            ProxyCommand::Configured(named) => {
                let program = named.first().cloned().unwrap_or_default();
                find_program(&program)?;
                // The shell sets the umask and becomes the proxy.
                let mut command = Command::new("/bin/sh");
                command
                    .arg("-c")
                    .arg(format!("umask {:03o}; exec \"$0\" \"$@\"", settings.umask))
                    .args(&words);
                command
            }
        };
        // A group of its own: a Ctrl-C meant for the hub does not end the proxy under its users.
        // What systemd gave to the hub is not the proxy's: it would speak to systemd in the hub's name.
        for variable in OF_SYSTEMD {
            command.env_remove(variable);
        }
        command
            .envs(&settings.environment)
            .env(TOKEN_VARIABLE, settings.token.expose())
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(false);
        let mut child = command.spawn().map_err(|error| ProxyError::Program {
            program: words
                .first()
                .map(|word| word.to_string_lossy().into_owned())
                .unwrap_or_default(),
            why: error.to_string(),
        })?;
        // Known at once: whoever stops the hub meanwhile must be able to end it.
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        self.pid.store(pid.unwrap_or_default(), Ordering::Relaxed);
        fault::point("proxy-made");
        // So is the file: a hub that is killed before the proxy is up must find it.
        let remembered = pid.map_or(Ok(()), |pid| self.remember(Pid::from_raw(pid), pid_file));
        fault::point("proxy-noted");
        let up = match remembered {
            Ok(()) => self.until_up(&mut child).await,
            Err(error) => Err(error),
        };
        if let Err(error) = up {
            // Should it still run, it is of no use.
            let _ = child.start_kill();
            let _ = tokio::time::timeout(DOWN, child.wait()).await;
            self.pid.store(0, Ordering::Relaxed);
            if let Some(pid) = pid {
                self.forget(Pid::from_raw(pid));
            }
            return Err(error);
        }
        tracing::info!(pid, address = settings.public_address(), "the proxy runs");
        Ok(Running::Child(child))
    }

    /// Waits until the API answers to our token, or the proxy ends.
    async fn until_up(&self, child: &mut Child) -> Result<(), ProxyError> {
        let api = self.settings.api_address();
        let asking = async {
            loop {
                match self.table.routes().await {
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, "waiting for the proxy"),
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            // Should it have ended, whatever answers is not it.
            biased;
            status = child.wait() => Err(match status {
                Ok(status) => self.why_it_ended(status).await,
                Err(error) => ProxyError::Program { program: "the proxy".to_owned(), why: error.to_string() },
            }),
            answered = tokio::time::timeout(UP, asking) => answered.map_err(|_| ProxyError::Silent(api)),
        }
    }

    async fn why_it_ended(&self, status: ExitStatus) -> ProxyError {
        self.addresses_are_free()
            .await
            .err()
            .unwrap_or(ProxyError::Ended(status))
    }

    /// Looked at before the start too: the original proxy goes on without its public port.
    async fn addresses_are_free(&self) -> Result<(), ProxyError> {
        let settings = &self.settings;
        if is_taken(&settings.api_ip, settings.api_port).await {
            return Err(match self.table.routes().await {
                Err(error) if error.why.contains("token") => {
                    ProxyError::Stranger(settings.api_address())
                }
                _ => ProxyError::Taken {
                    address: settings.api_address(),
                    option: "ConfigurableHTTPProxy.api_url",
                },
            });
        }
        let is_taken = match &settings.socket {
            Some(socket) => !crate::listen::is_free(socket),
            None => is_taken(&settings.ip, settings.port).await,
        };
        if is_taken {
            return Err(ProxyError::Taken {
                address: settings.public_address(),
                option: "JupyterHub.bind_url (or --port)",
            });
        }
        Ok(())
    }

    fn pid_from_file(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(&self.settings.pid_file).ok()?;
        text.trim()
            .parse()
            .ok()
            .filter(|pid| *pid > 1)
            .map(Pid::from_raw)
    }

    fn remember(&self, pid: Pid, file: PidFile) -> Result<(), ProxyError> {
        let path = &self.settings.pid_file;
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        match std::fs::write(path, pid.to_string()) {
            Err(error) if file == PidFile::Required => {
                Err(ProxyError::PidFile(path.clone(), error))
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the proxy's pid file was not written");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Removes the pid file if it names this process.
    fn forget(&self, pid: Pid) {
        if self.pid_from_file() == Some(pid)
            && let Err(error) = std::fs::remove_file(&self.settings.pid_file)
        {
            tracing::warn!(%error, "the proxy's pid file was not removed");
        }
    }
}

/// Gives a proxy that is waited for back when the waiting is given up.
struct Lent<'a> {
    inner: &'a Inner,
    running: Option<Running>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.inner.set(Some(running));
        }
    }
}

/// SIGTERM, and SIGKILL to one that does not heed it.
async fn end(pid: Pid, running: Option<Running>) {
    let mut child = match running {
        Some(Running::Child(child)) => Some(child),
        _ => None,
    };
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        if let Err(error) = kill(pid, signal)
            && error != Errno::ESRCH
        {
            tracing::warn!(pid = pid.as_raw(), %error, "the proxy could not be signalled");
        }
        let gone = async {
            match &mut child {
                Some(child) => {
                    let _ = child.wait().await;
                }
                None => {
                    while is_alive(pid) {
                        tokio::time::sleep(LOOK).await;
                    }
                }
            }
        };
        if tokio::time::timeout(DOWN, gone).await.is_ok() {
            return;
        }
    }
    tracing::error!(pid = pid.as_raw(), "the proxy could not be stopped");
}

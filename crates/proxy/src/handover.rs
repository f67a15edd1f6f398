//! Zero-downtime upgrade: another process of this program, which may be a newer version of it,
//! takes over the listening sockets and the routes while this one serves what it has to the end.
//!
//! The new process is a child of the old one and finds one end of a socket pair as its standard
//! input, which needs no number of a descriptor to be agreed on. Over it come the sockets
//! (`SCM_RIGHTS`), the routes, and word from the new one that it serves; see [`crate::line`]. Until
//! that word the old one serves as ever, and goes on doing so when the word does not come.

use std::{
    env, fmt,
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{
    Error,
    line::{Line, Message},
    listen::Bound,
    passed::{PassedSockets, Role},
    routes::RouteTable,
};

/// Tells a process that it succeeds the proxy with this process id, its parent.
const VARIABLE: &str = "ORRERY_PROXY_SUCCEEDS";

/// So many sockets can be passed; a proxy has eight at most.
const MOST_SOCKETS: usize = 32;

/// How long the new process waits for each thing that the old one tells.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it waits for all routes. The old one ends it before, at `--upgrade-timeout`.
const ALL_ROUTES: Duration = Duration::from_mins(10);

/// The first message, which comes with the sockets.
#[derive(Debug, Serialize, Deserialize)]
struct Passing {
    sockets: Vec<Passed>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Passed {
    role: Role,
    unix: bool,
    /// The unix socket's file, which its owner removes at the end.
    file: Option<PathBuf>,
}

/// Why the new process did not take over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandoverError {
    #[error("the program cannot be started: {0}")]
    Start(io::Error),
    #[error("the new process cannot be told what it needs: {0}")]
    Tell(io::Error),
    #[error("the new process ended ({0}); its own message is above")]
    Ended(Status),
    #[error("the new process was not ready within {} s (--upgrade-timeout)", .0.as_secs_f32())]
    Slow(Duration),
}

/// How the new process ended, if that is known.
#[derive(Debug)]
pub(crate) struct Status(Option<ExitStatus>);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => status.fmt(f),
            None => f.write_str("it closed the line"),
        }
    }
}

/// The process that has taken over.
pub(crate) struct Successor {
    pub(crate) line: Line,
    pub(crate) pid: u32,
}

/// Ends the new process when it is of no use.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.start_kill();
        }
    }
}

/// Starts the new process and returns when it serves. It is ended if it does not within `limit`,
/// and when this future is dropped.
pub(crate) async fn hand_over(
    sockets: &[(Role, Bound)],
    routes: &RouteTable,
    limit: Duration,
) -> Result<Successor, HandoverError> {
    let program = program();
    tracing::info!("Upgrading: starting {}", program.display());
    let (ours, theirs) = UnixStream::pair().map_err(HandoverError::Start)?;
    pass(&ours, sockets).map_err(HandoverError::Tell)?;
    let mut command = Command::new(&program);
    let mut arguments: Vec<_> = env::args_os().collect();
    if !arguments.is_empty() {
        // A program with several names (`configurable-http-proxy`) looks at its own.
        command.arg0(arguments.remove(0));
    }
    command
        .args(arguments)
        .env(VARIABLE, std::process::id().to_string())
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_FDNAMES")
        .stdin(Stdio::from(OwnedFd::from(theirs)));
    let child = command.spawn().map_err(HandoverError::Start)?;
    // The other end of the pair must be the child's alone, so that its end is noticed.
    drop(command);
    let mut guard = Guard(Some(child));
    let child = guard.0.as_mut().expect("it was put there just now");
    let mut line = Line::new(ours).map_err(HandoverError::Tell)?;
    let pid = child.id().unwrap_or_default();
    let ready = until_ready(&mut line, routes);
    tokio::select! {
        ready = ready => match ready {
            Ok(true) => {}
            Ok(false) => return Err(HandoverError::Ended(status(child).await)),
            // It ended before it had read everything.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                return Err(HandoverError::Ended(status(child).await));
            }
            Err(error) => return Err(HandoverError::Tell(error)),
        },
        () = tokio::time::sleep(limit) => return Err(HandoverError::Slow(limit)),
    }
    guard.0 = None;
    Ok(Successor { line, pid })
}

async fn status(child: &mut Child) -> Status {
    let ended = timeout(Duration::from_secs(1), child.wait()).await;
    Status(ended.ok().and_then(Result::ok))
}

/// Whether the word came; false when the new process is gone.
async fn until_ready(line: &mut Line, routes: &RouteTable) -> io::Result<bool> {
    let mut told = routes.version();
    line.send_changes(routes).await?;
    line.send(&Message::Complete).await?;
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            message = line.next(routes) => match message? {
                Some(Message::Ready) => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            },
            _ = looks.tick() => {
                let version = routes.version();
                if told != version {
                    told = version;
                    line.send_changes(routes).await?;
                }
            }
        }
    }
}

/// The program's file as it is on disk now: what the process was called as, else where its own
/// program was, which may have been replaced.
fn program() -> PathBuf {
    let called = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let own = env::current_exe().unwrap_or_else(|_| called.clone());
    let path = env::var_os("PATH").unwrap_or_default();
    choose_program(&called, &own, env::split_paths(&path))
}

fn choose_program(called: &Path, own: &Path, path: impl Iterator<Item = PathBuf>) -> PathBuf {
    if called.components().count() > 1 {
        if called.is_file() {
            return called.to_owned();
        }
    } else if let Some(found) = path
        .map(|folder| folder.join(called))
        .find(|program| program.is_file())
    {
        return found;
    }
    // Linux says so of a file that is not there under this name any more; another one may be.
    match own.to_str().and_then(|own| own.strip_suffix(" (deleted)")) {
        Some(own) => PathBuf::from(own),
        None => own.to_owned(),
    }
}

/// Sends the sockets. This fits into the pair's buffer, so nobody need read yet.
fn pass(to: &UnixStream, sockets: &[(Role, Bound)]) -> io::Result<()> {
    let mut passing = Passing {
        sockets: Vec::new(),
    };
    let mut descriptors = Vec::new();
    for (role, bound) in sockets {
        for descriptor in bound.descriptors() {
            descriptors.push(descriptor);
            passing.sockets.push(Passed {
                role: *role,
                unix: bound.address.is_none(),
                file: bound.file().map(Path::to_owned),
            });
        }
    }
    let mut text = serde_json::to_vec(&passing)?;
    text.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("there are too many sockets"));
    }
    let sent = sendmsg(to, &[IoSlice::new(&text)], &mut control, SendFlags::empty())?;
    if sent < text.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// The proxy whose place this one takes.
pub(crate) struct Predecessor(Line);

/// What a predecessor passes, if there is one.
pub(crate) fn receive() -> Result<Option<(PassedSockets, Predecessor)>, Error> {
    let parent = std::os::unix::process::parent_id();
    if env::var(VARIABLE).ok().and_then(|pid| pid.parse().ok()) != Some(parent) {
        return Ok(None);
    }
    let failed = |source| Error::System {
        action: "take over from the running proxy",
        source,
    };
    let line = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    // Whoever reads standard input from now on finds nothing.
    let nothing = File::open("/dev/null").map_err(failed)?;
    rustix::stdio::dup2_stdin(nothing).map_err(|error| failed(error.into()))?;
    let line = UnixStream::from(line);
    let passed = take(&line).map_err(failed)?;
    let line = Line::new(line).map_err(failed)?;
    Ok(Some((passed, Predecessor(line))))
}

/// Receives what [`pass`] sent.
fn take(from: &UnixStream) -> io::Result<PassedSockets> {
    from.set_read_timeout(Some(PATIENCE))?;
    let mut text = vec![0; 64 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // The kernel does not join what comes with descriptors to what comes after it.
    let received = recvmsg(
        from,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let passing: Passing = serde_json::from_slice(&text[..received.bytes])?;
    if passing.sockets.len() != descriptors.len() {
        return Err(io::Error::other("not all of its sockets came"));
    }
    let mut sockets = PassedSockets::default();
    for (passed, descriptor) in passing.sockets.into_iter().zip(descriptors) {
        sockets.add(passed.role, descriptor, passed.unix, passed.file);
    }
    Ok(sockets)
}

impl Predecessor {
    /// Takes over all routes.
    pub(crate) async fn take_routes(&mut self, routes: &RouteTable) -> Result<(), Error> {
        let failed = |source| Error::System {
            action: "take over the routes of the running proxy",
            source,
        };
        match timeout(ALL_ROUTES, self.0.take_table(routes)).await {
            Ok(result) => result.map_err(failed),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Tells that this proxy serves, and waits until what the old one has in files is ours.
    pub(crate) async fn relieve(mut self, routes: &RouteTable) -> Option<Line> {
        let released = async {
            self.0.send(&Message::Ready).await?;
            loop {
                match self.0.next(routes).await? {
                    Some(Message::Released) => return Ok(true),
                    Some(_) => {}
                    None => return Ok::<_, io::Error>(false),
                }
            }
        };
        match timeout(PATIENCE, released).await {
            Ok(Ok(true)) => Some(self.0),
            // It has ended, and needs nothing any more.
            Ok(Ok(false) | Err(_)) => None,
            Err(_) => {
                tracing::warn!("internal: the old proxy does not say that it stops");
                Some(self.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_on_disk_is_started() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("orrery");
        std::fs::write(&there, "").unwrap();
        let gone = PathBuf::from(format!("{} (deleted)", there.display()));
        let nowhere = || std::iter::empty();
        let path = || std::iter::once(folder.path().to_owned());
        assert_eq!(choose_program(&there, Path::new("/x"), nowhere()), there);
        assert_eq!(
            choose_program(Path::new("orrery"), Path::new("/x"), path()),
            there
        );
        assert_eq!(choose_program(Path::new("proxy"), &gone, path()), there);
        assert_eq!(
            choose_program(Path::new("/gone/orrery"), Path::new("/x"), path()),
            PathBuf::from("/x")
        );
    }

    #[test]
    fn sockets_pass_with_their_roles() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let place = crate::listen::Place::Unix(socket.clone());
        let sockets = [(Role::Api, place.bind("a test").unwrap())];
        let (one, other) = UnixStream::pair().unwrap();
        pass(&one, &sockets).unwrap();
        let mut passed = take(&other).unwrap();
        assert!(passed.take(Role::Proxy).unwrap().is_none());
        let [(_, mut ours)] = sockets;
        ours.leave_file();
        drop(ours);
        let bound = passed.take(Role::Api).unwrap().unwrap();
        assert_eq!(bound.name, socket.display().to_string());
        UnixStream::connect(&socket).expect("it is listened on still");
        drop(bound);
        assert!(!socket.exists());
    }
}

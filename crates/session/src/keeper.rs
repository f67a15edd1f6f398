//! The process that stays with a server until its end.
//!
//! The helper forks a keeper and ends; the keeper opens the PAM session, sets the limits, forks the
//! server's process and waits for it. It is root's, so that it can close the session and remove the
//! limits afterwards, and so that the server's user can do nothing to it. All that the server leaves
//! behind becomes the keeper's child and is ended with the server, whatever session or group it made
//! for itself.

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{self, Pid};
use orrery_session::proc::{self, Stat};
use orrery_session::protocol::{Answer, Fault, last_words};

use crate::limits::Group;
use crate::pam::Session;
use crate::process::{self, Forked};
use crate::start::Plan;
use crate::{DEADLINE, say};

/// Where programs are looked for when the server's environment names no `PATH`.
const FALLBACK_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// How long what a server left behind gets to end by force.
const SWEEP: Duration = Duration::from_secs(5);
/// Where a server starts whose account has no home at all.
const NEW_FOLDER: &str = "/tmp/jupyter-XXXXXX";
/// The exit code of a server's process that became no server.
const NOT_RUN: i32 = 127;

/// What did not work, for the answer.
type Problem = (Fault, String);

/// Starts a server under a keeper. `None` when the keeper has answered.
pub(crate) fn launch(plan: Plan) -> Option<Answer> {
    match fork_keeper(plan) {
        Ok(answer) => answer,
        Err(error) => Some(Answer::failed(
            Fault::System,
            format!("The server's keeper cannot be made: {error}."),
        )),
    }
}

fn fork_keeper(plan: Plan) -> nix::Result<Option<Answer>> {
    // Closes when the keeper has answered, or is gone.
    let (answered, answering) = unistd::pipe2(OFlag::O_CLOEXEC)?;
    match process::fork()? {
        Forked::Child => {
            drop(answered);
            // A keeper whose parent is gone is nobody's zombie, and a session of its own keeps the
            // signals of the hub's terminal away.
            let _ = unistd::setsid();
            match process::fork() {
                Ok(Forked::Parent(_)) => process::end_now(0),
                Ok(Forked::Child) => {
                    let mut answering = fs::File::from(answering);
                    keep(plan, || {
                        let _ = answering.write_all(b".");
                        drop(answering);
                    });
                    process::end_now(0)
                }
                Err(_) => process::end_now(1),
            }
        }
        Forked::Parent(child) => {
            drop((plan, answering));
            waitpid(child, None)?;
            let mut told = Vec::new();
            let _ = fs::File::from(answered).read_to_end(&mut told);
            if told.is_empty() {
                let message = "The server's keeper ended before the server began.";
                return Ok(Some(Answer::failed(Fault::System, message)));
            }
            Ok(None)
        }
    }
}

/// The keeper's life. `answered` is called when the answer is given.
fn keep(plan: Plan, answered: impl FnOnce()) {
    // Whoever ends the hub does not end its servers. What ends all processes of the machine or of a
    // unit ends the server too, and the keeper with it.
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        process::ignore(signal);
    }
    process::end_after(DEADLINE);
    let _ = unistd::chdir("/");
    let kept = match Kept::make(plan) {
        Ok(kept) => kept,
        Err((fault, message)) => {
            let _ = say(&Answer::failed(fault, message));
            return answered();
        }
    };
    process::end_after(0);
    // Nobody has heard that the server runs, so nobody would end it.
    let is_heard = say(&kept.started).is_ok();
    answered();
    if !is_heard {
        let _ = kill(kept.server, Signal::SIGKILL);
    }
    let ended = kept.wait();
    let _ = say(&ended);
}

/// A server that runs, and what is undone at its end.
struct Kept {
    server: Pid,
    started: Answer,
    session: Option<Session>,
    group: Option<Group>,
}

impl Kept {
    fn make(plan: Plan) -> Result<Self, Problem> {
        let system = |what: &'static str| {
            move |error: Errno| (Fault::System, format!("{what} cannot be made: {error}."))
        };
        process::adopt_orphans().map_err(system("The server's keeper"))?;
        // The machine may run out of memory by what the server does, never by the keeper.
        let oom_score = fs::read_to_string(OOM_SCORE).unwrap_or_default();
        let _ = fs::write(OOM_SCORE, "-1000");

        // The servers of all users have the same caller, and must not have a keyring in common. The
        // session's PAM modules may make a better one.
        process::leave_keyring().map_err(system("The server's keyring"))?;
        let session = match &plan.request.session {
            None => None,
            Some(session) => Some(
                Session::open(&session.service, &plan.account.name)
                    .map_err(|message| (Fault::System, message))?,
            ),
        };
        let group = match plan.request.limits.as_ref().map(Group::create) {
            None => None,
            Some(Ok(group)) => Some(group),
            Some(Err(message)) => {
                undo(session, None);
                return Err((Fault::System, message));
            }
        };
        let inherited = session
            .as_ref()
            .map(|session| session.environment.clone())
            .unwrap_or_default();
        match launch_server(plan, inherited, &oom_score, group.as_ref()) {
            Ok((server, start_time)) => Ok(Self {
                server,
                started: Answer::Started {
                    pid: server.as_raw(),
                    start_time,
                },
                session,
                group,
            }),
            Err(problem) => {
                undo(session, group);
                Err(problem)
            }
        }
    }

    /// Waits for the server, ends what it left, and undoes what was done for it.
    fn wait(self) -> Answer {
        let exit_code = wait_for(self.server);
        sweep(self.server);
        // Another process of the server's may have been killed for memory, long before its end.
        let out_of_memory = exit_code == 128 + Signal::SIGKILL as i32
            && self.group.as_ref().is_some_and(Group::was_out_of_memory);
        if !is_listened_to() {
            // The hub that started the server is gone. Its successor reads the log, once the id is free.
            let line = last_words(exit_code, out_of_memory);
            let _ = io::stderr().write_all(line.as_bytes());
        }
        // Only now is the id free again: until here it can be no other process's.
        let _ = waitpid(self.server, None);
        undo(self.session, self.group);
        Answer::Ended {
            exit_code,
            out_of_memory,
        }
    }
}

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

fn undo(session: Option<Session>, group: Option<Group>) {
    if let Some(group) = group {
        group.remove();
    }
    if let Some(session) = session {
        session.close();
    }
}

/// Forks the server's process; gives its id and start once its program runs.
fn launch_server(
    plan: Plan,
    inherited: Vec<(OsString, OsString)>,
    oom_score: &str,
    group: Option<&Group>,
) -> Result<(Pid, u64), Problem> {
    let system = |error: Errno| {
        let message = format!("The server's process cannot be made: {error}.");
        (Fault::System, message)
    };
    if !is_listened_to() {
        return Err((Fault::System, "Nobody waits for the server.".to_owned()));
    }
    let (wait, go) = unistd::pipe2(OFlag::O_CLOEXEC).map_err(system)?;
    // Closed by exec, or by the process's end with a problem in it.
    let (problems, problem) = unistd::pipe2(OFlag::O_CLOEXEC).map_err(system)?;
    let server = match process::fork().map_err(system)? {
        Forked::Child => {
            drop((go, problems));
            let mut begin = [0];
            // Without the byte the keeper gave up, or is gone.
            if matches!(fs::File::from(wait).read(&mut begin), Ok(1)) {
                let found = become_server(plan, inherited, oom_score);
                let text = serde_json::to_vec(&found).unwrap_or_default();
                let _ = fs::File::from(problem).write_all(&text);
            }
            process::end_now(NOT_RUN)
        }
        Forked::Parent(server) => server,
    };
    drop((plan, wait, problem));
    let taken_in = group.map_or(Ok(()), |group| group.take_in(server));
    if let Err(message) = taken_in {
        drop(go);
        let _ = waitpid(server, None);
        return Err((Fault::System, message));
    }
    // The server's process gives up before we do: it must never begin without us.
    process::end_after(DEADLINE);
    let _ = fs::File::from(go).write_all(b".");
    let mut text = Vec::new();
    let _ = fs::File::from(problems).read_to_end(&mut text);
    let found: Option<Problem> = serde_json::from_slice(&text).ok();
    // It was not waited for, so it is there, ended or not.
    let start_time = Stat::read(server.as_raw()).map(|stat| stat.start_time);
    match (found, start_time) {
        (None, Some(start_time)) => Ok((server, start_time)),
        (problem, _) => {
            let _ = kill(server, Signal::SIGKILL);
            let _ = waitpid(server, None);
            Err(problem.unwrap_or_else(|| {
                let message = "/proc does not show the server's process.";
                (Fault::System, message.to_owned())
            }))
        }
    }
}

/// Whether whoever asked still waits for the answer.
fn is_listened_to() -> bool {
    let output = io::stdout();
    let mut output = [PollFd::new(output.as_fd(), PollFlags::empty())];
    match poll(&mut output, PollTimeout::ZERO) {
        Ok(0) | Err(_) => true,
        Ok(_) => !output[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL)),
    }
}

/// Waits until the server's process has ended, and leaves it there as a zombie, which keeps its id.
/// What it left behind meanwhile is waited for on the way.
fn wait_for(server: Pid) -> i32 {
    loop {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        match waitid(Id::All, flags) {
            Ok(WaitStatus::Exited(pid, code)) if pid == server => return code,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == server => {
                return 128 + signal as i32;
            }
            Ok(status) => {
                // An orphan that came to us. It is waited for by name: the server must stay.
                if let Some(pid) = status.pid() {
                    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
                }
            }
            Err(Errno::EINTR) => {}
            // There is always the server to wait for.
            Err(_) => return NOT_RUN,
        }
    }
}

/// Ends all that the server left behind: its group, and whatever became our child.
fn sweep(server: Pid) {
    let deadline = Instant::now() + SWEEP;
    let own = unistd::getpid().as_raw();
    loop {
        // The zombie keeps the group's id from being given to anybody else.
        let _ = killpg(server, Signal::SIGKILL);
        let mut is_clean = true;
        for pid in proc::all().unwrap_or_default() {
            let is_left = |stat: &Stat| stat.parent == own && pid != server.as_raw();
            if Stat::read(pid).is_some_and(|stat| is_left(&stat)) {
                is_clean = false;
                // Our own children: nobody else can have their ids before we have waited for them.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            }
        }
        // Something that hangs in the kernel must not keep the hub from hearing of the end.
        if is_clean || Instant::now() >= deadline {
            return;
        }
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this program has no runtime that it could block"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

/// Makes this process the server. Comes back only with what did not work.
fn become_server(plan: Plan, inherited: Vec<(OsString, OsString)>, oom_score: &str) -> Problem {
    match try_become_server(plan, inherited, oom_score) {
        Ok(never) => match never {},
        Err(problem) => problem,
    }
}

fn try_become_server(
    plan: Plan,
    inherited: Vec<(OsString, OsString)>,
    oom_score: &str,
) -> Result<std::convert::Infallible, Problem> {
    let Plan {
        account,
        groups,
        request,
    } = plan;
    let system =
        |what: &'static str| move |error: Errno| (Fault::System, format!("{what}: {error}."));
    process::end_after(DEADLINE / 2);
    unistd::setsid().map_err(system("The server gets no session of its own"))?;
    if !oom_score.is_empty() {
        let _ = fs::write(OOM_SCORE, oom_score.trim());
    }
    connect_output().map_err(system("The server's output cannot be connected"))?;

    let name = &account.name;
    unistd::setgroups(&groups)
        .and_then(|()| unistd::setresgid(account.gid, account.gid, account.gid))
        .and_then(|()| unistd::setresuid(account.uid, account.uid, account.uid))
        .map_err(|error| {
            let message = format!("The server cannot be made {name}'s: {error}.");
            (Fault::System, message)
        })?;
    verify(&account).map_err(|()| {
        let message = format!("The server would keep rights that {name} does not have.");
        (Fault::System, message)
    })?;

    if request.session.is_none() {
        // One of the account's own; else what the keeper made stays.
        let _ = process::leave_keyring();
        let _ = process::link_own_keys();
    }
    if let Some(umask) = request.umask {
        nix::sys::stat::umask(Mode::from_bits_truncate(umask));
    }
    for file in &request.files {
        write_file(Path::new(&file.path), file.content.expose(), file.mode).map_err(|error| {
            let message = format!("{} cannot be written as {name}: {error}.", file.path);
            (Fault::System, message)
        })?;
    }
    match &request.folder {
        Some(folder) => enter(Path::new(folder), "The folder", name)?,
        None => enter_home(&account.dir, name)?,
    }

    let path = request
        .environment
        .get("PATH")
        .map_or(FALLBACK_PATH, |path| path.expose())
        .to_owned();
    let mut environment: Vec<CString> = Vec::new();
    for (variable, value) in inherited {
        if variable
            .to_str()
            .is_none_or(|variable| !request.environment.contains_key(variable))
        {
            let mut entry = variable.into_vec();
            entry.push(b'=');
            entry.extend(value.into_vec());
            environment.extend(CString::new(entry));
        }
    }
    for (variable, value) in &request.environment {
        environment.extend(CString::new(format!("{variable}={}", value.expose())));
    }
    process::seal_descriptors_from(3);
    process::default_signals();
    process::end_after(0);
    Err(execute(&request.command, &path, &environment, name))
}

/// No input, and the log for both outputs.
fn connect_output() -> nix::Result<()> {
    let null = fs::File::open("/dev/null")
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    unistd::dup2_stdin(&null)?;
    unistd::dup2_stdout(io::stderr())
}

/// Makes sure that the change of user holds and cannot be taken back.
fn verify(account: &unistd::User) -> Result<(), ()> {
    let users = unistd::getresuid().map_err(drop)?;
    let groups = unistd::getresgid().map_err(drop)?;
    let holds = [users.real, users.effective, users.saved] == [account.uid; 3]
        && [groups.real, groups.effective, groups.saved] == [account.gid; 3];
    let root = 0.into();
    if !holds || (!account.uid.is_root() && unistd::setuid(root).is_ok()) {
        return Err(());
    }
    Ok(())
}

/// Writes a file anew as whoever this process is now. A link that stands there is replaced, not followed.
fn write_file(path: &Path, content: &str, mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // Whatever the umask left of it.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content.as_bytes())
}

fn enter(folder: &Path, what: &str, user: &str) -> Result<(), Problem> {
    unistd::chdir(folder).map_err(|error| (Fault::Command, not_entered(folder, what, user, error)))
}

/// Enters the home folder. A home that is missing keeps nobody from working: what there is of the way
/// to it is entered, or a new folder, and the log says so.
fn enter_home(home: &Path, user: &str) -> Result<(), Problem> {
    let what = "The home folder";
    if home.parent().is_none() {
        return enter(Path::new("/"), what, user);
    }
    let Err(error) = unistd::chdir(home) else {
        return Ok(());
    };
    let trouble = not_entered(home, what, user, error);
    let instead = home
        .ancestors()
        .skip(1)
        // Nobody's work belongs into the machine's root.
        .filter(|folder| folder.parent().is_some())
        .find(|folder| unistd::chdir(*folder).is_ok())
        .map(Path::to_path_buf);
    let instead = match instead {
        Some(folder) => folder,
        None => unistd::mkdtemp(NEW_FOLDER)
            .and_then(|folder| unistd::chdir(&folder).map(|()| folder))
            .map_err(|error| {
                let message = format!("{trouble} Nor can a folder be made for it: {error}.");
                (Fault::Command, message)
            })?,
    };
    let line = format!(
        "orrery-session: {trouble} The server starts in {}.\n",
        instead.display()
    );
    let _ = io::stderr().write_all(line.as_bytes());
    Ok(())
}

/// Why a folder was not entered.
fn not_entered(folder: &Path, what: &str, user: &str, error: Errno) -> String {
    let place = folder.display();
    match error {
        Errno::ENOENT => format!("{what} {place} of {user} does not exist."),
        Errno::ENOTDIR => format!("{what} {place} of {user} is no folder."),
        Errno::EACCES => {
            format!("{what} {place} cannot be entered by {user}: permission denied.")
        }
        error => format!("{what} {place} cannot be entered by {user}: {error}."),
    }
}

/// Runs the command, looked for as `execvp` does. Comes back only with what did not work.
fn execute(words: &[String], path: &str, environment: &[CString], user: &str) -> Problem {
    let arguments: Vec<CString> = words
        .iter()
        .filter_map(|word| CString::new(word.as_str()).ok())
        .collect();
    let Some(name) = words.first() else {
        let message = "There is no command to start servers with.";
        return (Fault::Command, message.to_owned());
    };
    let places: Vec<PathBuf> = if name.contains('/') {
        vec![name.into()]
    } else {
        let folders = std::env::split_paths(path);
        folders.map(|folder| folder.join(name)).collect()
    };
    let mut seen = None;
    for place in places {
        let Ok(program) = CString::new(place.as_os_str().as_encoded_bytes()) else {
            continue;
        };
        let Err(error) = unistd::execve(&program, &arguments, environment);
        match error {
            Errno::ENOENT | Errno::ENOTDIR if !place.exists() => {}
            error => {
                seen.get_or_insert((place, error));
                // As execvp: only a program that may not be run lets the search go on.
                if error != Errno::EACCES {
                    break;
                }
            }
        }
    }
    let message = match seen {
        Some((program, error)) => {
            let program = program.display();
            match error {
                Errno::ENOENT => format!(
                    "{program} cannot be run: the interpreter that its first line names does not \
                     exist."
                ),
                Errno::EACCES => format!("{program} may not be run by {user}: permission denied."),
                Errno::ENOEXEC => {
                    format!("{program} cannot be run: it is neither a program nor a script.")
                }
                Errno::E2BIG => {
                    format!("{program} cannot be run: its arguments and environment are too long.")
                }
                error => format!("{program} cannot be run: {error}."),
            }
        }
        None if name.contains('/') => {
            format!("The program {name} does not exist, or {user} cannot see it.")
        }
        None => format!("The program {name} was not found in PATH ({path})."),
    };
    (Fault::Command, message)
}
